"""AF_PACKET port, compiled half: bursts out of a receive ring.

In/out: a burst, as in drivers/tap/queue.py. A received packet's payload stays in the ring until
        `give_back`, after the burst was sent.
Not:    the two forms of the ring (blocks.py, slots.py), sending (transmit.py).
"""

import numpy as np

from dpu_runtime.drivers.af_packet.blocks import give_blocks, take_from_blocks
from dpu_runtime.drivers.af_packet.if_packet import (
    SOL_PACKET,
    STATISTICS_BYTES,
    STATISTICS_DROPS,
    TPACKET_V3,
    PacketOption,
)
from dpu_runtime.drivers.af_packet.slots import give_slots, take_from_slots
from dpu_runtime.drivers.linux.libc import (
    EAGAIN,
    ENETDOWN,
    ENODEV,
    SO_ERROR,
    SOL_SOCKET,
    errno,
    getsockname,
    getsockopt,
)
from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.octets.memory import address_of, load_u32, store_u32

SLL_IFINDEX_OFFSET = 4  # octets, struct sockaddr_ll, packet(7)
SLL_BYTES = 20

_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_4 = np.uint64(4)
_8 = np.uint64(8)


@helper
def receive(burst, io, port):
    """Receive a burst from the queue of this worker: BATCH_SIZE packets or BURST_BYTES_MAX at most.

    burst  Burst     out headers: vnet header and front of the frame; out meta: placement fields and in_port
    io     PacketIo  in/out counters

    Returns (packets, errno): errno is 0 while the burst was cut short, EAGAIN when nothing is left, ENODEV
    when the interface is gone. `give_back` must follow.
    """
    queue = io.packet_queues[port, np.int64(io.queue[port])]
    if queue["rx_version"] == TPACKET_V3:
        count, bad, octets, more, losing = take_from_blocks(burst, queue, port)
    else:
        count, bad, octets, more, losing = take_from_slots(burst, io, queue, port)
    counters = io.counters[port]
    error = np.int64(0) if more else np.int64(EAGAIN)
    if losing:
        counters[PortCounter.RX_MISSED] += _missed(io, port)
    if count + bad == _0 and not more and io.watched[port] != 0:
        error = _pending_error(io, port)
    counters[PortCounter.RX_PACKETS] += count + bad
    counters[PortCounter.RX_BYTES] += octets
    counters[PortCounter.RX_DROPPED] += bad
    counters[PortCounter.RX_CALLS] += _1
    return np.int64(count), error


@helper
def give_back(io, port):
    """Give back to the kernel what the last burst lay in: it is sent."""
    queue = io.packet_queues[port, np.int64(io.queue[port])]
    if queue["rx_version"] == TPACKET_V3:
        give_blocks(queue)
    else:
        give_slots(queue)


@helper
def _missed(io, port):
    """Packets that the kernel lost since the last call, for want of room."""
    value = address_of(io.words)
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
    value = address_of(io.words)
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
