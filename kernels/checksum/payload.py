"""The payload: how many octets of layer 4 data there are, where they lie, copying them.

In:   meta, as the parser left it: placement, l3_offset, l4_offset, l5_offset, l3_len, parsed.
Not:  packets whose layer 4 does not lie directly behind Ethernet, tags and IP (tunnels).

GSO and GRO move payload by address, where no index check of the compiler can help; so they start
with `l4_payload_len`, which answers only for a record whose fields agree with each other.

A payload in pieces (meta.payload_iov above 0) is walked with a cursor:

    entry, skip = piece_at(record, offset)
    while left > _0:
        addr, size = piece(entry, skip, left)
        ...
        left -= size
        entry, skip = entry + PIECE_BYTES, _0
"""

import numpy as np

from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.layout import PARSED_IPV4, PARSED_IPV6, ROW_BYTES
from dpu_runtime.kernels.octets.memory import address_of, copy_memory, load_u64

IPPROTO_TCP = 6
IPPROTO_UDP = 17
ETHERNET_BYTES = 14  # octets, without a tag
TAG_BYTES = 4  # octets, IEEE 802.1Q 9.3
TAGS_MAX = 2
IPV4_BYTES_MIN = 20  # octets, RFC 791 3.1
IPV4_BYTES_MAX = 60
IPV6_BYTES = 40  # octets, RFC 8200 3
TCP_BYTES_MIN = 20  # octets, RFC 9293 3.1
TCP_BYTES_MAX = 60
UDP_BYTES = 8  # octets, RFC 768
MALFORMED = -1
PIECE_BYTES = np.uint64(16)  # octets of a struct iovec: address, length
NO_ROOM = -1

_0 = np.uint64(0)
_8 = np.uint64(8)


@helper
def l4_payload_len(record):
    """Octets of TCP or UDP payload without Ethernet padding; MALFORMED if there is no such packet.

    Any other result promises l2 < l3 < l4 < l5 <= header_end <= ROW_BYTES, header lengths that are
    possible and even, and that many octets behind l5_offset in row and payload together.
    """
    l2 = np.int64(record["l2_offset"])
    l3 = np.int64(record["l3_offset"])
    l4 = np.int64(record["l4_offset"])
    l5 = np.int64(record["l5_offset"])
    header_end = np.int64(record["header_end"])
    frame_len = np.int64(record["frame_len"])
    l3_len = np.int64(record["l3_len"])
    if l5 > header_end or header_end > ROW_BYTES:
        return MALFORMED
    if header_end - l2 + np.int64(record["payload_len"]) != frame_len:
        return MALFORMED
    tag_bytes = l3 - l2 - ETHERNET_BYTES
    if tag_bytes < 0 or tag_bytes > TAGS_MAX * TAG_BYTES or tag_bytes % TAG_BYTES != 0:
        return MALFORMED
    l3_bytes = l4 - l3
    family = np.int64(record["parsed"]) & (PARSED_IPV4 | PARSED_IPV6)
    if family == PARSED_IPV4:
        if l3_bytes < IPV4_BYTES_MIN or l3_bytes > IPV4_BYTES_MAX or l3_bytes % 4 != 0:
            return MALFORMED
    elif family != PARSED_IPV6 or l3_bytes < IPV6_BYTES or l3_bytes % 8 != 0:
        return MALFORMED
    l4_bytes = l5 - l4
    proto = np.int64(record["ip_proto"])
    if proto == IPPROTO_TCP:
        if l4_bytes < TCP_BYTES_MIN or l4_bytes > TCP_BYTES_MAX or l4_bytes % 4 != 0:
            return MALFORMED
    elif proto != IPPROTO_UDP or l4_bytes != UDP_BYTES:
        return MALFORMED
    if l3_len < l3_bytes + l4_bytes or l3 - l2 + l3_len > frame_len:
        return MALFORMED
    return l3_len - l3_bytes - l4_bytes


@helper
def piece_at(record, offset):
    """Cursor at octet `offset`, which must be there, of a payload in pieces: (entry, skip).

    entry  address of the struct iovec that names it
    skip   octets of that piece in front of it
    """
    skip = np.uint64(offset)
    entry = np.uint64(record["payload_iov"])
    size = load_u64(entry + _8)
    while skip >= size:
        skip -= size
        entry += PIECE_BYTES
        size = load_u64(entry + _8)
    return entry, skip


