"""AF_PACKET port, compiled half: bursts into a transmit ring, and larger frames beside it.

Source: Documentation/networking/packet_mmap.rst, net/packet/af_packet.c (tpacket_snd).
In/out: a burst, as in drivers/tap/queue.py.
Not:    receiving (receive.py).

Small frames go into slots, and one `send` has the kernel take them all. A frame that no slot holds goes out
by `writev` once all in front of it are sent. It does so on the socket that receives: one with a transmit ring
takes frames from nowhere else.
"""

import numpy as np

from dpu_runtime.drivers.af_packet.if_packet import (
    PACKET_HEADER_BYTES,
    PACKET_LEN,
    PACKET_STATUS,
    TP_STATUS_AVAILABLE,
    TP_STATUS_SEND_REQUEST,
    TP_STATUS_SENDING,
    TP_STATUS_WRONG_FORMAT,
    VNET_BYTES,
)
from dpu_runtime.drivers.af_packet.layout import PACKET_QUEUE_DTYPE
from dpu_runtime.drivers.linux.libc import (
    EAGAIN,
    EINTR,
    ENETDOWN,
    ENOBUFS,
    ENOMEM,
    ENXIO,
    MSG_DONTWAIT,
    errno,
    send,
    writev,
)
from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.checksum.payload import PIECE_BYTES, copy_octets, piece_count
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.octets.atomic import load_acquire_u32, pause, store_release_u32, try_lock
from dpu_runtime.kernels.octets.memory import (
    address_of,
    copy_memory,
    copy_short,
    load_u16,
    load_u64,
    store_u16,
    store_u32,
    store_u64,
)
from dpu_runtime.kernels.offload.virtio_net import HDR_LEN_SHIFT, VNET_HDR_BYTES, encode_vnet

LOCK_TRIES_MAX = 1000  # some tens of microseconds: another worker's burst takes less

_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_8 = np.uint64(8)
_LOW16 = np.uint64(0xFFFF)
_VNET = np.uint64(VNET_BYTES)
_DATA = np.uint64(PACKET_HEADER_BYTES)
_ROW_BYTES = np.uint64(PACKET_QUEUE_DTYPE.itemsize)
_LOCK_OFFSET = np.uint64(PACKET_QUEUE_DTYPE.fields["tx_lock"][1])
_TAKEN = np.uint64(TP_STATUS_SEND_REQUEST | TP_STATUS_SENDING | TP_STATUS_WRONG_FORMAT)
_UNSENT = np.uint64(TP_STATUS_SEND_REQUEST | TP_STATUS_WRONG_FORMAT)


@helper
def transmit(burst, io, port, first, end):
    """Send `packets[first:end]`, in their order.

    When the ring is full, or the interface down, the rest of the burst is a counted drop, never a wait. A
    frame that the kernel refuses is dropped alone.
    """
    number = np.int64(io.queue[port])
    queue = io.packet_queues[port, number]
    row = np.uint64(port * io.packet_queues.shape[1] + number)
    lock = address_of(io.packet_queues) + row * _ROW_BYTES + _LOCK_OFFSET
    sent = _0
    octets = _0
    if not _lock(lock):
        burst.drops[Drop.TX_FULL] += np.uint64(end - first)
    else:
        k = np.int64(first)
        while k < end:
            filled = _fill(burst, queue, k, end)
            alone = False
            if filled > 0:
                done, reason, alone = _flush(queue, filled)
            elif _in_slot(queue, burst.meta[np.int64(burst.packets[k])]):
                done, reason = np.int64(0), np.int64(Drop.TX_FULL)
            else:
                done, reason = _send_plain(burst, io, port, np.int64(burst.packets[k]))
                alone = reason == Drop.TX_ERROR
            for j in range(k, k + done):
                octets += np.uint64(burst.meta[np.int64(burst.packets[j])]["frame_len"])
            sent += np.uint64(done)
            k += done
            if reason != Drop.NONE:
                lost = np.int64(1) if alone else end - k
                burst.drops[reason] += np.uint64(lost)
                k += lost
        store_release_u32(lock, _0)
    counters = io.counters[port]
    counters[PortCounter.TX_PACKETS] += sent
    counters[PortCounter.TX_DROPPED] += np.uint64(end - first) - sent
    counters[PortCounter.TX_BYTES] += octets
    counters[PortCounter.TX_CALLS] += _1


@helper
def _lock(lock):
    """Keep other workers from the ring; False when one of them does not come to an end."""
    for _ in range(LOCK_TRIES_MAX):
        if try_lock(lock):
            return True
        pause()
    return False


@helper
def _in_slot(queue, m):
    """Whether a frame goes into a slot of the ring."""
    return np.uint64(m["frame_len"]) + _VNET + _DATA <= np.uint64(queue["tx_slot_bytes"])


@helper
def _slot(queue, number):
    """Address of a slot, whose number may be past the end or before the start."""
    index = number & (np.uint64(queue["tx_slots"]) - _1)
    return np.uint64(queue["tx_addr"]) + index * np.uint64(queue["tx_slot_bytes"])


