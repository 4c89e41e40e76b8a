"""The Internet checksum: sums over memory, incremental update, and finishing an owed checksum.

Spec: RFC 1071 (computing it), RFC 1624 eqn 3 (incremental update), RFC 768, RFC 9293 3.1 and
      RFC 8200 8.1 (pseudo headers), virtio 1.2 5.1.6.2 (VIRTIO_NET_HDR_F_NEEDS_CSUM).
In:   meta.l2_offset, header_end, payload_*, l3_offset, l3_len, parsed, ip_proto, csum_*, offload.
Out:  the checksum field, offload without NEEDS_CSUM; or verdict and drop_reason.
Not:  checking received checksums (checksum_verify.py); packets that must be cut first (GSO).

The ones-complement sum does not depend on the byte order (RFC 1071 2.B), so memory is summed in
little-endian words and only the folded result is swapped to network order.
"""

import sys

import numpy as np

from dpu_runtime.kernels.checksum.crc32c import SCTP_CHECKSUM_BYTES, SCTP_CHECKSUM_OFFSET, sctp_checksum
from dpu_runtime.kernels.checksum.payload import PIECE_BYTES, piece, piece_at
from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import (
    PARSED_IPV4,
    PARSED_IPV6,
    VERDICT_PASS,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
)
from dpu_runtime.kernels.octets.memory import address_of, load_u8, load_u16, store_u32, words_at
from dpu_runtime.kernels.octets.wide_sum import HAS_WIDE_SUM, sum_octets
from dpu_runtime.kernels.octets.wire import put_be16
from dpu_runtime.kernels.parse.transport import PROTO_SCTP
from dpu_runtime.kernels.verdict import drop_packet

assert sys.byteorder == "little", "sums are taken in little-endian words"

UDP_CHECKSUM_OFFSET = 6  # octets, RFC 768

_NONE = np.uint8(Drop.NONE)
_UNSUPPORTED = np.uint8(Drop.CHECKSUM_UNSUPPORTED)
_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_8 = np.uint64(8)
_16 = np.uint64(16)
_32 = np.uint64(32)
_LOW8 = np.uint64(0xFF)
_LOW16 = np.uint64(0xFFFF)
_LOW32 = np.uint64(0xFFFFFFFF)
_WORDS_MASK = np.uint64(0xFFFFFFFFFFFFFFFC)


@helper
def fold(total):
    """Fold a 64-bit sum to 16 bits with end-around carry: 0 only when `total` is 0."""
    t = np.uint64(total)
    # adding the halves both ways round puts sum + carry into the upper half
    t = (t + ((t << _32) | (t >> _32))) >> _32
    t = (t + (((t << _16) | (t >> _16)) & _LOW32)) & _LOW32
    return t >> _16


@helper
def swap16(value):
    """Swap the two octets of a 16-bit value."""
    v = np.uint64(value)
    return ((v & _LOW8) << _8) | (v >> _8)


@helper
def ones_sum_words(addr, length):
    """As ones_sum, in vectors as LLVM makes them."""
    at = np.uint64(addr)
    size = np.uint64(length)
    words = words_at(at, size >> _2)
    total = _0
    for k in range(len(words)):  # LLVM makes this 64-bit lanes, several at a time
        total += np.uint64(words[k])
    at += size & _WORDS_MASK
    if size & _2:
        total += np.uint64(load_u16(at))
        at += _2
    if size & _1:
        total += np.uint64(load_u8(at))
    return swap16(fold(total))


@helper
def ones_sum_wide(addr, length):
    """Ones-complement sum of `length` octets at `addr` as big-endian 16-bit words: 0..0xFFFF.

    An odd last octet is padded with zero on the right. 0 only when all octets are 0.
    """
    return swap16(fold(sum_octets(np.uint64(addr), np.uint64(length))))


ones_sum = ones_sum_wide if HAS_WIDE_SUM else ones_sum_words


@helper
def update16(checksum, old, new):
    """Checksum field after a covered 16-bit word changed from `old` to `new` (RFC 1624 eqn 3).

    For UDP the caller leaves 0 (no checksum) alone and writes a result of 0 as 0xFFFF.
    """
    total = (np.uint64(checksum) ^ _LOW16) + (np.uint64(old) ^ _LOW16) + np.uint64(new)
    return fold(total) ^ _LOW16


@helper
def update32(checksum, old, new):
    """As update16 for a 32-bit word that lies at an even offset of the covered octets."""
    total = (np.uint64(checksum) ^ _LOW16) + (np.uint64(old) ^ _LOW32) + np.uint64(new)
    return fold(total) ^ _LOW16


@helper
def pseudo_header_sum(record, l4_len):
    """Unfolded sum of the pseudo header of a parsed packet (RFC 9293 3.1, RFC 8200 8.1); 0 if not IP."""
    parsed = np.uint64(record["parsed"])
    src = np.uint64(record["src_lo"])
    dst = np.uint64(record["dst_lo"])
    total = np.uint64(record["ip_proto"]) + np.uint64(l4_len)
    if parsed & np.uint64(PARSED_IPV4):
        # without the ::ffff prefix
        return total + (src & _LOW32) + (dst & _LOW32)
    if parsed & np.uint64(PARSED_IPV6):
        src_hi = np.uint64(record["src_hi"])
        dst_hi = np.uint64(record["dst_hi"])
        total += (src & _LOW32) + (src >> _32) + (src_hi & _LOW32) + (src_hi >> _32)
        return total + (dst & _LOW32) + (dst >> _32) + (dst_hi & _LOW32) + (dst_hi >> _32)
    return _0


