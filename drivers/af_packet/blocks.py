"""TPACKET_V3: the kernel fills block after block of the receive ring and hands each over as a whole.

Source: Documentation/networking/packet_mmap.rst.
In/out: a burst, as in receive.py.

The cursor is the block's sequence number above the octet where its next packet begins, 0: at its first.
"""

import numpy as np

from dpu_runtime.drivers.af_packet.frame import finish_row, frame_into_row
from dpu_runtime.drivers.af_packet.if_packet import (
    BLOCK_FIRST,
    BLOCK_PACKETS,
    BLOCK_STATUS,
    PACKET_LEN,
    PACKET_MAC,
    PACKET_NEXT,
    PACKET_SNAPLEN,
    PACKET_STATUS,
    PACKET_TCI,
    PACKET_TPID,
    TP_STATUS_KERNEL,
    TP_STATUS_LOSING,
    TP_STATUS_USER,
    VNET_BYTES,
)
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import BATCH_SIZE, BURST_BYTES_MAX, FRAME_BYTES_MAX
from dpu_runtime.kernels.octets.atomic import load_acquire_u32, store_release_u32
from dpu_runtime.kernels.octets.memory import address_of, load_u16, load_u32, prefetch

_0 = np.uint64(0)
_1 = np.uint64(1)
_64 = np.uint64(64)
_128 = np.uint64(128)
_CURSOR_SHIFT = np.uint64(32)
_LOW32 = np.uint64(0xFFFF_FFFF)


@helper
def take_from_blocks(burst, queue, port):
    """Take a burst; returns (packets, those dropped besides, octets, whether more wait, any were lost)."""
    headers, meta = burst.headers, burst.meta
    sequence = np.uint64(queue["rx_cursor"]) >> _CURSOR_SHIFT
    at = np.uint64(queue["rx_cursor"]) & _LOW32
    rows = address_of(headers)
    count = _0  # unsigned: an index that might be negative costs a comparison
    bad = _0
    octets = _0
    more = True
    losing = False
    while count < np.uint64(BATCH_SIZE) and octets < np.uint64(BURST_BYTES_MAX):
        block = _block(queue, sequence)
        if at == _0:
            status = np.uint64(load_acquire_u32(block + np.uint64(BLOCK_STATUS)))
            if not status & np.uint64(TP_STATUS_USER):
                more = False
                break
            losing |= status & np.uint64(TP_STATUS_LOSING) != _0
            if load_u32(block + np.uint64(BLOCK_PACKETS)) == 0:
                sequence = (sequence + _1) & _LOW32
                continue
            at = np.uint64(load_u32(block + np.uint64(BLOCK_FIRST)))
        packet = block + at
        following = np.uint64(load_u32(packet + np.uint64(PACKET_NEXT)))
        _fetch(packet + following)
        reason = _into_row(packet, rows + count * np.uint64(headers.shape[1]), meta[count], port)
        if reason == Drop.NONE:
            octets += np.uint64(meta[count]["frame_len"])
            count += _1
        else:
            burst.drops[reason] += _1
            bad += _1
        at += following
        if following == _0:
            at = _0
            sequence = (sequence + _1) & _LOW32
    queue["rx_cursor"] = sequence << _CURSOR_SHIFT | at
    return count, bad, octets, more, losing


@helper
def give_blocks(queue):
    """Give back the blocks that nothing is left of."""
    given = np.uint64(queue["rx_given"])
    here = np.uint64(queue["rx_cursor"]) >> _CURSOR_SHIFT
    while given != here:
        store_release_u32(_block(queue, given) + np.uint64(BLOCK_STATUS), np.uint64(TP_STATUS_KERNEL))
        given = (given + _1) & _LOW32
        queue["rx_given"] = given


@helper
def _block(queue, sequence):
    """Address of the block with this sequence number."""
    number = (sequence - _1) & (np.uint64(queue["rx_units"]) - _1)
    return np.uint64(queue["rx_addr"]) + number * np.uint64(queue["rx_unit_bytes"])


@helper
def _fetch(packet):
    """Ask for what will be read of the next packet: its header and the front of its frame."""
    prefetch(packet)
    prefetch(packet + _64)
    prefetch(packet + _128)


@helper
def _into_row(packet, row, m, port):
    """Make a packet of the burst; returns a drop reason."""
    size = np.uint64(load_u32(packet + np.uint64(PACKET_LEN)))
    if size == _0 or size > FRAME_BYTES_MAX or load_u32(packet + np.uint64(PACKET_SNAPLEN)) != size:
        return np.int64(Drop.RX_TRUNCATED)
    frame = packet + np.uint64(load_u16(packet + np.uint64(PACKET_MAC)))
    frame_into_row(frame, size, row, m, port)
    status = np.uint64(load_u32(packet + np.uint64(PACKET_STATUS)))
    tci = np.uint64(load_u16(packet + np.uint64(PACKET_TCI)))
    tpid = np.uint64(load_u16(packet + np.uint64(PACKET_TPID)))
    finish_row(frame - np.uint64(VNET_BYTES), size, status, tci, tpid, row, m)
    return np.int64(Drop.NONE)
