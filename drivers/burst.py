"""Receive and transmit bursts by port kind: the one place where the worker loop meets the drivers.

The choice is a look-up of the driver's entry point and state, drivers/entry.py.

    burst  Burst, kernels/burst.py, lent     io  PortIo, drivers/io.py
"""

import numpy as np

from dpu_runtime.drivers.entry import Op, call_ask_kicks, call_done, call_kicked, call_rx, call_tx
from dpu_runtime.drivers.linux.libc import ENODEV
from dpu_runtime.drivers.port import Kind, PortCounter
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.drops import Drop

_NONE = np.uint64(0)


@helper
def rx_burst(kind, burst, io, port):
    """Receive a burst from a queue; returns (packets, errno) as `tap_rx` does."""
    entry = io.entries[kind, Op.RX]
    if entry == _NONE:
        return np.int64(0), np.int64(ENODEV)
    return call_rx(entry, burst, io.states[kind], port)


@helper
def rx_done(kind, io, port):
    """Give back what the packets of the last burst lay in: they are sent."""
    entry = io.entries[kind, Op.DONE]
    if entry != _NONE:
        call_done(entry, io.states[kind], port)


@helper
def tx_burst(kind, burst, io, port, first, end):
    """Send `packets[first:end]`; what the queue does not take is dropped and counted."""
    entry = io.entries[kind, Op.TX]
    if entry != _NONE:
        call_tx(entry, burst, io.states[kind], port, first, end)
    else:
        book_down(end - first, io.counters[port], burst.drops)


@helper
def book_down(count, counters, drops):
    """Count `count` packets as dropped that a port was to send, which is not there."""
    drops[Drop.PORT_DOWN] += np.uint64(count)
    counters[PortCounter.TX_DROPPED] += np.uint64(count)


@helper
def ring_kicked(io, port, ring):
    """A kick came on a ring; only vhost_user ports have rings that somebody kicks."""
    call_kicked(io.entries[Kind.VHOST_USER, Op.KICKED], io.states[Kind.VHOST_USER], port, ring)


@helper
def ask_kicks(io, port):
    """Ask for a kick on every ring of a port; returns whether a packet waits already."""
    return call_ask_kicks(io.entries[Kind.VHOST_USER, Op.ASK_KICKS], io.states[Kind.VHOST_USER], port)
