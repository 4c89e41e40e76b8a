"""IPv6 header and its chain of extension headers.

Spec: RFC 8200 sections 3, 4.1, 4.3-4.6; RFC 4302 section 2 (AH); RFC 6946 (atomic fragments).
In:   the header at l3, header_end, frame_len.
Out:  l3_len, ip_proto, src_hi, src_lo, dst_hi, dst_lo.
Not:  jumbograms (RFC 2675): refused as IPV6_LENGTH. Options inside an extension header are not
      looked at, nor is a routing header's list: dst is the address in the IPv6 header.

Extension headers are taken in any order and number up to EXTENSIONS_MAX (RFC 8200 4.1), but
hop-by-hop options only directly behind the IPv6 header. The chain has to lie in the header row:
what reaches past it is dropped as IPV6_EXTENSION, though the frame may hold it. A fragment header
with offset 0 and no more fragments is a whole packet, not a fragment.
"""

import numpy as np

from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import (
    PARSED_AUTH,
    PARSED_FRAGMENT,
    PARSED_IP_OPTIONS,
    PARSED_IPV6,
    PARSED_LATER_FRAGMENT,
)
from dpu_runtime.kernels.octets.wire import be16, be64

IPV6_HEADER_BYTES = np.uint64(40)  # octets, RFC 8200 3
IPV6_SRC_OFFSET = np.uint64(8)  # octets
IPV6_DST_OFFSET = np.uint64(24)  # octets
IPV6_BYTES_MAX = np.uint64(65535)  # octets: what l3_len can say; RFC 8200 allows 40 more
HOP_BY_HOP = np.uint32(0)  # IANA protocol numbers, as are those below
ROUTING = np.uint32(43)
FRAGMENT = np.uint32(44)
AUTHENTICATION = np.uint32(51)
DESTINATION_OPTIONS = np.uint32(60)
EXTENSIONS_MAX = 8  # headers in one chain
EXTENSION_BYTES_MIN = np.uint64(8)  # octets, RFC 8200 4.2; the fragment header's exact size
AUTHENTICATION_BYTES_MIN = np.uint64(12)  # octets, RFC 4302 2
FRAGMENT_WORD_OFFSET = np.uint64(2)  # octets, RFC 8200 4.5
FRAGMENT_OFFSET_MASK = np.uint64(0xFFF8)  # in place, it counts octets
FRAGMENT_MORE = np.uint64(1)

_DROP_TRUNCATED = int(Drop.IPV6_TRUNCATED)
_DROP_HEADER = int(Drop.IPV6_HEADER)
_DROP_LENGTH = int(Drop.IPV6_LENGTH)
_DROP_EXTENSION = int(Drop.IPV6_EXTENSION)
_DROP_EXTENSION_COUNT = int(Drop.IPV6_EXTENSION_COUNT)
_DROP_FRAGMENT = int(Drop.IPV6_FRAGMENT)
_PARSED_IPV6 = np.uint32(PARSED_IPV6)
_PARSED_OPTIONS = np.uint32(PARSED_IP_OPTIONS)
_PARSED_FRAGMENT = np.uint32(PARSED_FRAGMENT)
_PARSED_LATER = np.uint32(PARSED_FRAGMENT | PARSED_LATER_FRAGMENT)
_PARSED_AUTH = np.uint32(PARSED_AUTH)
_NO_PROTO = np.uint32(0)
_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_3 = np.uint64(3)
_6 = np.uint64(6)
_8 = np.uint64(8)
_16 = np.uint64(16)
_60 = np.uint64(60)
_LOW_8 = np.uint64(0xFF)
_LOW_16 = np.uint64(0xFFFF)


@helper
def is_extension(proto):
    """Whether `proto` is an extension header that can follow another one."""
    return proto in (ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION_OPTIONS)


@helper
def extension_bytes(row, proto, offset):
    """Octets of the extension header at `offset`; its first two octets are readable."""
    units = np.uint64(row[offset + _1])
    if proto == FRAGMENT:
        return EXTENSION_BYTES_MIN
    if proto == AUTHENTICATION:
        return (units + _2) << _2
    return (units + _1) << _3


@helper
def fragment_bits(row, offset):
    """PARSED_* bits of the fragment header at `offset`; none for an atomic fragment."""
    word = np.uint64(be16(row, offset + FRAGMENT_WORD_OFFSET))
    if word & FRAGMENT_OFFSET_MASK:
        return _PARSED_LATER
    if word & FRAGMENT_MORE:
        return _PARSED_FRAGMENT
    return np.uint32(0)


