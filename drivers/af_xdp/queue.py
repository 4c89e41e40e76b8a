"""AF_XDP port, compiled half: bursts from and to the rings of a socket.

In/out: a burst, as in drivers/tap/queue.py. A received packet's payload stays in its frame until `xdp_done`,
        unless `xdp_tx` hands the frame on to another af_xdp port.
Not:  the rings themselves (rings.py), the stack of free frames (frames.py).
"""

import numpy as np

from dpu_runtime.drivers.af_xdp.frames import NO_FRAME, copy_to_frame, frames_of, give_frames, take_frames
from dpu_runtime.drivers.af_xdp.layout import (
    BURST_FRAMES,
    FRAME_SHIFT,
    PACKET_FRAMES_MAX,
    POOL_UMEM,
    SEND_FRAMES,
)
from dpu_runtime.drivers.af_xdp.rings import (
    XDP_RING_NEED_WAKEUP,
    lock_sending,
    post_frames,
    reap,
    rx_descriptor,
    rx_release,
    rx_waiting,
    tx_put,
    unlock_sending,
)
from dpu_runtime.drivers.burst import book_down
from dpu_runtime.drivers.entry import Op, entry
from dpu_runtime.drivers.linux import libc
from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import (
    BATCH_SIZE,
    BURST_BYTES_MAX,
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    HEADROOM_BYTES,
    PAYLOAD_PIECES_MAX,
)
from dpu_runtime.kernels.octets.atomic import load_acquire_u32, load_once_u32, store_release_u32
from dpu_runtime.kernels.octets.memory import address_of, copy_short, load_u64, prefetch, store_u32, store_u64
from dpu_runtime.kernels.offload.virtio_net import VNET_HDR_BYTES

KICKS_MAX = 16  # calls to have a burst sent that the device has no room for at once
PREFETCH_PACKETS = 4  # ahead of the one at hand

_0 = np.uint64(0)
_1 = np.uint64(1)
_4 = np.uint64(4)
_8 = np.uint64(8)
_16 = np.uint64(16)
_SHIFT = np.uint64(FRAME_SHIFT)
_HEADER_BYTES = np.uint64(HEADER_BYTES)
_NO_FRAME = np.uint32(NO_FRAME)
PACKETS, FRAMES, ROWS = 0, 1, 2  # words of io.xdp_burst


@entry(Op.RX)
def xdp_rx(burst, io, port):
    """Receive a burst from the queue that this worker polls.

    burst  Burst  out headers: an empty virtio-net header and the front of the frame; out meta: placement
                  fields and in_port
    io     XdpIo  out what the burst lies in; in/out counters

    Returns (packets, errno): 0 while the ring had packets, EAGAIN when it had none, ENODEV when its
    interface is gone. `xdp_done` must follow.
    """
    row = io.xdp_queues[port, np.int64(io.queue[port])]
    io.xdp_burst[PACKETS] = _0
    io.xdp_burst[FRAMES] = _0
    cursor, waiting = rx_waiting(row)
    if waiting == _0:
        error = np.int64(libc.EAGAIN)
        return np.int64(0), _look_at_quiet(io.fds[port], row) if io.watched[port] != 0 else error
    row["quiet"] = 0
    rows = address_of(burst.headers)
    row_bytes = np.uint64(burst.headers.shape[1])
    umem = io.xdp_pool[POOL_UMEM]
    packets = _0
    frames = _0
    bad = _0
    octets = _0
    first_piece = _1  # the slot in front of a list is for the row
    waiting = min(waiting, np.uint64(BURST_FRAMES))
    _prefetch_front(row, umem, cursor, min(waiting, np.uint64(PREFETCH_PACKETS)))
    while packets < np.uint64(BATCH_SIZE) and frames < waiting and octets < np.uint64(BURST_BYTES_MAX):
        address, size, more = rx_descriptor(row, cursor + frames)
        if frames + np.uint64(PREFETCH_PACKETS) < waiting:
            _prefetch_front(row, umem, cursor + frames + np.uint64(PREFETCH_PACKETS), _1)
        m = burst.meta[packets]
        io.xdp_first[packets] = frames
        front = rows + packets * row_bytes + np.uint64(HEADROOM_BYTES)
        if not more:
            count = _1
            io.xdp_frames[frames] = address >> _SHIFT
            in_row = min(size, _HEADER_BYTES)
            copy_short(front, umem + address, in_row)
            m["payload_addr"] = umem + address + _HEADER_BYTES
            m["payload_iov"] = _0
            io.xdp_payload[packets] = umem + address + _HEADER_BYTES
        else:
            count, size = _gather(io, row, cursor, frames, waiting, umem, first_piece)
            if count == _0:
                break  # its end is not there yet, or not of this burst
            in_row = _front_of_pieces(front, io.pieces, first_piece, count, size, m)
            io.xdp_payload[packets] = m["payload_iov"] if m["payload_iov"] != _0 else m["payload_addr"]
            first_piece += count + _1
        io.xdp_count[packets] = count
        frames += count
        octets += size
        if size == _0 or size > np.uint64(FRAME_BYTES_MAX) or count > np.uint64(PAYLOAD_PIECES_MAX):
            burst.drops[Drop.RUNT if size == _0 else Drop.OVERSIZE] += _1
            bad += _1
            continue
        store_u64(front - np.uint64(VNET_HDR_BYTES), _0)
        store_u32(front - _4, _0)
        m["payload_len"] = size - in_row
        m["frame_len"] = size
        m["l2_offset"] = HEADROOM_BYTES
        m["header_end"] = np.uint64(HEADROOM_BYTES) + in_row
        m["in_port"] = port
        packets += _1
    rx_release(row, cursor + frames, frames)
    post_frames(row, port, io.xdp_pool, io.xdp_free, io.xdp_holder)
    if np.int64(load_once_u32(row["fill_flags"])) & XDP_RING_NEED_WAKEUP:
        libc.recv(io.fds[port], _0, _0, np.int32(libc.MSG_DONTWAIT))
    io.xdp_burst[PACKETS] = packets
    io.xdp_burst[FRAMES] = frames
    io.xdp_burst[ROWS] = rows
    counters = io.counters[port]
    counters[PortCounter.RX_PACKETS] += packets + bad
    counters[PortCounter.RX_DROPPED] += bad
    counters[PortCounter.RX_BYTES] += octets
    counters[PortCounter.RX_CALLS] += _1
    return np.int64(packets), np.int64(0 if frames else libc.EAGAIN)


