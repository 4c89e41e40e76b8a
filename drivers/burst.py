"""Receive and transmit bursts by port kind: the one place where the worker loop meets the drivers.

numba cannot cache a call through a function value, so the kind number chooses here.
"""

import numpy as np

from drivers.libc import ENODEV
from drivers.null.queue import null_rx, null_tx
from drivers.port import Kind
from drivers.tap.queue import tap_rx, tap_tx
from kernels.jit import helper


@helper
def rx_burst(kind, fd, port, headers, meta, arena, iov, counters, drops):
    """Receive a burst from a queue; returns (packets, errno) as `tap_rx` does."""
    if kind == Kind.TAP:
        return tap_rx(fd, port, headers, meta, arena, iov, counters, drops)
    if kind == Kind.NULL:
        return null_rx(counters)
    return np.int64(0), np.int64(ENODEV)


@helper
def tx_burst(kind, fd, headers, meta, order, count, iov, counters, drops):
    """Send packets `order[:count]`; what the queue does not take is dropped and counted."""
    if kind == Kind.TAP:
        tap_tx(fd, headers, meta, order, count, iov, counters, drops)
    elif kind == Kind.NULL:
        null_tx(fd, headers, meta, order, count, iov, counters, drops)
