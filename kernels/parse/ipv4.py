"""IPv4 header: validity, length, options, fragments, addresses.

Spec: RFC 791 section 3.1.
In:   the header at l3, header_end, frame_len.
Out:  l3_len, ip_proto, src_lo, dst_lo (as ::ffff:a.b.c.d; the high halves stay 0).
Not:  the header checksum is another kernel's; an option's meaning is not looked at, its length is;
      AH is an unknown protocol here, as only IPv6 chains it.
"""

import numpy as np

from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import PARSED_FRAGMENT, PARSED_IP_OPTIONS, PARSED_IPV4, PARSED_LATER_FRAGMENT
from dpu_runtime.kernels.octets.wire import be64

IPV4_HEADER_BYTES = np.uint64(20)  # octets, RFC 791 3.1
IPV4_PROTO_OFFSET = np.uint64(9)  # octets
IPV4_SRC_OFFSET = np.uint64(12)  # octets, the destination follows
IPV4_PLAIN = np.uint64(0x45)  # version 4, header of five words: no options
IPV4_MORE_FRAGMENTS = np.uint64(0x2000)
IPV4_FRAGMENT_MASK = np.uint64(0x1FFF)  # fragment offset, units of 8 octets
IPV4_BYTES_MAX = np.uint64(65535)  # octets
IPV4_MAPPED_PREFIX = np.uint64(0xFFFF_0000_0000)  # RFC 4291 2.5.5.2
OPTION_END = np.uint8(0)  # RFC 791 3.1
OPTION_NOP = np.uint8(1)
OPTION_BYTES_MIN = np.uint64(2)  # octets, type and length

_DROP_TRUNCATED = int(Drop.IPV4_TRUNCATED)
_DROP_HEADER = int(Drop.IPV4_HEADER)
_DROP_LENGTH = int(Drop.IPV4_LENGTH)
_DROP_FRAGMENT = int(Drop.IPV4_FRAGMENT)
_PARSED_IPV4 = np.uint32(PARSED_IPV4)
_PARSED_OPTIONS = np.uint32(PARSED_IP_OPTIONS)
_PARSED_FRAGMENT = np.uint32(PARSED_FRAGMENT)
_PARSED_LATER = np.uint32(PARSED_FRAGMENT | PARSED_LATER_FRAGMENT)
_NO_PROTO = np.uint32(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_3 = np.uint64(3)
_4 = np.uint64(4)
_15 = np.uint64(15)
_32 = np.uint64(32)
_56 = np.uint64(56)
_LOW_16 = np.uint64(0xFFFF)
_LOW_32 = np.uint64(0xFFFF_FFFF)


@helper
def mapped_ipv4(address):
    """Low half of the IPv4-mapped IPv6 address of a 32-bit address, uint64."""
    return IPV4_MAPPED_PREFIX | np.uint64(address)


@helper
def options_are_sound(row, offset, end):
    """Whether every option from `offset` on ends by `end`, the end of the header."""
    while offset < end:
        kind = row[offset]
        if kind == OPTION_END:
            return True
        if kind == OPTION_NOP:
            offset = offset + _1
            continue
        if offset + OPTION_BYTES_MIN > end:
            return False
        length = np.uint64(row[offset + _1])
        if length < OPTION_BYTES_MIN or offset + length > end:
            return False
        offset = offset + length
    return True


@helper
def check_long_header(row, version_ihl, l3, end):
    """Check a header that is not of version 4 and five words; returns a drop code."""
    header_bytes = (version_ihl & _15) << _2
    if (version_ihl >> _4) != _4 or header_bytes < IPV4_HEADER_BYTES:
        return _DROP_HEADER
    if l3 + header_bytes > end:
        return _DROP_TRUNCATED
    if not options_are_sound(row, l3 + IPV4_HEADER_BYTES, l3 + header_bytes):
        return _DROP_HEADER
    return 0


@helper
def parse_ipv4(row, rec, l3, end, frame_end):
    """Parse an IPv4 header.

    l3, end, frame_end  uint64   octets of the row; frame_end may lie behind the row

    Returns (drop code, PARSED_* bits, protocol, offset behind the header, end of the packet).
    """
    parsed = _PARSED_IPV4
    if l3 + IPV4_HEADER_BYTES > end:
        return _DROP_TRUNCATED, parsed, _NO_PROTO, l3, l3
    word = be64(row, l3)  # version, length, TOS, total length, identification, flags and offset
    version_ihl = word >> _56
    if version_ihl != IPV4_PLAIN:
        reason = check_long_header(row, version_ihl, l3, end)
        if reason != 0:
            return reason, parsed, _NO_PROTO, l3, l3
        parsed |= _PARSED_OPTIONS
    l4 = l3 + ((version_ihl & _15) << _2)
    total_bytes = (word >> _32) & _LOW_16
    packet_end = l3 + total_bytes
    proto = np.uint32(row[l3 + IPV4_PROTO_OFFSET])
    addresses = be64(row, l3 + IPV4_SRC_OFFSET)
    rec["l3_len"] = total_bytes
    rec["ip_proto"] = proto
    rec["src_lo"] = IPV4_MAPPED_PREFIX | (addresses >> _32)
    rec["dst_lo"] = IPV4_MAPPED_PREFIX | (addresses & _LOW_32)
    if packet_end < l4 or packet_end > frame_end:
        return _DROP_LENGTH, parsed, proto, l4, packet_end
    if word & (IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_MASK):
        offset_units = word & IPV4_FRAGMENT_MASK
        parsed |= _PARSED_LATER if offset_units else _PARSED_FRAGMENT
        if (offset_units << _3) + total_bytes > IPV4_BYTES_MAX:
            return _DROP_FRAGMENT, parsed, proto, l4, packet_end
    return 0, parsed, proto, l4, packet_end
