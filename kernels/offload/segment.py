"""Generic segmentation offload: cut a large TCP or UDP packet for a port that cannot take it whole.

Spec: virtio 1.2 5.1.6.2 (gso_type, gso_size), RFC 9293 3.1, RFC 768, RFC 791 3.1, RFC 8200 3,
      RFC 3168 6.1.2 (CWR once); Linux tcp_gso_segment, __udp_gso_segment and inet_gso_segment are
      what the far side expects: incremental IPv4 identification, FIN and PSH on the last segment only,
      CWR on the first only.
In:   meta.gso_type, gso_size, offload, csum_*; placement and parsed fields (see payload.py).
Out:  complete, ordinary packets: lengths, identification, sequence number, checksums.
Not:  VIRTIO_NET_HDR_GSO_UDP (fragmentation; never offered), tunnels, fragments, AH; without
      NEEDS_CSUM, the final destination of an IPv6 routing header.

IPv4 options, IPv6 extension headers and tags are carried into every segment unchanged.
"""

import numpy as np

from dpu_runtime.kernels.checksum.internet import fold, pseudo_header_sum, range_sum
from dpu_runtime.kernels.checksum.payload import (
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV6_BYTES,
    NO_ROOM,
    copy_octets,
    l4_payload_len,
    name_octets,
)
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.layout import (
    BATCH_SIZE,
    PARSED_AUTH,
    PARSED_FRAGMENT,
    PARSED_IPV4,
    PARSED_IPV6,
    PAYLOAD_PIECES_MAX,
    ROW_BYTES,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6,
    VIRTIO_NET_HDR_GSO_UDP_L4,
)
from dpu_runtime.kernels.octets.memory import address_of, copy_memory
from dpu_runtime.kernels.octets.wire import be16, be32, put_be16, put_be32

# A segment costs the cutter about as much as a packet costs the pipeline, and one descriptor of a
# hostile guest can ask for thousands. 2048 is 64 KB at 32 octets: below what the least MSS that
# Linux sends with (TCP_MIN_SND_MSS, 48) leaves beside time stamps (36 octets).
GSO_SEGMENTS_MAX = 2048  # packets, TCP
GSO_UDP_SEGMENTS_MAX = 128  # packets, Linux UDP_MAX_SEGMENTS since 6.9 (64 before)
GSO_SIZE_MIN = 8  # octets of TCP payload a segment, Linux TCP_MIN_GSO_SIZE
# struct iovecs for the lists of a burst of segments: all pieces once, each list's first once more
# for the segment in front that shares it, and the free one in front of each list
GSO_IOV_MAX = PAYLOAD_PIECES_MAX + 2 * BATCH_SIZE

IPV4_LENGTH_OFFSET = 2  # octets, RFC 791 3.1
IPV4_ID_OFFSET = 4
IPV4_CHECKSUM_OFFSET = 10
IPV6_LENGTH_OFFSET = 4  # octets, RFC 8200 3
TCP_SEQUENCE_OFFSET = 4  # octets, RFC 9293 3.1
TCP_FLAGS_OFFSET = 12  # data offset and flags, one word
TCP_CHECKSUM_OFFSET = 16
TCP_FIN = 0x01
TCP_PSH = 0x08
TCP_CWR = 0x80  # RFC 3168 6.1
UDP_LENGTH_OFFSET = 4  # octets, RFC 768
UDP_CHECKSUM_OFFSET = 6

_LOW16 = np.uint64(0xFFFF)


