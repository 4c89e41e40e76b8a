"""Receive and transmit bursts by port kind: the one place where the worker loop meets the drivers.

The choice is a look-up of the driver's entry point, drivers/entry.py.
"""

import numpy as np

from dpu_runtime.drivers.entry import Op, call_ask_kicks, call_done, call_kicked, call_rx, call_tx
from dpu_runtime.drivers.linux.libc import ENODEV
from dpu_runtime.drivers.port import Kind, PortCounter
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.drops import Drop

_NONE = np.uint64(0)


@helper
def rx_burst(kind, io, port, headers, meta, counters, drops):
    """Receive a burst from a queue; returns (packets, errno) as `tap_rx` does."""
    entry = io.entries[kind, Op.RX]
    if entry == _NONE:
        return np.int64(0), np.int64(ENODEV)
    return call_rx(entry, io, port, headers, meta, counters, drops)


@helper
def rx_done(kind, io, port):
    """Give back what the packets of the last burst lay in: they are sent."""
    entry = io.entries[kind, Op.DONE]
    if entry != _NONE:
        call_done(entry, io, port)


@helper
def tx_burst(kind, io, port, headers, meta, order, count, counters, drops):
    """Send packets `order[:count]`; what the queue does not take is dropped and counted."""
    entry = io.entries[kind, Op.TX]
    if entry != _NONE:
        call_tx(entry, io, port, headers, meta, order, count, counters, drops)
    else:
        drops[Drop.PORT_DOWN] += np.uint64(count)
        counters[PortCounter.TX_DROPPED] += np.uint64(count)


@helper
def ring_kicked(io, port, ring):
    """A kick came on a ring; only vhost_user ports have rings that somebody kicks."""
    call_kicked(io.entries[Kind.VHOST_USER, Op.KICKED], io, port, ring)


@helper
def ask_kicks(io, port):
    """Ask for a kick on every ring of a port; returns whether a packet waits already."""
    return call_ask_kicks(io.entries[Kind.VHOST_USER, Op.ASK_KICKS], io, port)
