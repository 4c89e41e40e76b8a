"""Frames between a batch's rows and lists of guest buffers.

In:   struct iovec lists of chain.py; rows with the virtio-net header right in front of the frame.
Out:  a row and its meta, the payload left where the guest put it; or the guest's buffers filled.
Spec: virtio 1.2 5.1.6 (struct virtio_net_hdr), 5.1.6.3.1 and 5.1.6.4 (num_buffers, ANY_LAYOUT).
"""

import numpy as np

from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import FRAME_BYTES_MAX, HEADER_BYTES, HEADROOM_BYTES
from dpu_runtime.kernels.octets.memory import address_of, copy_short, load_u64
from dpu_runtime.kernels.offload.virtio_net import VNET_HDR_BYTES

FRONT_BYTES = VNET_HDR_BYTES + HEADER_BYTES  # octets of a buffer that go into the row

_0 = np.uint64(0)
_1 = np.uint64(1)
_16 = np.uint64(16)
_NONE = np.int64(Drop.NONE)


@helper
def frame_in(rows, row_bytes, i, m, pieces, first, count, size, port):
    """Copy the front of a chain into row `i` and leave the rest in the guest's memory.

    rows    address of the batch's rows of `row_bytes` octets
    pieces  uint64[n, 2], the chain is `pieces[first : first + count]`; they add up to a virtio-net header
            and a frame of `size` octets

    Returns a Drop reason, or Drop.NONE with meta's placement fields written.
    """
    if size == _0:
        return np.int64(Drop.RUNT)
    octets = size + np.uint64(VNET_HDR_BYTES)
    if size > np.uint64(FRAME_BYTES_MAX):
        return np.int64(Drop.OVERSIZE)
    in_row = min(octets, np.uint64(FRONT_BYTES))
    front = rows + np.uint64(i) * row_bytes + np.uint64(HEADROOM_BYTES - VNET_HDR_BYTES)
    if count == 1:
        copy_short(front, pieces[first, 0], in_row)
        m["payload_addr"] = pieces[first, 0] + in_row
        m["payload_iov"] = _0
    else:
        at = _gather(front, in_row, pieces, first)
        m["payload_addr"] = pieces[at, 0]
        left = at + _1 < first + count  # more than one piece
        m["payload_iov"] = address_of(pieces) + np.uint64(at) * _16 if left else _0
    m["payload_len"] = octets - in_row
    m["frame_len"] = size
    m["l2_offset"] = HEADROOM_BYTES
    m["header_end"] = np.uint64(HEADROOM_BYTES - VNET_HDR_BYTES) + in_row
    m["in_port"] = port
    return _NONE


@helper
def _gather(front, in_row, pieces, first):
    """Copy `in_row` octets from a list that holds them; the pieces become what is left of them.

    Returns the first piece with something left; when all are used up, one behind the last of them.
    """
    at = first
    done = _0
    while done != in_row:
        size = min(pieces[at, 1], in_row - done)
        copy_short(front + done, pieces[at, 0], size)
        done += size
        if size == pieces[at, 1]:
            at += _1
        else:
            pieces[at, 0] += size
            pieces[at, 1] -= size
    return at


@helper
def frame_out(row_addr, m, targets, first):
    """Copy a frame with the virtio-net header in front of it into `targets[first:]`, which hold it.

    One target is filled by one copy of the row and one a piece of payload.
    """
    begin = np.uint64(m["l2_offset"]) - np.uint64(VNET_HDR_BYTES)
    row_size = np.uint64(m["header_end"]) - begin
    payload = np.uint64(m["payload_len"])
    if targets[first, 1] >= row_size + payload:
        to = targets[first, 0]
        copy_short(to, row_addr + begin, row_size)
        if payload == _0:
            return
        if m["payload_iov"] == _0:
            copy_short(to + row_size, m["payload_addr"], payload)
            return
    at, offset = scatter(row_addr + begin, row_size, targets, first, _0)
    if m["payload_iov"] == _0:
        scatter(m["payload_addr"], payload, targets, at, offset)
        return
    piece = np.uint64(m["payload_iov"])
    left = payload
    while left != _0:
        size = min(load_u64(piece + np.uint64(8)), left)
        at, offset = scatter(load_u64(piece), size, targets, at, offset)
        left -= size
        piece += _16


@helper
def scatter(source, size, targets, at, offset):
    """Copy `size` octets to `targets[at]` from `offset` on; returns where the next octet goes."""
    done = _0
    while done != size:
        room = targets[at, 1] - offset
        part = min(room, size - done)
        copy_short(targets[at, 0] + offset, source + done, part)
        done += part
        offset += part
        if part == room:
            at += _1
            offset = _0
    return at, offset