@helper
def _prefetch_front(row, umem, cursor, count):
    """Ask for the first cache lines of frames ahead of their use."""
    for k in range(count):
        address, _, _ = rx_descriptor(row, cursor + k)
        prefetch(umem + address)


@helper
def _look_at_quiet(fd, row):
    """Nothing waits: EAGAIN; ENODEV when the second look in a row finds that the interface is gone.

    A lost socket is always ready, an ordinary one that has no packet is not.
    """
    if row["quiet"] == 0:
        row["quiet"] = 1
    elif libc.recv(fd, _0, _0, np.int32(libc.MSG_DONTWAIT)) < 0 and libc.errno() == libc.ENXIO:
        return np.int64(libc.ENODEV)
    return np.int64(libc.EAGAIN)


@helper
def _gather(io, row, cursor, first, waiting, umem, piece):
    """List the frames of a packet that lies in several: (frames, octets); 0 when its end is not there."""
    count = _0
    size = _0
    more = True
    while more:
        if first + count >= waiting or piece + count >= np.uint64(len(io.pieces)):
            return _0, _0
        address, octets, more = rx_descriptor(row, cursor + first + count)
        io.xdp_frames[first + count] = address >> _SHIFT
        io.pieces[piece + count, 0] = umem + address
        io.pieces[piece + count, 1] = octets
        size += octets
        count += _1
    return count, size


@helper
def _front_of_pieces(front, pieces, first, count, size, m):
    """Copy the front of a packet in pieces into the row, from the pieces; returns octets."""
    in_row = min(size, _HEADER_BYTES)
    at = first
    done = _0
    while done < in_row:
        part = min(pieces[at, 1], in_row - done)
        copy_short(front + done, pieces[at, 0], part)
        done += part
        pieces[at, 0] += part
        pieces[at, 1] -= part
        if pieces[at, 1] == _0:
            at += _1
    m["payload_addr"] = pieces[min(at, first + count - _1), 0]
    left = size > in_row and at + _1 < first + count
    m["payload_iov"] = address_of(pieces) + at * _16 if left else _0
    return in_row


@entry(Op.DONE)
def xdp_done(io, port):
    """Make the frames of the last burst free that were not handed on."""
    if io.xdp_burst[FRAMES] != _0:
        give_frames(io.xdp_pool, io.xdp_free, io.xdp_holder, io.xdp_frames, io.xdp_burst[FRAMES])
    io.xdp_burst[PACKETS] = _0
    io.xdp_burst[FRAMES] = _0


@entry(Op.TX)
def xdp_tx(burst, io, port, first, end):
    """Send `packets[first:end]`; what the queue does not take is dropped and counted.

    A packet that came by AF_XDP and goes to this port only leaves in the frame it came in.
    """
    if io.fds[port] < 0:  # its row in shared memory says where the rings of a dead process were
        book_down(end - first, io.counters[port], burst.drops)
    else:
        _send(burst, io, port, first, end)


@helper
def _send(burst, io, port, first, end):
    """Send what goes, on the queue of this worker."""
    queue = np.int64(io.queue[port])
    row = io.xdp_queues[port, queue]
    lock = lock_sending(io.xdp_queues, port, queue)
    reap(row, io.xdp_pool, io.xdp_free, io.xdp_holder)
    begin = np.uint64(load_once_u32(row["tx_producer"]))
    limit = begin + np.uint64(SEND_FRAMES) - np.uint64(row["sending"])
    cursor = begin
    octets = _0
    sent = _0
    for k in range(np.uint64(first), np.uint64(end)):
        i = np.uint64(burst.packets[k])
        if _moves(burst, io, i, row) and cursor + np.uint64(io.xdp_count[i]) <= limit:
            used = _move(burst, io, port, row, cursor, i)
        else:
            used = _copy(burst, io, port, row, cursor, limit, i)
        cursor += used
        if used != _0:
            octets += np.uint64(burst.meta[i]["frame_len"])
            sent += _1
    store_release_u32(row["tx_producer"], cursor)
    row["sending"] += np.uint32(cursor - begin)
    unlock_sending(lock)
    if cursor != begin:
        _kick(io.fds[port], row)
    counters = io.counters[port]
    counters[PortCounter.TX_PACKETS] += sent
    counters[PortCounter.TX_BYTES] += octets
    counters[PortCounter.TX_CALLS] += _1
    counters[PortCounter.TX_DROPPED] += np.uint64(end - first) - sent


