"""A DPU in memory: tables, null ports and one worker's private memory, without threads or devices.

For what calls the pipeline itself: the bench of the kernels, and the fuzzer.
"""

import os

import numpy as np

from dpu_runtime.drivers.entries import load_entries
from dpu_runtime.drivers.port import Kind
from dpu_runtime.kernels import layout
from dpu_runtime.kernels.acl.layout import ACTION_ALLOW
from dpu_runtime.kernels.acl.table import build_stage, inactive_slot, publish, write_stage
from dpu_runtime.kernels.compile.reference import Lent
from dpu_runtime.kernels.switch import mac_table
from dpu_runtime.plane.batch import make_batch
from dpu_runtime.plane.shared import Control, SharedState
from dpu_runtime.plane.worker_thread import make_worker, shared_tables

ALL_OFFLOADS = (
    layout.PORT_TX_CSUM | layout.PORT_TX_TSO4 | layout.PORT_TX_TSO6 | layout.PORT_TX_USO | layout.PORT_TX_ECN
)


class InMemory:
    """Arguments of `dpu_runtime.plane.worker.pipeline`: worker, tables, batch; and the tables' writers.

    workers  with rows in the tables; `worker` is the first of them
    """

    def __init__(self, workers=1):
        self.shared = SharedState.create(workers)
        os.close(self.shared.fd)  # mapped, and nobody else will
        self.shared.control[Control.MAC_AGEING_TICKS] = mac_table.ageing_ticks(mac_table.MAC_AGEING_SECONDS)
        self.tables = Lent(shared_tables(self.shared))
        self.batch = Lent(make_batch())
        self.worker = Lent(make_worker(self.shared, 0, workers, self.batch))
        load_entries(Kind.NULL, self.worker.io, self.batch, self.shared.drops[0])

    def add_port(self, index, flags=layout.PORT_UP | ALL_OFFLOADS, mtu=1500, mac=0, vlan=0, trunk=()):
        """A null port; its descriptor is its index, which no system call will see."""
        row = self.shared.ports[index]
        row["mac"], row["mtu"], row["vlan"] = mac, mtu, vlan
        row["kind"] = Kind.NULL
        row["flags"] = flags | (layout.PORT_TRUNK if trunk else 0)
        for allowed in trunk:
            self.shared.of("switch").vlan_allowed[index, allowed // 64] |= np.uint64(1 << (allowed % 64))
        self.worker.io.fds[index] = index
        listed = np.flatnonzero(self.shared.ports["kind"])
        mac_table.write_active_ports(self.shared.active_ports, listed)

    def set_rules(self, stage, rules, default=ACTION_ALLOW):
        """Put AclRules in force in `stage`, "ingress" or "egress"."""
        acl = getattr(self.tables, f"acl_{stage}")
        write_stage(inactive_slot(acl), build_stage(rules, default))
        publish(acl)
