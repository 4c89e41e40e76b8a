"""The loop of loop.py over ports of libdpu: packets are written and checked where the DPU has them.

Spec: drivers/host/dpu.h.   In/out: a `Traffic`, ports by address.
The library must be loaded before this file's machine code is, host_ports.py: a cached call of a function
that is not there is a segmentation fault.
"""

import numpy as np
from numba import types

from bench.generator.layout import BURST, TICK_SHIFT, Count
from bench.generator.loop import RX_BURSTS, due, note_sent, template_of
from bench.generator.receive import receive_frame
from bench.generator.stamp import put_front, write_stamp
from dpu_runtime.host.packet import BUF_DTYPE
from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import HEADER_BYTES
from dpu_runtime.kernels.octets.memory import address_of, copy_memory, cycles, load_u32, load_u64, store_u32

_QUEUE = np.int32(0)
_0 = np.uint64(0)
_1 = np.uint64(1)
_8 = np.uint64(8)
_SHIFT = np.uint64(TICK_SHIFT)
_LOW32 = np.uint64(0xFFFF_FFFF)
_ROW = np.uint64(HEADER_BYTES)
_DATA, _NEXT, _LEN = (np.uint64(BUF_DTYPE.fields[name][1]) for name in ("data", "next", "len"))


def _burst(name, result):
    """A function of the library that takes (port, queue, bufs, count)."""
    return types.ExternalFunction(name, result(types.uint64, types.int32, types.uint64, types.int32))


dpu_buf_alloc = _burst("dpu_buf_alloc", types.int32)
dpu_buf_free = _burst("dpu_buf_free", types.void)
dpu_rx_burst = _burst("dpu_rx_burst", types.int32)
dpu_tx_burst = _burst("dpu_tx_burst", types.int32)


@helper
def _fill(traffic, bufs, count, stream, now):
    """Make the next `count` packets in the buffers whose handles lie at address `bufs`."""
    ticks = (now >> _SHIFT) & _LOW32
    for k in range(np.uint64(count)):
        index = template_of(traffic, k)
        template = traffic.templates[index]
        buf = load_u64(bufs + _8 * np.uint64(k))
        frame = load_u64(buf + _DATA)
        put_front(traffic.rows, index, template, frame)
        size = np.uint64(template["payload_len"])
        if size != _0:
            copy_memory(frame + _ROW, np.uint64(template["payload_addr"]), size)
        write_stamp(frame, template, traffic.counts[Count.SENT] + np.uint64(k), ticks, stream)
        store_u32(buf + _LEN, np.uint64(template["frame_len"]))


@helper
def _send_some(port, traffic, stream, now, epoch):
    count = due(traffic, now - epoch)
    if count == 0:
        return
    bufs = address_of(traffic.handles)
    filled = np.int64(dpu_buf_alloc(port, _QUEUE, bufs, np.int32(count)))
    _fill(traffic, bufs, filled, stream, now)
    sent = np.int64(dpu_tx_burst(port, _QUEUE, bufs, np.int32(filled)))
    if sent < 0:
        traffic.drops[Drop.PORT_DOWN] += _1
        sent = np.int64(0)
    octets = _0
    for k in range(np.uint64(sent)):
        octets += np.uint64(traffic.templates[template_of(traffic, k)]["frame_len"])
    if sent < filled:
        dpu_buf_free(port, _QUEUE, bufs + _8 * np.uint64(sent), np.int32(filled - sent))
    note_sent(traffic, count, sent, octets)


@helper
def _receive_some(port, traffic, stream):
    """Receive a burst; returns packets."""
    bufs = address_of(traffic.handles) + _8 * np.uint64(BURST)
    got = np.int64(dpu_rx_burst(port, _QUEUE, bufs, np.int32(BURST)))
    if got <= 0:
        return np.int64(0)
    now = cycles()
    for k in range(np.uint64(got)):
        buf = load_u64(bufs + _8 * np.uint64(k))
        # a packet in pieces is longer than any of ours
        size = np.uint64(load_u32(buf + _LEN)) if load_u64(buf + _NEXT) == _0 else _0
        receive_frame(
            load_u64(buf + _DATA),
            size,
            _0,
            _0,
            stream,
            now,
            traffic.counts,
            traffic.seen,
            traffic.latencies,
        )
    dpu_buf_free(port, _QUEUE, bufs, np.int32(got))
    return got


@kernel
def exchange_host(tx_port, rx_port, traffic, stream, epoch, until, sending):
    """Like loop.exchange; ports are addresses, uint64, of a `struct dpu_port`, `rx_port` 0: none."""
    now = cycles()
    while now < until:
        if sending:
            _send_some(tx_port, traffic, stream, now, epoch)
        for _ in range(RX_BURSTS if rx_port != _0 else 0):
            if _receive_some(rx_port, traffic, stream) < BURST:
                break
        now = cycles()
