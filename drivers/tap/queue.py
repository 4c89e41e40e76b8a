"""TAP port, compiled half: bursts of `readv` and `writev` on one queue.

Source: linux/if_tun.h; tun takes and gives one packet a call.
In/out: a burst; the virtio-net header lies in the row, right in front of the frame.
"""

import numpy as np

from dpu_runtime.drivers.entry import Op, entry
from dpu_runtime.drivers.linux.libc import EAGAIN, EINTR, EIO, ENOBUFS, ENOMEM, errno, readv, writev
from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.checksum.payload import PIECE_BYTES, piece_count
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import (
    BATCH_SIZE,
    BURST_BYTES_MAX,
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    HEADROOM_BYTES,
)
from dpu_runtime.kernels.octets.memory import address_of, store_u64
from dpu_runtime.kernels.offload.virtio_net import VNET_HDR_BYTES, encode_vnet

PAYLOAD_BYTES_MAX = FRAME_BYTES_MAX + 1 - HEADER_BYTES  # octets; one more than fits shows a truncation
_CACHE_LINE = np.uint64(63)


@entry(Op.RX)
def tap_rx(burst, io, port):
    """Receive a burst from a queue: until it is empty, BATCH_SIZE packets or BURST_BYTES_MAX.

    burst  Burst  out headers: vnet header and frame; out meta: placement fields and in_port
    io     TapIo  out arena: payloads one after another; in/out counters

    Returns (packets, errno): errno is 0 while the burst was cut short, EAGAIN when the queue
    is empty, else the device's error.
    """
    headers, iov, counters = burst.headers, io.iov, io.counters[port]
    count = 0
    octets = np.uint64(0)
    error = np.int64(0)
    front = address_of(headers) + np.uint64(HEADROOM_BYTES - VNET_HDR_BYTES)
    free = address_of(io.arena)
    iov[1] = np.uint64(VNET_HDR_BYTES + HEADER_BYTES)
    iov[3] = np.uint64(PAYLOAD_BYTES_MAX)
    while count < BATCH_SIZE and octets < BURST_BYTES_MAX:
        iov[0] = front + np.uint64(count * headers.shape[1])
        iov[2] = free
        got = readv(io.fds[port], address_of(iov), np.int32(2))
        if got < 0:
            error = np.int64(errno())
            if error == EINTR:
                continue
            break
        size = got - VNET_HDR_BYTES
        if size <= 0 or size > FRAME_BYTES_MAX:
            counters[PortCounter.RX_PACKETS] += np.uint64(1)
            counters[PortCounter.RX_DROPPED] += np.uint64(1)
            burst.drops[Drop.RX_TRUNCATED] += np.uint64(1)
            continue
        m = burst.meta[count]
        in_row = min(size, HEADER_BYTES)
        m["payload_addr"] = free
        m["payload_len"] = size - in_row
        m["payload_iov"] = 0
        m["frame_len"] = size
        m["l2_offset"] = HEADROOM_BYTES
        m["header_end"] = HEADROOM_BYTES + in_row
        m["in_port"] = port
        free = (free + np.uint64(size - in_row) + _CACHE_LINE) & ~_CACHE_LINE
        octets += np.uint64(size)
        count += 1
    counters[PortCounter.RX_PACKETS] += np.uint64(count)
    counters[PortCounter.RX_BYTES] += octets
    counters[PortCounter.RX_CALLS] += np.uint64(1)
    return count, error


@entry(Op.TX)
def tap_tx(burst, io, port, first, end):
    """Send `packets[first:end]`, one `writev` each.

    A queue that is full, or an interface that is down, is a counted drop, never a wait.
    """
    headers, iov, counters = burst.headers, io.iov, io.counters[port]
    sent = np.uint64(0)
    octets = np.uint64(0)
    rows = address_of(headers)
    for k in range(first, end):
        i = np.int64(burst.packets[k])
        m = burst.meta[i]
        encode_vnet(rows + np.uint64(i * headers.shape[1]), m, 0)
        begin = np.uint64(m["l2_offset"]) - np.uint64(VNET_HDR_BYTES)
        list_at = address_of(iov)
        parts = np.int32(2) if m["payload_len"] else np.int32(1)
        if m["payload_iov"]:
            list_at = np.uint64(m["payload_iov"]) - PIECE_BYTES
            parts = np.int32(1 + piece_count(m))
        else:
            iov[2] = m["payload_addr"]
            iov[3] = np.uint64(m["payload_len"])
        store_u64(list_at, rows + np.uint64(i * headers.shape[1]) + begin)
        store_u64(list_at + np.uint64(8), np.uint64(m["header_end"]) - begin)
        got = writev(io.fds[port], list_at, parts)
        while got < 0 and errno() == EINTR:
            got = writev(io.fds[port], list_at, parts)
        if got < 0:
            burst.drops[_tx_drop_reason(errno())] += np.uint64(1)
            counters[PortCounter.TX_DROPPED] += np.uint64(1)
        else:
            sent += np.uint64(1)
            octets += np.uint64(m["frame_len"])
    counters[PortCounter.TX_PACKETS] += sent
    counters[PortCounter.TX_BYTES] += octets
    counters[PortCounter.TX_CALLS] += np.uint64(1)


@helper
def _tx_drop_reason(error):
    if error in (EAGAIN, ENOBUFS, ENOMEM):
        return np.int64(Drop.TX_FULL)
    if error == EIO:  # tun: the interface is down
        return np.int64(Drop.PORT_DOWN)
    return np.int64(Drop.TX_ERROR)
