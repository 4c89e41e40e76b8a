"""The generator's own limit: the same packets straight from sender to receiver, as many as go.

Kernel interfaces: the two ends of a veth pair. libdpu: two ports of a DPU, joined by xconnect, which is the
least that there is between two vhost-user sockets.
"""

import contextlib
import os
import tempfile
from pathlib import Path

from bench.generator.generator import Generator
from bench.generator.host_ports import LIBDPU, HostPorts
from bench.generator.ports import KernelPorts
from bench.peers import vhost_dpu
from bench.peers.wires import INTERFACE, Direct


@contextlib.contextmanager
def straight(transport):
    """Ports with nothing in between that loses or keeps a packet."""
    with contextlib.ExitStack() as stack:
        last_cpu = os.cpu_count() - 1  # away from the generator's
        if transport == LIBDPU:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dpu-bench-"))
            sockets = [str(Path(folder, f"{end}.sock")) for end in ("tx", "rx")]
            stack.enter_context(vhost_dpu.VhostDpu(sockets, last_cpu, folder, vhost_dpu.JOINED))
            ports = HostPorts(*sockets)
        else:
            wires = stack.enter_context(Direct(last_cpu, gro=True)).wires
            ports = KernelPorts(
                transport, *((f"pid:{end.pid}", INTERFACE) for end in (wires.near, wires.far))
            )
        with contextlib.closing(ports):
            yield ports


def own_limit(transport, pool, seconds, rate=0):
    """Report of a trial straight to the receiver."""
    with straight(transport) as ports:
        return Generator(ports, pool).trial(rate, seconds)
