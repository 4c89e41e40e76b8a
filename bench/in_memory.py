"""A DPU in memory: tables, null ports and one worker's private memory, without threads or devices.

For what calls the pipeline itself: the bench of the kernels, and the fuzzer.
"""

import os

import numpy as np

from dpu_runtime.drivers.io import huge_pages
from dpu_runtime.drivers.load import load_drivers
from dpu_runtime.drivers.port import Kind
from dpu_runtime.function import HOOKS
from dpu_runtime.kernels import layout
from dpu_runtime.kernels.acl.layout import ACL_LAYOUT, ACTION_ALLOW, Acl
from dpu_runtime.kernels.acl.table import build_stage, inactive_half, publish, write_stage
from dpu_runtime.kernels.burst import make_burst
from dpu_runtime.kernels.compile.reference import Lent
from dpu_runtime.kernels.switch import mac_table
from dpu_runtime.plane.program import Programs, Stages
from dpu_runtime.plane.shared import SharedState, regions_of
from dpu_runtime.plane.worker_thread import load_fused, make_worker
from dpu_runtime.registry import functions, order

ALL_OFFLOADS = (
    layout.PORT_TX_CSUM | layout.PORT_TX_TSO4 | layout.PORT_TX_TSO6 | layout.PORT_TX_USO | layout.PORT_TX_ECN
)


class InMemory:
    """Arguments of `dpu_runtime.plane.worker.pipeline`: worker and burst; and the tables' writers.

    on       names of stages in the programs of all ports: as in a daemon, what rules need is added
    workers  with rows in the tables; `worker` is the first of them
    more     functions beside those of the registry
    tasks    names of tasks that run
    """

    def __init__(self, on=("switch_admit", "switch", "switch_tags"), workers=1, more=(), tasks=()):
        self.functions = (*functions(), *more)
        self.shared = SharedState.create(workers, regions_of(self.functions))
        os.close(self.shared.fd)  # mapped, and nobody else will
        settings = self.shared.of("switch").settings
        settings[mac_table.AGEING_TICKS] = mac_table.ageing_ticks(mac_table.MAC_AGEING_SECONDS)
        self.worker, self.burst, self.stages, self.programs = self.make_private(workers)
        self.arena = huge_pages(layout.ARENA_BYTES)  # for payloads
        self.on, self.tasks = set(on), tasks
        self._set_programs()

    def _set_programs(self):
        set_programs(self.programs, self.on, self.functions, self.tasks)

    def make_private(self, workers):
        """The private memory of its worker."""
        return make_private(self.shared, 0, workers, self.functions)

    def switch_on(self, *names):
        """Have these stages in the programs of all ports too."""
        if not self.on.issuperset(names):
            self.on.update(names)
            self._set_programs()

    def add_port(self, index, flags=layout.PORT_UP | ALL_OFFLOADS, mtu=1500, mac=0, vlan=0, trunk=()):
        """A null port; its descriptor is its index, which no system call will see."""
        row = self.shared.ports[index]
        row["mac"], row["mtu"], row["vlan"] = mac, mtu, vlan
        row["kind"] = Kind.NULL
        row["flags"] = flags | (layout.PORT_TRUNK if trunk else 0)
        for allowed in trunk:
            self.shared.of("switch").vlan_allowed[index, allowed // 64] |= np.uint64(1 << (allowed % 64))
        self.worker.io.fds[index] = index
        self.shared.of("switch").settings[mac_table.PORTS_WITH_VLAN] += np.uint64(vlan != 0)
        listed = np.flatnonzero(self.shared.ports["kind"])
        mac_table.write_active_ports(self.shared.active_ports, listed)

    def set_rules(self, hook, rules, default=ACTION_ALLOW):
        """Put AclRules in force at `hook`, "ingress" or "egress"."""
        arrays = self.shared.of("acl")
        acl = Acl(**{name: getattr(arrays, f"{hook}_{name}") for name in ACL_LAYOUT})
        write_stage(inactive_half(acl), build_stage(rules, default))
        publish(acl)
        if rules or default != ACTION_ALLOW:
            self.switch_on(f"acl_{hook}")


def make_private(shared, number, workers, declared=None):
    """The private memory of a worker, ready to run over null ports: (worker, burst, Stages, Programs)."""
    burst = Lent(make_burst(number, shared))
    return make_ready(shared, burst, *make_worker(shared, number, workers, burst), declared)


def make_ready(shared, burst, worker, frame, declared=None):
    """The same, of a worker, burst and frame that are made already, lent."""
    load_drivers(worker.io, burst, shared, [Kind.NULL])
    load_fused(burst, frame)
    stages = Stages(shared, burst.number, burst, declared or functions())
    return worker, burst, stages, Programs(frame, stages)


def set_programs(programs, on, declared=None, tasks=()):
    """Have the stages `on` in the programs of all ports."""
    stages = order(declared or functions())
    every = list(range(layout.PORTS_MAX))
    named = {hook: [stage.name for stage in stages[hook] if stage.name in on] for hook in HOOKS}
    programs.set([{"hook": hook, "stages": names, "ports": every} for hook, names in named.items()], tasks)
