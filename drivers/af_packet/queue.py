"""AF_PACKET port, compiled half."""

import numpy as np

from drivers.libc import ENODEV
from kernels.jit import helper


@helper
def packet_rx(io, port, headers, meta, counters, drops):
    """Receive a burst; returns (packets, errno) as `tap_rx` does."""
    return np.int64(0), np.int64(ENODEV)


@helper
def packet_done(io, port):
    """Give back what the packets of the last burst lay in: they are sent."""


@helper
def packet_tx(io, port, headers, meta, order, count, counters, drops):
    """Send packets `order[:count]`; what the queue does not take is dropped and counted."""