@helper
def piece(entry, skip, left):
    """The octets at a cursor that lie in one piece, at most `left`: (address, octets)."""
    return load_u64(entry) + skip, min(load_u64(entry + _8) - skip, left)


@helper
def piece_count(record):
    """Entries of the payload's struct iovec[]; 0 when it is contiguous."""
    return 0 if record["payload_iov"] == _0 else entries_of(record, np.int64(record["payload_len"]))


@helper
def entries_of(record, size):
    """Entries that the first `size` octets of a payload in pieces lie in."""
    entry = np.uint64(record["payload_iov"])
    count = 0
    left = size
    while left > 0:
        left -= np.int64(load_u64(entry + _8))
        entry += PIECE_BYTES
        count += 1
    return count


@helper
def copy_octets(headers, meta, i, start, size, target):
    """Copy `size` octets of packet `i` to address `target`, from row offset `start` on.

    The offset counts on into the payload behind `header_end`. The caller has checked the range.
    """
    record = meta[i]
    first = np.uint64(start)
    left = np.uint64(size)
    to = np.uint64(target)
    header_end = np.uint64(record["header_end"])
    if first < header_end:
        in_row = min(left, header_end - first)
        copy_memory(to, address_of(headers[i]) + first, in_row)
        first += in_row
        to += in_row
        left -= in_row
    if left > _0:
        offset = first - header_end
        if record["payload_iov"] == _0:
            copy_memory(to, np.uint64(record["payload_addr"]) + offset, left)
            return
        entry, skip = piece_at(record, offset)
        while left > _0:
            addr, here = piece(entry, skip, left)
            copy_memory(to, addr, here)
            to += here
            left -= here
            entry, skip = entry + PIECE_BYTES, _0


@helper
def name_octets(record, offset, size, target, iov, used):
    """Let record `target` name `size` octets of the payload of `record`, from `offset` on, without a copy.

    target  META_DTYPE record   out, payload_addr, payload_len, payload_iov
    iov     uint64[n, 2]        out, room for lists of pieces; each has one entry left free in front
    used    int                 entries of `iov` in use

    Returns the entries in use then, or NO_ROOM and leaves `target` alone. The caller has checked the range.
    """
    end = np.int64(used)
    addr = np.uint64(record["payload_addr"]) + np.uint64(offset)
    target_iov = _0
    left = np.uint64(size)
    if record["payload_iov"] != _0 and left > _0:
        entry, skip = piece_at(record, offset)
        addr, here = piece(entry, skip, left)
        if here < left:
            end += 1
            target_iov = address_of(iov) + np.uint64(end) * PIECE_BYTES
            while left > _0:
                if end >= len(iov):
                    return np.int64(NO_ROOM)
                iov[end, 0], iov[end, 1] = piece(entry, skip, left)
                left -= iov[end, 1]
                end += 1
                entry, skip = entry + PIECE_BYTES, _0
    target["payload_addr"] = addr
    target["payload_len"] = size
    target["payload_iov"] = target_iov
    return end


@helper
def octet_pieces(record, start, size):
    """Pieces that `size` octets of a packet lie in, from row offset `start` <= header_end on."""
    in_row = np.int64(record["header_end"]) - np.int64(start)
    count = 1 if in_row > 0 and size > 0 else 0
    if size <= in_row:
        return count
    if record["payload_iov"] == _0:
        return count + 1
    return count + entries_of(record, size - in_row)


@helper
def list_octets(headers, meta, i, start, size, iov, used):
    """Name `size` octets of packet `i`, from row offset `start` <= header_end on, in `iov[used:]`.

    iov  uint64[n, 2]  out, with room for the octet_pieces() of them

    Returns the entries of `iov` in use then. The caller has checked the range.
    """
    record = meta[i]
    end = np.int64(used)
    left = np.int64(size)
    in_row = min(left, np.int64(record["header_end"]) - np.int64(start))
    if in_row > 0:
        iov[end, 0] = address_of(headers[i]) + np.uint64(start)
        iov[end, 1] = in_row
        end += 1
        left -= in_row
    if left > 0 and record["payload_iov"] == _0:
        iov[end, 0] = record["payload_addr"]
        iov[end, 1] = left
        return end + 1
    entry = np.uint64(record["payload_iov"])
    while left > 0:
        here = min(np.int64(load_u64(entry + _8)), left)
        iov[end, 0] = load_u64(entry)
        iov[end, 1] = here
        left -= here
        entry += PIECE_BYTES
        end += 1
    return end
