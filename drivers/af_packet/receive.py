"""AF_PACKET port, compiled half: bursts out of a TPACKET_V3 receive ring.

Source: Documentation/networking/packet_mmap.rst.
In/out: a batch, as in drivers/tap/queue.py. A received packet's payload stays in the ring until
        `packet_done`, after the burst was sent.
Not:    sending (transmit.py).

The kernel fills block after block and hands each over as a whole. A tag that it took off the frame is
put back.
"""

import numpy as np

from drivers.af_packet.if_packet import (
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
    SOL_PACKET,
    STATISTICS_BYTES,
    STATISTICS_DROPS,
    TP_STATUS_KERNEL,
    TP_STATUS_LOSING,
    TP_STATUS_USER,
    TP_STATUS_VLAN_TPID_VALID,
    TP_STATUS_VLAN_VALID,
    VNET_BYTES,
    PacketOption,
)
from drivers.libc import EAGAIN, ENETDOWN, ENODEV, SO_ERROR, SOL_SOCKET, errno, getsockname, getsockopt
from drivers.port import PortCounter
from kernels.atomic import load_acquire_u32, store_release_u32
from kernels.drops import Drop
from kernels.jit import helper
from kernels.layout import (
    BATCH_SIZE,
    BURST_BYTES_MAX,
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    HEADROOM_BYTES,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
)
from kernels.memory import (
    address_of,
    copy_short,
    load_u16,
    load_u32,
    load_u64,
    prefetch,
    store_u16,
    store_u32,
    store_u64,
)
from kernels.payload import TAG_BYTES
from kernels.virtio_net import CSUM_START_SHIFT, GSO_TYPE_SHIFT, HDR_LEN_SHIFT, VNET_HDR_BYTES

ETHERTYPE_VLAN = 0x8100  # IEEE 802.1Q 9.4
SLL_IFINDEX_OFFSET = 4  # octets, struct sockaddr_ll, packet(7)
SLL_BYTES = 20

_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_4 = np.uint64(4)
_8 = np.uint64(8)
_64 = np.uint64(64)
_CURSOR_SHIFT = np.uint64(32)
_LOW8 = np.uint64(0xFF)
_LOW32 = np.uint64(0xFFFF_FFFF)
_HEADROOM = np.uint64(HEADROOM_BYTES)
_TAG = np.uint64(TAG_BYTES)
_VNET = np.uint64(VNET_BYTES)
_MAC_ADDRESSES = np.uint64(12)
_NEEDS_CSUM = np.uint64(VIRTIO_NET_HDR_F_NEEDS_CSUM)


@helper
def packet_rx(io, port, headers, meta, counters, drops):
    """Receive a burst from the queue of this worker: BATCH_SIZE packets or BURST_BYTES_MAX at most.

    headers   uint8[BATCH_SIZE, ROW_BYTES]   out, vnet header and front of the frame
    meta      META_DTYPE[BATCH_SIZE]         out, placement fields and in_port
    counters  uint64[PORT_COUNTER_COUNT]     in/out, this worker's of this port

    Returns (packets, errno): errno is 0 while the burst was cut short, EAGAIN when no block is left, ENODEV
    when the interface is gone. `packet_done` must follow.
    """
    queue = io.packet_queues[port, np.int64(io.queue[port])]
    sequence = np.uint64(queue["rx_cursor"]) >> _CURSOR_SHIFT
    at = np.uint64(queue["rx_cursor"]) & _LOW32
    rows = address_of(headers)
    count = _0  # unsigned: an index that might be negative costs a comparison
    bad = _0
    octets = _0
    error = np.int64(0)
    while count < np.uint64(BATCH_SIZE) and octets < np.uint64(BURST_BYTES_MAX):
        block = _block(queue, sequence)
        if at == _0:
            status = np.uint64(load_acquire_u32(block + np.uint64(BLOCK_STATUS)))
            if not status & np.uint64(TP_STATUS_USER):
                error = np.int64(EAGAIN)
                break
            if status & np.uint64(TP_STATUS_LOSING):
                counters[PortCounter.RX_MISSED] += _missed(io, port)
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
            drops[reason] += _1
            bad += _1
        at += following
        if following == _0:
            at = _0
            sequence = (sequence + _1) & _LOW32
    queue["rx_cursor"] = sequence << _CURSOR_SHIFT | at
    if count + bad == _0 and error == EAGAIN:
        error = _pending_error(io, port)
    counters[PortCounter.RX_PACKETS] += count + bad
    counters[PortCounter.RX_BYTES] += octets
    counters[PortCounter.RX_DROPPED] += bad
    counters[PortCounter.RX_CALLS] += _1
    return np.int64(count), error


@helper
def packet_done(io, port):
    """Give back the blocks that nothing is left of: what was taken is sent."""
    queue = io.packet_queues[port, np.int64(io.queue[port])]
    given = np.uint64(queue["rx_given"])
    here = np.uint64(queue["rx_cursor"]) >> _CURSOR_SHIFT
    while given != here:
        store_release_u32(_block(queue, given) + np.uint64(BLOCK_STATUS), np.uint64(TP_STATUS_KERNEL))
        given = (given + _1) & _LOW32
        queue["rx_given"] = given