@helper
def gso_segment_count(record):
    """Segments that gso_segment makes of a packet; 0: it cannot be cut (Drop.GSO_UNSUPPORTED).

    A payload of no more than gso_size makes one segment.
    """
    payload_len = l4_payload_len(record)
    parsed = np.int64(record["parsed"])
    if payload_len < 0 or parsed & (PARSED_FRAGMENT | PARSED_AUTH):
        return 0
    gso_type = np.int64(record["gso_type"])
    size = np.int64(record["gso_size"])
    proto = np.int64(record["ip_proto"])
    if gso_type == VIRTIO_NET_HDR_GSO_UDP_L4:
        possible = proto == IPPROTO_UDP and size > 0
        checksum_offset = UDP_CHECKSUM_OFFSET
        segments_max = GSO_UDP_SEGMENTS_MAX
    else:
        family = PARSED_IPV4 | PARSED_IPV6  # matches no packet: it has one of them
        if gso_type & ~VIRTIO_NET_HDR_GSO_ECN == VIRTIO_NET_HDR_GSO_TCPV4:
            family = PARSED_IPV4
        elif gso_type & ~VIRTIO_NET_HDR_GSO_ECN == VIRTIO_NET_HDR_GSO_TCPV6:
            family = PARSED_IPV6
        possible = proto == IPPROTO_TCP and size >= GSO_SIZE_MIN and parsed & family == family
        checksum_offset = TCP_CHECKSUM_OFFSET
        segments_max = GSO_SEGMENTS_MAX
    if np.int64(record["offload"]) & VIRTIO_NET_HDR_F_NEEDS_CSUM and (
        record["csum_start"] != record["l4_offset"] or record["csum_offset"] != checksum_offset
    ):
        possible = False
    if not possible:
        return 0
    total = max((payload_len + size - 1) // size, 1)
    return total if total <= segments_max else 0


@helper
def gso_segment(headers, meta, i, first, out_headers, out_meta, out_iov):
    """Cut packet `i` from segment number `first` on; returns the segments written, at most len(out_meta).

    headers      uint8[n, ROW_BYTES]   in, not changed
    meta         META_DTYPE[n]         in, not changed
    first        int, >= 0             segments written by earlier calls
    out_headers  uint8[m, ROW_BYTES]   out: headers at the same offsets, then payload up to the row's end
    out_meta     META_DTYPE[m]         out: the rest of the payload is named where it lies, not copied
    out_iov      uint64[p, 2]          out: lists of pieces, of segments whose rest lies in several;
                                       p > PAYLOAD_PIECES_MAX, or one segment might never find room

    Fewer segments are written when `out_iov` is full. The caller goes on until `first` reaches
    gso_segment_count(meta[i]); it may free the payload only when the segments were sent.
    """
    record = meta[i]
    total = gso_segment_count(record)
    limit = min(total - np.int64(first), len(out_meta))
    if limit <= 0:
        return 0
    used = np.int64(0)
    ip_sum = _ipv4_constant_sum(headers, meta, i)
    l4_sum = _l4_constant_sum(headers, meta, i)
    payload_len = l4_payload_len(record)
    size = np.int64(record["gso_size"])
    for k in range(limit):
        number = np.int64(first) + k
        begin = number * size
        segment_len = min(size, payload_len - begin)
        used = _place_segment(headers, meta, i, begin, segment_len, out_headers, out_meta, k, out_iov, used)
        if used == NO_ROOM:
            return k
        _write_ip(headers[i], out_headers[k], out_meta[k], number, ip_sum)
        l5 = np.int64(record["l5_offset"])
        payload_sum = range_sum(headers, meta, i, l5 + begin, l5 + begin + segment_len)
        if record["ip_proto"] == IPPROTO_TCP:
            last = number == total - 1
            _write_tcp(headers[i], out_headers[k], out_meta[k], begin, last, l4_sum + payload_sum)
        else:
            _write_udp(out_headers[k], out_meta[k], l4_sum + payload_sum)
    return limit


@helper
def _without(total, word):
    """Take a 16-bit word out of a ones-complement sum (RFC 1624: add its complement)."""
    return np.uint64(total) + (np.uint64(word) ^ _LOW16)


@helper
def _ipv4_constant_sum(headers, meta, i):
    """Sum of the IPv4 header without the words that differ between segments; 0 for IPv6."""
    record = meta[i]
    if not np.int64(record["parsed"]) & PARSED_IPV4:
        return np.uint64(0)
    row = headers[i]
    l3 = np.int64(record["l3_offset"])
    total = range_sum(headers, meta, i, l3, np.int64(record["l4_offset"]))
    total = _without(total, be16(row, l3 + IPV4_LENGTH_OFFSET))
    total = _without(total, be16(row, l3 + IPV4_ID_OFFSET))
    return _without(total, be16(row, l3 + IPV4_CHECKSUM_OFFSET))


@helper
def _l4_constant_sum(headers, meta, i):
    """Sum of pseudo header and layer 4 header without the words that differ between segments.

    With NEEDS_CSUM the field holds the sender's pseudo header sum, from which Linux too takes only
    the length: right even behind a routing header, where the IPv6 destination is not the last one.
    """
    record = meta[i]
    row = headers[i]
    l3 = np.int64(record["l3_offset"])
    l4 = np.int64(record["l4_offset"])
    total = range_sum(headers, meta, i, l4, np.int64(record["l5_offset"]))
    if record["ip_proto"] == IPPROTO_TCP:
        field = l4 + TCP_CHECKSUM_OFFSET
        total = _without(total, be16(row, l4 + TCP_SEQUENCE_OFFSET))
        total = _without(total, be16(row, l4 + TCP_SEQUENCE_OFFSET + 2))
        total = _without(total, be16(row, l4 + TCP_FLAGS_OFFSET))
    else:
        field = l4 + UDP_CHECKSUM_OFFSET
        total = _without(total, be16(row, l4 + UDP_LENGTH_OFFSET))
    if np.int64(record["offload"]) & VIRTIO_NET_HDR_F_NEEDS_CSUM:
        # the field's own word stays in the sum: it is the pseudo header
        return _without(total, np.int64(record["l3_len"]) - (l4 - l3))
    return _without(total, be16(row, field)) + pseudo_header_sum(record, 0)


@helper
def _place_segment(headers, meta, i, begin, segment_len, out_headers, out_meta, k, out_iov, used):
    """Copy headers and the first octets of the segment's payload into row `k`, name the rest.

    Returns the entries of `out_iov` in use, or NO_ROOM.
    """
    record = meta[i]
    l2 = np.int64(record["l2_offset"])
    l5 = np.int64(record["l5_offset"])
    header_end = np.int64(record["header_end"])
    out_addr = address_of(out_headers[k])
    # up to the row's end and so past the source's header_end: what is left lies in the payload
    filled = min(segment_len, ROW_BYTES - l5)
    out_meta[k] = record
    segment = out_meta[k]
    rest = max(l5 + begin + filled - header_end, 0)  # where in the source's payload the rest begins
    used = name_octets(record, rest, segment_len - filled, segment, out_iov, used)
    if used == NO_ROOM:
        return used
    copy_memory(out_addr + np.uint64(l2), address_of(headers[i]) + np.uint64(l2), np.uint64(l5 - l2))
    copy_octets(headers, meta, i, l5 + begin, filled, out_addr + np.uint64(l5))

    segment["header_end"] = l5 + filled
    segment["frame_len"] = l5 - l2 + segment_len
    segment["l3_len"] = l5 - np.int64(record["l3_offset"]) + segment_len
    segment["offload"] = 0
    segment["gso_type"] = 0
    segment["gso_size"] = 0
    segment["gso_hdr_len"] = 0
    segment["csum_start"] = 0
    segment["csum_offset"] = 0
    return used


@helper
def _write_ip(row, out_row, segment, number, ip_sum):
    """Write length, identification and header checksum of IPv4, or the payload length of IPv6."""
    l3 = np.int64(segment["l3_offset"])
    l3_len = np.int64(segment["l3_len"])
    if np.int64(segment["parsed"]) & PARSED_IPV4:
        identification = (np.int64(be16(row, l3 + IPV4_ID_OFFSET)) + number) & 0xFFFF
        put_be16(out_row, l3 + IPV4_LENGTH_OFFSET, l3_len)
        put_be16(out_row, l3 + IPV4_ID_OFFSET, identification)
        total = ip_sum + np.uint64(l3_len) + np.uint64(identification)
        put_be16(out_row, l3 + IPV4_CHECKSUM_OFFSET, fold(total) ^ _LOW16)
    else:
        put_be16(out_row, l3 + IPV6_LENGTH_OFFSET, l3_len - IPV6_BYTES)


@helper
def _write_tcp(row, out_row, segment, begin, last, total):
    """Write sequence number, flags and checksum of the segment whose payload starts at `begin`."""
    l4 = np.int64(segment["l4_offset"])
    l4_len = np.int64(segment["l3_len"]) - (l4 - np.int64(segment["l3_offset"]))
    sequence = (np.int64(be32(row, l4 + TCP_SEQUENCE_OFFSET)) + begin) & 0xFFFFFFFF
    flags = np.int64(be16(row, l4 + TCP_FLAGS_OFFSET))
    if not last:
        flags &= ~(TCP_FIN | TCP_PSH)
    if begin > 0:
        flags &= ~TCP_CWR
    put_be32(out_row, l4 + TCP_SEQUENCE_OFFSET, sequence)
    put_be16(out_row, l4 + TCP_FLAGS_OFFSET, flags)
    total += np.uint64(l4_len) + np.uint64(flags)
    total += np.uint64(sequence >> 16) + (np.uint64(sequence) & _LOW16)
    put_be16(out_row, l4 + TCP_CHECKSUM_OFFSET, fold(total) ^ _LOW16)
    segment["tcp_flags"] = np.uint8(flags & 0xFF)


@helper
def _write_udp(out_row, segment, total):
    """Write length and checksum of a datagram; a checksum of 0 would mean none (RFC 768)."""
    l4 = np.int64(segment["l4_offset"])
    l4_len = np.int64(segment["l3_len"]) - (l4 - np.int64(segment["l3_offset"]))
    put_be16(out_row, l4 + UDP_LENGTH_OFFSET, l4_len)
    total += np.uint64(l4_len) + np.uint64(l4_len)  # in the header and in the pseudo header
    checksum = fold(total) ^ _LOW16
    if checksum == np.uint64(0):
        checksum = _LOW16
    put_be16(out_row, l4 + UDP_CHECKSUM_OFFSET, checksum)
