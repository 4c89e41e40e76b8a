"""Receive and transmit bursts by port kind: the one place where the worker loop meets the drivers.

numba cannot cache a call through a function value, so the kind number chooses here.
"""

import numpy as np

from drivers.af_packet.receive import packet_done, packet_rx
from drivers.af_packet.transmit import packet_tx
from drivers.af_xdp.queue import xdp_done, xdp_rx, xdp_tx
from drivers.libc import ENODEV
from drivers.null.queue import null_rx, null_tx
from drivers.port import Kind, PortCounter
from drivers.tap.queue import tap_rx, tap_tx
from drivers.vhost_user.queue import vhost_ask_kicks, vhost_done, vhost_kicked, vhost_rx, vhost_tx
from kernels.drops import Drop
from kernels.jit import helper


@helper
def rx_burst(kind, io, port, headers, meta, counters, drops):
    """Receive a burst from a queue; returns (packets, errno) as `tap_rx` does."""
    if kind == Kind.TAP:
        return tap_rx(io.fds[port], port, headers, meta, io.arena, io.iov, counters, drops)
    if kind == Kind.VHOST_USER:
        return vhost_rx(io, port, headers, meta, counters, drops)
    if kind == Kind.AF_PACKET:
        return packet_rx(io, port, headers, meta, counters, drops)
    if kind == Kind.AF_XDP:
        return xdp_rx(io, port, headers, meta, counters, drops)
    if kind == Kind.NULL:
        return null_rx(counters)
    return np.int64(0), np.int64(ENODEV)


@helper
def rx_done(kind, io, port):
    """Give back what the packets of the last burst lay in: they are sent."""
    if kind == Kind.VHOST_USER:
        vhost_done(io, port)
    elif kind == Kind.AF_PACKET:
        packet_done(io, port)
    elif kind == Kind.AF_XDP:
        xdp_done(io, port)


@helper
def tx_burst(kind, io, port, headers, meta, order, count, counters, drops):
    """Send packets `order[:count]`; what the queue does not take is dropped and counted."""
    mapped = io.fds[port] >= 0  # if not, where the rings are is what a dead process said
    if kind == Kind.TAP:
        tap_tx(io.fds[port], headers, meta, order, count, io.iov, counters, drops)
    elif kind == Kind.VHOST_USER:
        vhost_tx(io, port, headers, meta, order, count, counters, drops)
    elif kind == Kind.AF_PACKET and mapped:
        packet_tx(io, port, headers, meta, order, count, counters, drops)
    elif kind == Kind.AF_XDP and mapped:
        xdp_tx(io, port, headers, meta, order, count, counters, drops)
    elif kind == Kind.NULL:
        null_tx(io.fds[port], headers, meta, order, count, io.iov, counters, drops)
    else:
        drops[Drop.PORT_DOWN] += np.uint64(count)
        counters[PortCounter.TX_DROPPED] += np.uint64(count)


# only vhost_user ports have rings that somebody kicks
ring_kicked = vhost_kicked
ask_kicks = vhost_ask_kicks
