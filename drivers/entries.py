"""The entry points of every driver, and how they come into `ENTRIES`.

A new driver adds its functions here: an RX and a TX at least, with the arguments drivers/entry.py gives.
"""

import numpy as np

from dpu_runtime.drivers.af_packet.receive import packet_done, packet_rx
from dpu_runtime.drivers.af_packet.transmit import packet_tx
from dpu_runtime.drivers.af_xdp.queue import xdp_done, xdp_rx, xdp_tx
from dpu_runtime.drivers.entry import ENTRIES, Op, agree
from dpu_runtime.drivers.null.queue import null_rx, null_tx
from dpu_runtime.drivers.port import Kind, PortCounter
from dpu_runtime.drivers.tap.queue import tap_rx, tap_tx
from dpu_runtime.drivers.vhost_user.queue import vhost_ask_kicks, vhost_done, vhost_kicked, vhost_rx, vhost_tx
from dpu_runtime.kernels.compile.entry import entry_address
from dpu_runtime.kernels.compile.jit import PYTHON_MODE, helper, kernel
from dpu_runtime.kernels.compile.parallel import Job
from dpu_runtime.kernels.compile.reference import Lent
from dpu_runtime.kernels.drops import Drop

if not PYTHON_MODE:
    from numba import typeof, types


@kernel
def _tap_rx(io, port, headers, meta, counters, drops):
    return tap_rx(io.fds[port], port, headers, meta, io.arena, io.iov, counters, drops)


@kernel
def _tap_tx(io, port, headers, meta, order, count, counters, drops):
    tap_tx(io.fds[port], headers, meta, order, count, io.iov, counters, drops)


@kernel
def _null_rx(io, port, headers, meta, counters, drops):
    return null_rx(counters)


@kernel
def _null_tx(io, port, headers, meta, order, count, counters, drops):
    null_tx(meta, order, count, counters)


@kernel
def _vhost_rx(io, port, headers, meta, counters, drops):
    return vhost_rx(io, port, headers, meta, counters, drops)


@kernel
def _vhost_done(io, port):
    vhost_done(io, port)


@kernel
def _vhost_tx(io, port, headers, meta, order, count, counters, drops):
    vhost_tx(io, port, headers, meta, order, count, counters, drops)


@kernel
def _vhost_kicked(io, port, ring):
    vhost_kicked(io, port, ring)


@kernel
def _vhost_ask_kicks(io, port):
    return vhost_ask_kicks(io, port)


@helper
def _lose(count, counters, drops):
    """Drop a burst for a port whose rings this process has not mapped: where they are, a dead one said."""
    drops[Drop.PORT_DOWN] += np.uint64(count)
    counters[PortCounter.TX_DROPPED] += np.uint64(count)


@kernel
def _packet_rx(io, port, headers, meta, counters, drops):
    return packet_rx(io, port, headers, meta, counters, drops)


@kernel
def _packet_done(io, port):
    packet_done(io, port)


@kernel
def _packet_tx(io, port, headers, meta, order, count, counters, drops):
    if io.fds[port] >= 0:
        packet_tx(io, port, headers, meta, order, count, counters, drops)
    else:
        _lose(count, counters, drops)


@kernel
def _xdp_rx(io, port, headers, meta, counters, drops):
    return xdp_rx(io, port, headers, meta, counters, drops)


@kernel
def _xdp_done(io, port):
    xdp_done(io, port)


@kernel
def _xdp_tx(io, port, headers, meta, order, count, counters, drops):
    if io.fds[port] >= 0:
        xdp_tx(io, port, headers, meta, order, count, counters, drops)
    else:
        _lose(count, counters, drops)


DRIVERS = {
    Kind.TAP: {Op.RX: _tap_rx, Op.TX: _tap_tx},
    Kind.NULL: {Op.RX: _null_rx, Op.TX: _null_tx},
    Kind.VHOST_USER: {
        Op.RX: _vhost_rx,
        Op.DONE: _vhost_done,
        Op.TX: _vhost_tx,
        Op.KICKED: _vhost_kicked,
        Op.ASK_KICKS: _vhost_ask_kicks,
    },
    Kind.AF_PACKET: {Op.RX: _packet_rx, Op.DONE: _packet_done, Op.TX: _packet_tx},
    Kind.AF_XDP: {Op.RX: _xdp_rx, Op.DONE: _xdp_done, Op.TX: _xdp_tx},
}


def _signatures(io, batch, drops):
    """Types of the arguments of each kind of entry point, of what a worker has."""
    reference, port, counters = typeof(Lent(io)), types.int64, typeof(io.counters[0])
    rows, meta, order, drops = (typeof(array) for array in (batch.headers, batch.meta, batch.order, drops))
    return {
        Op.RX: (reference, port, rows, meta, counters, drops),
        Op.DONE: (reference, port),
        Op.TX: (reference, port, rows, meta, order, types.int64, counters, drops),
        Op.KICKED: (reference, port, types.int64),
        Op.ASK_KICKS: (reference, port),
    }


def driver_jobs(io, batch, drops):
    """A Job for each entry point of every driver; the arguments are `load_entries`'s."""
    if PYTHON_MODE:
        return []
    signatures = _signatures(io, batch, drops)
    functions = [(op, function) for entries in DRIVERS.values() for op, function in entries.items()]
    return [Job(function.__name__.lstrip("_"), function, signatures[op]) for op, function in functions]


def load_drivers(io, batch, drops):
    """Have the entry points of every driver; the arguments are `load_entries`'s."""
    for kind in DRIVERS:
        load_entries(kind, io, batch, drops)


def load_entries(kind, io, batch, drops):
    """Load or compile the entry points of a driver, and write their addresses to `ENTRIES`.

    io     a PortIo, as every worker's but for the values   batch  a worker's batch
    drops  uint64[DROP_COUNT], a worker's drop counters
    """
    for op, function in DRIVERS[kind].items():
        passed = () if PYTHON_MODE else _signatures(io, batch, drops)[op]
        agree(op, passed)
        ENTRIES[kind, op] = entry_address(function, passed)