@helper
def fragment_is_too_long(row, offset, l3, packet_end):
    """Whether the packet put together from this fragment exceeds 65535 octets, RFC 8200 4.5."""
    start = np.uint64(be16(row, offset + FRAGMENT_WORD_OFFSET)) & FRAGMENT_OFFSET_MASK
    payload_bytes = packet_end - l3 - IPV6_HEADER_BYTES - EXTENSION_BYTES_MIN
    return start + payload_bytes > IPV6_BYTES_MAX


@helper
def parse_extensions(row, proto, l3, end, packet_end):
    """Walk the extension headers behind the IPv6 header at `l3`, the first being `proto`.

    Returns (drop code, PARSED_* bits, protocol behind them, its offset).
    """
    parsed = _PARSED_OPTIONS
    offset = l3 + IPV6_HEADER_BYTES
    limit = min(end, packet_end)
    for _ in range(EXTENSIONS_MAX):
        if offset + EXTENSION_BYTES_MIN > limit:
            return _DROP_EXTENSION, parsed, proto, offset
        next_proto = np.uint32(row[offset])
        length = extension_bytes(row, proto, offset)
        if offset + length > limit:
            return _DROP_EXTENSION, parsed, proto, offset
        if proto == AUTHENTICATION:
            if length < AUTHENTICATION_BYTES_MIN:
                return _DROP_EXTENSION, parsed, proto, offset
            parsed |= _PARSED_AUTH
        elif proto == FRAGMENT:
            parsed |= fragment_bits(row, offset)
            if fragment_is_too_long(row, offset, l3, packet_end):
                return _DROP_FRAGMENT, parsed, proto, offset
        proto = next_proto
        offset = offset + length
        # Behind a later fragment's header come octets of the middle of the packet.
        if (parsed & _PARSED_LATER) == _PARSED_LATER:
            return 0, parsed, proto, offset
        if proto == HOP_BY_HOP:
            return _DROP_EXTENSION, parsed, proto, offset
        if not is_extension(proto):
            return 0, parsed, proto, offset
    return _DROP_EXTENSION_COUNT, parsed, proto, offset


@helper
def parse_ipv6(row, rec, l3, end, frame_end):
    """Parse an IPv6 header and its extension headers.

    l3, end, frame_end  uint64   octets of the row; frame_end may lie behind the row

    Returns (drop code, PARSED_* bits, protocol, offset behind the headers, end of the packet).
    """
    parsed = _PARSED_IPV6
    if l3 + IPV6_HEADER_BYTES > end:
        return _DROP_TRUNCATED, parsed, _NO_PROTO, l3, l3
    word = be64(row, l3)  # version, class, flow label, payload length, next header, hop limit
    if (word >> _60) != _6:
        return _DROP_HEADER, parsed, _NO_PROTO, l3, l3
    payload_bytes = (word >> _16) & _LOW_16
    proto = np.uint32((word >> _8) & _LOW_8)
    l4 = l3 + IPV6_HEADER_BYTES
    packet_end = l4 + payload_bytes
    rec["src_hi"] = be64(row, l3 + IPV6_SRC_OFFSET)
    rec["src_lo"] = be64(row, l3 + IPV6_SRC_OFFSET + _8)
    rec["dst_hi"] = be64(row, l3 + IPV6_DST_OFFSET)
    rec["dst_lo"] = be64(row, l3 + IPV6_DST_OFFSET + _8)
    rec["ip_proto"] = proto
    # No payload but hop-by-hop options: a jumbogram, its length is in an option.
    if packet_end > frame_end or (payload_bytes == _0 and proto == HOP_BY_HOP):
        return _DROP_LENGTH, parsed, proto, l4, packet_end
    if IPV6_HEADER_BYTES + payload_bytes > IPV6_BYTES_MAX:
        return _DROP_LENGTH, parsed, proto, l4, packet_end
    rec["l3_len"] = IPV6_HEADER_BYTES + payload_bytes
    reason = 0
    if proto == HOP_BY_HOP or is_extension(proto):
        reason, more, proto, l4 = parse_extensions(row, proto, l3, end, packet_end)
        parsed |= more
        rec["ip_proto"] = proto
    return reason, parsed, proto, l4, packet_end