@helper
def _block(queue, sequence):
    """Address of the block with this sequence number."""
    number = (sequence - _1) & (np.uint64(queue["rx_blocks"]) - _1)
    return np.uint64(queue["rx_addr"]) + number * np.uint64(queue["rx_block_bytes"])


@helper
def _fetch(packet):
    """Ask for what will be read of the next packet: its header and the front of its frame."""
    prefetch(packet)
    prefetch(packet + _64)
    prefetch(packet + _2 * _64)


@helper
def _into_row(packet, row, m, port):
    """Copy the front of a frame into its row and describe it in `m`; returns a drop reason."""
    size = np.uint64(load_u32(packet + np.uint64(PACKET_LEN)))
    if size == _0 or size > FRAME_BYTES_MAX or load_u32(packet + np.uint64(PACKET_SNAPLEN)) != size:
        return np.int64(Drop.RX_TRUNCATED)
    frame = packet + np.uint64(load_u16(packet + np.uint64(PACKET_MAC)))
    in_row = min(size, np.uint64(HEADER_BYTES))
    copy_short(row + _HEADROOM, frame, in_row)
    vnet = load_u64(frame - _VNET)
    l2 = _HEADROOM
    status = np.uint64(load_u32(packet + np.uint64(PACKET_STATUS)))
    if status & np.uint64(TP_STATUS_VLAN_VALID):
        l2 -= _TAG
        _put_tag_back(packet, status, row + l2)
        vnet = _shifted(vnet)
    store_u64(row + l2 - np.uint64(VNET_HDR_BYTES), vnet)
    store_u32(row + l2 - _4, np.uint64(load_u16(frame - _2)))  # csum_offset; no num_buffers
    m["payload_addr"] = frame + in_row
    m["payload_len"] = size - in_row
    m["payload_iov"] = 0
    m["frame_len"] = size + _HEADROOM - l2
    m["l2_offset"] = l2
    m["header_end"] = _HEADROOM + in_row
    m["in_port"] = port
    return np.int64(Drop.NONE)


@helper
def _put_tag_back(packet, status, l2):
    """Move the MAC addresses four octets forward, to `l2`, and put the tag behind them."""
    store_u64(l2, load_u64(l2 + _TAG))
    store_u32(l2 + _8, np.uint64(load_u32(l2 + _TAG + _8)))
    tpid = np.uint64(ETHERTYPE_VLAN)
    if status & np.uint64(TP_STATUS_VLAN_TPID_VALID):
        tpid = np.uint64(load_u16(packet + np.uint64(PACKET_TPID)))
    _store_big_endian(l2 + _MAC_ADDRESSES, tpid)
    _store_big_endian(l2 + _MAC_ADDRESSES + _2, np.uint64(load_u16(packet + np.uint64(PACKET_TCI))))


@helper
def _store_big_endian(addr, value):
    store_u16(addr, value >> _8 | (value & _LOW8) << _8)


@helper
def _shifted(vnet):
    """The first octets of a virtio-net header whose frame has become longer by a tag."""
    if vnet & _NEEDS_CSUM:
        vnet += _TAG << CSUM_START_SHIFT
    if (vnet >> GSO_TYPE_SHIFT) & _LOW8:
        vnet += _TAG << HDR_LEN_SHIFT
    return vnet


@helper
def _missed(io, port):
    """Packets that the kernel lost since the last call, for want of a free block."""
    value = address_of(io.pieces)
    size = value + np.uint64(STATISTICS_BYTES)
    store_u32(size, np.uint64(STATISTICS_BYTES))
    option = np.int32(PacketOption.PACKET_STATISTICS)
    if getsockopt(io.fds[port], np.int32(SOL_PACKET), option, value, size) != 0:
        return _0
    return np.uint64(load_u32(value + np.uint64(STATISTICS_DROPS)))


@helper
def _pending_error(io, port):
    """Why a queue without packets was looked at: EAGAIN, for nothing; ENODEV, the interface is gone.

    An interface that goes down leaves an error that epoll would name for ever; reading it clears it, and
    packets come again when the interface is up.
    """
    value = address_of(io.pieces)
    size = value + _8
    store_u32(size, _4)
    if getsockopt(io.fds[port], np.int32(SOL_SOCKET), np.int32(SO_ERROR), value, size) != 0:
        return np.int64(errno())
    if load_u32(value) != ENETDOWN:
        return np.int64(EAGAIN)
    address = value + _2 * _8
    store_u32(size, np.uint64(SLL_BYTES))
    if getsockname(io.fds[port], address, size) != 0:
        return np.int64(errno())
    gone = np.int32(load_u32(address + np.uint64(SLL_IFINDEX_OFFSET))) == -1
    return np.int64(ENODEV) if gone else np.int64(EAGAIN)