@helper
def packet_end(record):
    """End of the packet's octets as a row offset that runs on into the payload.

    The end of the IP packet where an IP header was parsed (Ethernet padding is not part of it), else
    the end of the frame. Never beyond the octets that are there.
    """
    end = np.uint64(record["header_end"]) + np.uint64(record["payload_len"])
    if np.uint64(record["parsed"]) & np.uint64(PARSED_IPV4 | PARSED_IPV6):
        l3_end = np.uint64(record["l3_offset"]) + np.uint64(record["l3_len"])
        # 0: an IP header that claims no length, as in packets beyond 64 KB (RFC 2675)
        if record["l3_len"] != 0 and l3_end < end:
            end = l3_end
    return end


@helper
def payload_sum(record, offset, size):
    """Ones-complement sum of `size` octets of a record's payload from `offset` on, folded: 0..0xFFFF."""
    left = np.uint64(size)
    if record["payload_iov"] == _0:
        return ones_sum(np.uint64(record["payload_addr"]) + offset, left)
    total = _0
    odd = _0
    entry, skip = piece_at(record, offset)
    while left > _0:
        addr, here = piece(entry, skip, left)
        part = ones_sum(addr, here)
        # a piece may start in the middle of a word (RFC 1071 2.B)
        total += swap16(part) if odd else part
        odd ^= here & _1
        left -= here
        entry, skip = entry + PIECE_BYTES, _0
    return fold(total)


@helper
def range_sum(headers, meta, i, start, end):
    """Ones-complement sum of packet `i` from row offset `start` up to `end`, folded: 0..0xFFFF.

    Both count on into the payload behind `header_end`; the caller has checked them (see packet_end).
    """
    record = meta[i]
    first = np.uint64(start)
    last = np.uint64(end)
    header_end = np.uint64(record["header_end"])
    if first >= last:
        return _0
    row_addr = address_of(headers[i])
    if last <= header_end:
        return ones_sum(row_addr + first, last - first)
    if first >= header_end:
        return payload_sum(record, first - header_end, last - first)
    row_len = header_end - first
    payload = payload_sum(record, _0, last - header_end)
    if row_len & _1:
        # the payload starts in the middle of a word (RFC 1071 2.B)
        payload = swap16(payload)
    return fold(ones_sum(row_addr + first, row_len) + payload)


@helper
def packet_sum(headers, meta, i, start):
    """Ones-complement sum of packet `i` from row offset `start` to its packet_end: 0..0xFFFF."""
    return range_sum(headers, meta, i, start, packet_end(meta[i]))


@helper
def complete_checksum(headers, meta, i):
    """Finish the owed checksum of packet `i`, if it owes one; returns Drop.NONE or why it cannot.

    The field holds the pseudo header's sum (virtio 1.2 5.1.6.2), so summing from csum_start to the
    end and complementing gives the checksum. A GSO packet is cut first, or keeps its debt.
    """
    record = meta[i]
    offload = np.uint8(record["offload"])
    if not offload & np.uint8(VIRTIO_NET_HDR_F_NEEDS_CSUM):
        return _NONE
    start = np.uint64(record["csum_start"])
    offset = np.uint64(record["csum_offset"])
    field = start + offset
    end = packet_end(record)
    header_end = np.uint64(record["header_end"])
    if start < np.uint64(record["l2_offset"]) or field + _2 > header_end or field + _2 > end:
        return _UNSUPPORTED
    if offset == np.uint64(SCTP_CHECKSUM_OFFSET) and np.uint32(record["ip_proto"]) == PROTO_SCTP:
        field_end = field + np.uint64(SCTP_CHECKSUM_BYTES)
        if field_end > header_end or field_end > end:
            return _UNSUPPORTED
        # least significant octet first (RFC 9260 appendix A)
        store_u32(address_of(headers[i]) + field, sctp_checksum(headers, meta, i, start, end))
    else:
        checksum = range_sum(headers, meta, i, start, end) ^ _LOW16
        if checksum == _0 and offset == np.uint64(UDP_CHECKSUM_OFFSET):
            checksum = _LOW16  # 0 says that there is none (RFC 768)
        put_be16(headers[i], field, checksum)
    record["offload"] = offload & np.uint8(0xFF ^ VIRTIO_NET_HDR_F_NEEDS_CSUM)
    return _NONE


@kernel
def complete_checksums(headers, meta, count, drops):
    """Finish the owed checksums of the first `count` packets, for a port that cannot take the debt.

    headers  uint8[n, ROW_BYTES]        in/out, checksum field
    meta     META_DTYPE[n]              in/out, offload; out verdict, drop_reason
    count    int, 0 <= count <= n       packets in the batch
    drops    uint64[DROP_REASON_COUNT]  in/out, packets, added to

    Returns packets passed. Never raises: a bad packet is a verdict.
    """
    passed = 0
    for i in range(count):
        if meta[i]["verdict"] != VERDICT_PASS:
            continue
        reason = complete_checksum(headers, meta, i)
        if reason == _NONE:
            passed += 1
        else:
            drop_packet(meta[i], reason, drops)
    return passed