@helper
def _moves(burst, io, i, row):
    """Whether a packet can leave in the frames it came in.

    It is of the burst at hand and no segment of it, goes nowhere else, and its payload is where it was.
    """
    if i >= io.xdp_burst[PACKETS] or address_of(burst.headers) != io.xdp_burst[ROWS] or burst.copies[i] != 1:
        return False
    m = burst.meta[i]
    first = np.uint64(io.xdp_first[i])
    if io.xdp_frames[first] == _NO_FRAME:
        return False
    in_pieces = m["payload_iov"] != _0
    payload = m["payload_iov"] if in_pieces else m["payload_addr"]
    if (
        payload != io.xdp_payload[i]
        or in_pieces != (io.xdp_count[i] != 1)
        or (in_pieces and row["pieces"] == 0)
    ):
        return False
    # the row goes in front of the first piece, which lies in the packet's first frame, into the same frame
    offset = _first_octet(m) - io.xdp_pool[POOL_UMEM]
    behind = offset + np.uint64(m["header_end"]) - np.uint64(m["l2_offset"])
    frame = np.uint64(io.xdp_frames[first])
    return offset >> _SHIFT == frame and behind >> _SHIFT == frame


@helper
def _first_octet(m):
    """Address that the row of a packet has when it lies right in front of the payload."""
    payload = m["payload_addr"]
    if m["payload_iov"] != _0:
        payload = load_u64(m["payload_iov"])
    return payload + np.uint64(m["l2_offset"]) - np.uint64(m["header_end"])


@helper
def _move(burst, io, port, row, cursor, i):
    """Send a packet in the frames it came in, its row written back in front; returns descriptors."""
    m = burst.meta[i]
    begin = _first_octet(m)
    row_size = np.uint64(m["header_end"]) - np.uint64(m["l2_offset"])
    rows, row_bytes = address_of(burst.headers), np.uint64(burst.headers.shape[1])
    source = rows + i * row_bytes + np.uint64(m["l2_offset"])
    copy_short(begin, source, row_size)
    umem = io.xdp_pool[POOL_UMEM]
    first = np.uint64(io.xdp_first[i])
    left = np.uint64(m["payload_len"])
    piece = np.uint64(m["payload_iov"])
    if piece == _0:
        _hand_on(io, port, first)
        tx_put(row, cursor, begin - umem, row_size + left, False)
        return _1
    used = _0
    while left != _0:
        address = load_u64(piece)
        size = min(load_u64(piece + _8), left)
        left -= size
        _hand_on(io, port, first + used)
        if used == _0:
            tx_put(row, cursor, begin - umem, row_size + size, left != _0)
        else:
            tx_put(row, cursor + used, address - umem, size, left != _0)
        used += _1
        piece += _16
    return used


@helper
def _hand_on(io, port, k):
    """Frame `k` of the burst is the port's now."""
    io.xdp_holder[np.uint64(io.xdp_frames[k])] = port + 1
    io.xdp_frames[k] = _NO_FRAME


@helper
def _copy(burst, io, port, row, cursor, limit, i):
    """Send a copy of a packet; returns descriptors, 0: it was dropped."""
    count = frames_of(burst.meta[i]["frame_len"])
    if count > np.uint64(PACKET_FRAMES_MAX if row["pieces"] else 1):
        burst.drops[Drop.OVERSIZE] += _1
        return _0
    if cursor + count > limit or not take_frames(io.xdp_pool, io.xdp_free, io.xdp_spare, count):
        burst.drops[Drop.TX_FULL] += _1
        return _0
    for k in range(count):
        frame = np.uint64(io.xdp_spare[k])
        io.xdp_holder[frame] = port + 1
        address, size = copy_to_frame(burst.headers, burst.meta, i, k, frame, io.xdp_pool)
        tx_put(row, cursor + k, address, size, k + _1 < count)
    return count


@helper
def _kick(fd, row):
    """Have the kernel send, if it asks for that; what the device has no room for goes with the next burst."""
    if not np.int64(load_once_u32(row["tx_flags"])) & XDP_RING_NEED_WAKEUP:
        return
    for _ in range(KICKS_MAX):
        if libc.send(fd, _0, _0, np.int32(libc.MSG_DONTWAIT)) >= 0:
            return
        if load_acquire_u32(row["tx_consumer"]) == load_once_u32(row["tx_producer"]):
            return
