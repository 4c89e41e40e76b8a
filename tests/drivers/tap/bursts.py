"""The compiled half of a TAP port, called from a test: bursts as the worker loop makes them."""

from types import SimpleNamespace

from dpu_runtime.drivers.port import Kind
from tests.drivers.bursts import Bursts, counters_of
from tests.kernels.batches import FILL

IN_PORT = 5


class Queue(Bursts):
    """One queue with its counters and the memory of a worker."""

    def __init__(self, fd):
        super().__init__(Kind.TAP, SimpleNamespace(port_counters=counters_of(IN_PORT + 1)), port=IN_PORT)
        self.io.fds[IN_PORT] = fd
        self.io.arena[:] = FILL
