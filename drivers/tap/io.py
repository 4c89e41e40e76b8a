"""What a worker keeps for TAP ports."""

from collections import namedtuple

import numpy as np

from dpu_runtime.drivers.io import huge_pages
from dpu_runtime.kernels.layout import ARENA_BYTES

TapIo = namedtuple(
    "TapIo",
    [
        "fds",  # of drivers/io.py
        "counters",
        "arena",  # uint8[ARENA_BYTES], payloads of a burst
        "iov",  # uint64[4], struct iovec[2]
    ],
)


def make_state(io, _shared):
    """Allocate it; `io` is the worker's PortIo."""
    return TapIo(fds=io.fds, counters=io.counters, arena=huge_pages(ARENA_BYTES), iov=np.zeros(4, np.uint64))
