"""TPACKET_V2: the kernel hands every packet over at once, each in a slot of the receive ring.

Source: Documentation/networking/packet_mmap.rst, net/packet/af_packet.c (tpacket_rcv).
In/out: a burst, as in receive.py.

A packet that no slot holds is kept whole in the socket's queue as well (PACKET_COPY_THRESH), and read there.
The cursor is the number of slots taken so far.
"""

import numpy as np

from dpu_runtime.drivers.af_packet.frame import finish_row, frame_into_row
from dpu_runtime.drivers.af_packet.if_packet import (
    SLOT_LEN,
    SLOT_MAC,
    SLOT_SNAPLEN,
    SLOT_STATUS,
    SLOT_TCI,
    SLOT_TPID,
    TP_STATUS_COPY,
    TP_STATUS_KERNEL,
    TP_STATUS_LOSING,
    TP_STATUS_USER,
    VNET_BYTES,
)
from dpu_runtime.drivers.linux.libc import EINTR, errno, readv
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import (
    BATCH_SIZE,
    BURST_BYTES_MAX,
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    HEADROOM_BYTES,
)
from dpu_runtime.kernels.octets.atomic import load_acquire_u32, store_release_u32
from dpu_runtime.kernels.octets.memory import address_of, load_u16, load_u32, prefetch

_0 = np.uint64(0)
_1 = np.uint64(1)
_AHEAD = np.uint64(4)  # slots
_64 = np.uint64(64)
_LOW32 = np.uint64(0xFFFF_FFFF)
_LINE = np.uint64(63)
_FRONT = np.uint64(HEADROOM_BYTES - VNET_BYTES)


@helper
def take_from_slots(burst, io, queue, port):
    """Take a burst; returns (packets, those dropped besides, octets, whether more wait, any were lost)."""
    headers, meta = burst.headers, burst.meta
    cursor = np.uint64(queue["rx_cursor"])
    rows = address_of(headers)
    arena = address_of(io.arena)
    count = _0  # unsigned: an index that might be negative costs a comparison
    bad = _0
    octets = _0
    more = True
    losing = False
    while count < np.uint64(BATCH_SIZE) and octets < np.uint64(BURST_BYTES_MAX):
        slot = _slot(queue, cursor)
        status = np.uint64(load_acquire_u32(slot + np.uint64(SLOT_STATUS)))
        if not status & np.uint64(TP_STATUS_USER):
            more = False
            break
        ahead = _slot(queue, cursor + _AHEAD)
        prefetch(ahead)
        prefetch(ahead + _64)
        losing |= status & np.uint64(TP_STATUS_LOSING) != _0
        row = rows + count * np.uint64(headers.shape[1])
        if status & np.uint64(TP_STATUS_COPY):
            reason = _read_whole(io, slot, arena, status, row, meta[count], port)
        else:
            reason = _into_row(slot, status, row, meta[count], port)
        cursor = (cursor + _1) & _LOW32
        if reason == Drop.NONE:
            if status & np.uint64(TP_STATUS_COPY):
                arena = (arena + np.uint64(meta[count]["payload_len"]) + _LINE) & ~_LINE
            octets += np.uint64(meta[count]["frame_len"])
            count += _1
        else:
            burst.drops[reason] += _1
            bad += _1
    queue["rx_cursor"] = cursor
    return count, bad, octets, more, losing


@helper
def give_slots(queue):
    """Give back the slots that were taken."""
    given = np.uint64(queue["rx_given"])
    here = np.uint64(queue["rx_cursor"])
    while given != here:
        store_release_u32(_slot(queue, given) + np.uint64(SLOT_STATUS), np.uint64(TP_STATUS_KERNEL))
        given = (given + _1) & _LOW32
        queue["rx_given"] = given


@helper
def _slot(queue, number):
    """Address of a slot, the ring counted round and round."""
    index = number & (np.uint64(queue["rx_units"]) - _1)
    return np.uint64(queue["rx_addr"]) + index * np.uint64(queue["rx_unit_bytes"])


@helper
def _into_row(slot, status, row, m, port):
    """Make a packet of the burst out of a slot; returns a drop reason."""
    size = np.uint64(load_u32(slot + np.uint64(SLOT_LEN)))
    if size == _0 or load_u32(slot + np.uint64(SLOT_SNAPLEN)) != size:
        return np.int64(Drop.RX_TRUNCATED)
    frame = slot + np.uint64(load_u16(slot + np.uint64(SLOT_MAC)))
    frame_into_row(frame, size, row, m, port)
    _finish(slot, status, frame - np.uint64(VNET_BYTES), size, row, m)
    return np.int64(Drop.NONE)


@helper
def _read_whole(io, slot, arena, status, row, m, port):
    """Read the packet of a slot that does not hold it, its payload to `arena`; returns a drop reason."""
    io.iov[0] = row + _FRONT
    io.iov[1] = np.uint64(VNET_BYTES + HEADER_BYTES)
    io.iov[2] = arena
    io.iov[3] = np.uint64(FRAME_BYTES_MAX + 1 - HEADER_BYTES)  # one more than fits shows a truncation
    got = readv(io.fds[port], address_of(io.iov), np.int32(2))
    while got < 0:
        if errno() != EINTR:
            return np.int64(Drop.RX_ERROR)
        got = readv(io.fds[port], address_of(io.iov), np.int32(2))
    size = np.uint64(load_u32(slot + np.uint64(SLOT_LEN)))
    if size > FRAME_BYTES_MAX or np.uint64(got) != size + np.uint64(VNET_BYTES):
        return np.int64(Drop.RX_TRUNCATED)
    in_row = min(size, np.uint64(HEADER_BYTES))
    m["payload_addr"] = arena
    m["payload_len"] = size - in_row
    m["payload_iov"] = 0
    m["header_end"] = np.uint64(HEADROOM_BYTES) + in_row
    m["in_port"] = port
    _finish(slot, status, row + _FRONT, size, row, m)
    return np.int64(Drop.NONE)


@helper
def _finish(slot, status, vnet_at, size, row, m):
    tci = np.uint64(load_u16(slot + np.uint64(SLOT_TCI)))
    tpid = np.uint64(load_u16(slot + np.uint64(SLOT_TPID)))
    finish_row(vnet_at, size, status, tci, tpid, row, m)