@helper
def _fill(burst, queue, first, end):
    """Put packets from `packets[first]` on into free slots, as far as they fit; returns how many."""
    headers, meta = burst.headers, burst.meta
    rows = address_of(headers)
    head = np.uint64(queue["tx_head"])
    k = first
    while k < end:
        i = np.int64(burst.packets[k])
        m = meta[i]
        if not _in_slot(queue, m):
            break
        slot = _slot(queue, head)
        if load_acquire_u32(slot + np.uint64(PACKET_STATUS)) & _TAKEN:
            break
        row = rows + np.uint64(i * headers.shape[1])
        word, tail = _vnet(row, m)
        size = np.uint64(m["frame_len"])
        # The kernel copies hdr_len octets and makes page fragments of the others, which the receiving end
        # of a veth pair copies once more: small frames are all header.
        word = word & ~(_LOW16 << HDR_LEN_SHIFT) | size << HDR_LEN_SHIFT
        data = slot + _DATA
        store_u64(data, word)
        store_u16(data + _8, tail)
        _copy_frame(headers, meta, i, row, data + _VNET)
        store_u32(slot + np.uint64(PACKET_LEN), size + _VNET)
        store_release_u32(slot + np.uint64(PACKET_STATUS), np.uint64(TP_STATUS_SEND_REQUEST))
        head += _1
        k += 1
    queue["tx_head"] = head & (np.uint64(queue["tx_slots"]) - _1)
    return np.int64(k - first)


@helper
def _vnet(row, m):
    """The virtio-net header of packet `m`: (first eight octets, last two)."""
    encode_vnet(row, m, 0)
    at = row + np.uint64(m["l2_offset"]) - np.uint64(VNET_HDR_BYTES)
    return load_u64(at), np.uint64(load_u16(at + _8))


@helper
def _copy_frame(headers, meta, i, row, target):
    """Copy packet `i` whole to `target`."""
    m = meta[i]
    l2 = np.uint64(m["l2_offset"])
    in_row = np.uint64(m["header_end"]) - l2
    copy_short(target, row + l2, in_row)
    if m["payload_len"] != 0:
        if m["payload_iov"] == _0:
            copy_memory(target + in_row, np.uint64(m["payload_addr"]), np.uint64(m["payload_len"]))
        else:
            copy_octets(headers, meta, i, m["header_end"], m["payload_len"], target + in_row)


@helper
def _flush(queue, filled):
    """Have the kernel take the last `filled` slots; returns (how many it took, why not more, `alone`).

    Slots that it did not take are emptied. With `alone` the reason is about the first of these only.
    """
    end = np.uint64(queue["tx_head"])
    begin = end - np.uint64(filled)
    error = _send(queue["tx_fd"])
    if not load_acquire_u32(_slot(queue, end - _1) + np.uint64(PACKET_STATUS)) & _UNSENT:
        return filled, np.int64(Drop.NONE), False
    done = np.int64(0)
    reason = np.int64(Drop.NONE)
    alone = False
    for j in range(filled):
        status = _slot(queue, begin + np.uint64(j)) + np.uint64(PACKET_STATUS)
        found = load_acquire_u32(status)
        if found & _UNSENT:
            if reason == Drop.NONE:
                alone = found & np.uint64(TP_STATUS_WRONG_FORMAT) != _0
                reason = np.int64(Drop.TX_ERROR) if alone else _drop_reason(error)
                done = np.int64(j)
            store_release_u32(status, np.uint64(TP_STATUS_AVAILABLE))
    queue["tx_head"] = (begin + np.uint64(done)) & (np.uint64(queue["tx_slots"]) - _1)
    return done, reason, alone


@helper
def _send(fd):
    """Have the kernel send what is in the ring; returns its error, 0 for none."""
    while send(fd, _0, _0, np.int32(MSG_DONTWAIT)) < 0:
        error = np.int64(errno())
        if error != EINTR:
            return error
    return np.int64(0)


@helper
def _send_plain(burst, io, port, i):
    """Send packet `i` by `writev`; returns (1, NONE), or (0, why not)."""
    m = burst.meta[i]
    row = address_of(burst.headers) + np.uint64(i * burst.headers.shape[1])
    word, tail = _vnet(row, m)
    begin = np.uint64(m["l2_offset"]) - _VNET
    store_u64(row + begin, word)
    store_u16(row + begin + _8, tail)
    first = address_of(io.iov)
    parts = np.int32(2) if m["payload_len"] else np.int32(1)
    if m["payload_iov"]:
        first = np.uint64(m["payload_iov"]) - PIECE_BYTES
        parts = np.int32(1 + piece_count(m))
    else:
        io.iov[2] = m["payload_addr"]
        io.iov[3] = np.uint64(m["payload_len"])
    store_u64(first, row + begin)
    store_u64(first + _8, np.uint64(m["header_end"]) - begin)
    while writev(io.fds[port], first, parts) < 0:
        error = np.int64(errno())
        if error != EINTR:
            return np.int64(0), _drop_reason(error)
    return np.int64(1), np.int64(Drop.NONE)


@helper
def _drop_reason(error):
    if error in (0, EAGAIN, ENOBUFS, ENOMEM):
        return np.int64(Drop.TX_FULL)
    if error in (ENETDOWN, ENXIO):  # down, or gone
        return np.int64(Drop.PORT_DOWN)
    return np.int64(Drop.TX_ERROR)
