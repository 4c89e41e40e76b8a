"""The compiled half of af_xdp ports, called from a test: bursts as the worker loop makes them."""

from types import SimpleNamespace

import numpy as np

from dpu_runtime.drivers.af_xdp.layout import AF_XDP_LAYOUT, HOLDER_NONE, POOL_FREE
from dpu_runtime.drivers.linux import libc
from dpu_runtime.drivers.port import Kind
from dpu_runtime.kernels.compile.jit import PYTHON_MODE
from dpu_runtime.kernels.layout import WORKERS_MAX
from tests.drivers.bursts import NOBODYS_FD, Bursts, counters_of

PORTS = 4

if PYTHON_MODE:
    libc.recv = lambda *_: 0


def shared_tables(frames):
    """The tables of PORTS ports and `frames` frames, in memory of the test's own."""
    shapes = {"xdp_queues": (PORTS, WORKERS_MAX), "xdp_pool": (16,)}
    tables = {
        name: np.zeros(shapes.get(name, (frames,)), dtype) for name, (dtype, _) in AF_XDP_LAYOUT.items()
    }
    return SimpleNamespace(port_counters=counters_of(PORTS), **tables)


class XdpBench(Bursts):
    """One worker's memory, and its bursts."""

    def __init__(self, shared):
        super().__init__(Kind.AF_XDP, shared)
        self.io.fds[:PORTS] = NOBODYS_FD
        self.shared = shared
        self.counters = shared.port_counters[0]

    def free(self):
        """Numbers of the frames on the stack."""
        return self.shared.xdp_free[: int(self.shared.xdp_pool[POOL_FREE])].tolist()

    def held(self, port):
        """Frames in a port's queues, as its rows count them, and as `xdp_holder` has them."""
        rows = self.shared.xdp_queues[port]
        counted = int(rows["posted"].sum()) + int(rows["sending"].sum())
        return counted, int((self.shared.xdp_holder == port + 1).sum())

    def unheld(self):
        """Frames in no port's queues."""
        return int((self.shared.xdp_holder == HOLDER_NONE).sum())
