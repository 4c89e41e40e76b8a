"""TAP port, compiled half: bursts of `readv` and `writev` on one queue.

Source: linux/if_tun.h; tun takes and gives one packet a call.
In/out: a batch; the virtio-net header lies in the row, right in front of the frame.
"""

import numpy as np

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


@helper
def tap_rx(fd, port, headers, meta, arena, iov, counters, drops):
    """Receive a burst from `fd`: until it is empty, BATCH_SIZE packets or BURST_BYTES_MAX.

    headers   uint8[BATCH_SIZE, ROW_BYTES]   out, vnet header and frame
    meta      META_DTYPE[BATCH_SIZE]         out, placement fields and in_port
    arena     uint8[ARENA_BYTES]             out, payloads one after another
    iov       uint64[4]                      scratch
    counters  uint64[PORT_COUNTER_COUNT]     in/out, this worker's of this port

    Returns (packets, errno): errno is 0 while the burst was cut short, EAGAIN when the queue
    is empty, else the device's error.
    """
    count = 0
    octets = np.uint64(0)
    error = np.int64(0)
    front = address_of(headers) + np.uint64(HEADROOM_BYTES - VNET_HDR_BYTES)
    free = address_of(arena)
    iov[1] = np.uint64(VNET_HDR_BYTES + HEADER_BYTES)
    iov[3] = np.uint64(PAYLOAD_BYTES_MAX)
    while count < BATCH_SIZE and octets < BURST_BYTES_MAX:
        iov[0] = front + np.uint64(count * headers.shape[1])
        iov[2] = free
        got = readv(np.int32(fd), address_of(iov), np.int32(2))
        if got < 0:
            error = np.int64(errno())
            if error == EINTR:
                continue
            break
        size = got - VNET_HDR_BYTES
        if size <= 0 or size > FRAME_BYTES_MAX:
            counters[PortCounter.RX_PACKETS] += np.uint64(1)
            counters[PortCounter.RX_DROPPED] += np.uint64(1)
            drops[Drop.RX_TRUNCATED] += np.uint64(1)
            continue
        m = meta[count]
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


@helper
def tap_tx(fd, headers, meta, order, count, iov, counters, drops):
    """Send packets `order[:count]` of a batch, one `writev` each.

    A queue that is full, or an interface that is down, is a counted drop, never a wait.
    """
    sent = np.uint64(0)
    octets = np.uint64(0)
    rows = address_of(headers)
    for k in range(count):
        i = np.int64(order[k])
        m = meta[i]
        encode_vnet(rows + np.uint64(i * headers.shape[1]), m, 0)
        begin = np.uint64(m["l2_offset"]) - np.uint64(VNET_HDR_BYTES)
        first = address_of(iov)
        parts = np.int32(2) if m["payload_len"] else np.int32(1)
        if m["payload_iov"]:
            first = np.uint64(m["payload_iov"]) - PIECE_BYTES
            parts = np.int32(1 + piece_count(m))
        else:
            iov[2] = m["payload_addr"]
            iov[3] = np.uint64(m["payload_len"])
        store_u64(first, rows + np.uint64(i * headers.shape[1]) + begin)
        store_u64(first + np.uint64(8), np.uint64(m["header_end"]) - begin)
        got = writev(np.int32(fd), first, parts)
        while got < 0 and errno() == EINTR:
            got = writev(np.int32(fd), first, parts)
        if got < 0:
            drops[_tx_drop_reason(errno())] += np.uint64(1)
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
