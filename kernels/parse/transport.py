"""Layer 4 headers: TCP, UDP, SCTP, ICMP, ICMPv6, and GRE by way of kernels/parse/tunnel.py.

Spec: RFC 9293 3.1 (TCP), RFC 768 (UDP), RFC 9260 3.1 (SCTP), RFC 792 (ICMP), RFC 4443 2.1 (ICMPv6).
In:   the header at l4, the end of what may be read, gso_type.
Out:  src_port, dst_port, tcp_flags, l4_offset, l5_offset, tunnel, tunnel_id.
Not:  checksums are another kernel's; TCP options are not looked at.

A protocol that is not named here has no layer 4: l4_offset stays 0. A first fragment must hold the
whole header (RFC 1858, RFC 7112): a filter could not see its ports otherwise.
"""

import numpy as np

from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import PARSED_FRAGMENT, PARSED_IPV4, PARSED_IPV6, PARSED_PORTS
from dpu_runtime.kernels.octets.wire import be16, be32
from dpu_runtime.kernels.parse.tunnel import parse_gre, recognise_udp_tunnel

PROTO_ICMP = np.uint32(1)  # IANA protocol numbers
PROTO_TCP = np.uint32(6)
PROTO_UDP = np.uint32(17)
PROTO_GRE = np.uint32(47)
PROTO_ICMPV6 = np.uint32(58)
PROTO_SCTP = np.uint32(132)
TCP_HEADER_BYTES = np.uint64(20)  # octets, RFC 9293 3.1
TCP_DATA_OFFSET_OFFSET = np.uint64(12)  # octets; upper four bits, units of 4 octets
TCP_FLAGS_OFFSET = np.uint64(13)  # octets
UDP_HEADER_BYTES = np.uint64(8)  # octets, RFC 768
UDP_DST_OFFSET = np.uint64(2)  # octets
UDP_LENGTH_OFFSET = np.uint64(4)  # octets
SCTP_HEADER_BYTES = np.uint64(12)  # octets, RFC 9260 3.1
ICMP_HEADER_BYTES = np.uint64(8)  # octets, RFC 792; every ICMPv6 message has as many

_DROP_TCP_TRUNCATED = int(Drop.TCP_TRUNCATED)
_DROP_TCP_HEADER = int(Drop.TCP_HEADER)
_DROP_UDP_TRUNCATED = int(Drop.UDP_TRUNCATED)
_DROP_UDP_LENGTH = int(Drop.UDP_LENGTH)
_DROP_SCTP_TRUNCATED = int(Drop.SCTP_TRUNCATED)
_DROP_ICMP_TRUNCATED = int(Drop.ICMP_TRUNCATED)
_PARSED_IPV4 = np.uint32(PARSED_IPV4)
_PARSED_IPV6 = np.uint32(PARSED_IPV6)
_PARSED_FRAGMENT = np.uint32(PARSED_FRAGMENT)
_PARSED_PORTS = np.uint32(PARSED_PORTS)
_NO_BITS = np.uint32(0)
_LOW_16 = np.uint32(0xFFFF)
_16 = np.uint32(16)
_2 = np.uint64(2)
_DATA_OFFSET_MASK = np.uint64(0x3C)


@helper
def parse_tcp(row, rec, l4, limit):
    """Parse a TCP header; returns (drop code, offset behind it)."""
    if l4 + TCP_HEADER_BYTES > limit:
        return _DROP_TCP_TRUNCATED, l4
    header_bytes = (np.uint64(row[l4 + TCP_DATA_OFFSET_OFFSET]) >> _2) & _DATA_OFFSET_MASK
    if header_bytes < TCP_HEADER_BYTES:
        return _DROP_TCP_HEADER, l4
    if l4 + header_bytes > limit:
        return _DROP_TCP_TRUNCATED, l4
    rec["tcp_flags"] = row[l4 + TCP_FLAGS_OFFSET]
    return 0, l4 + header_bytes


@helper
def parse_udp(row, rec, l4, limit, packet_end, fragment):
    """Parse a UDP header and the tunnel header that a port announces; returns (drop code, offset behind UDP).

    The length must fit the IP payload, except where the datagram is not all here (a fragment) or
    will be cut (GSO).
    """
    l5 = l4 + UDP_HEADER_BYTES
    if l5 > limit:
        return _DROP_UDP_TRUNCATED, l4
    udp_bytes = np.uint64(be16(row, l4 + UDP_LENGTH_OFFSET))
    is_wrong = udp_bytes < UDP_HEADER_BYTES or (l4 + udp_bytes > packet_end and not fragment)
    if is_wrong and rec["gso_type"] == 0:
        return _DROP_UDP_LENGTH, l4
    udp_end = l4 + udp_bytes  # of the whole datagram, so behind `limit` for a first fragment
    recognise_udp_tunnel(row, rec, be16(row, l4 + UDP_DST_OFFSET), l5, min(limit, udp_end), udp_end)
    return 0, l5


@helper
def parse_fixed(l4, limit, header_bytes, drop_truncated):
    """Pass a header of a fixed size; returns (drop code, offset behind it)."""
    if l4 + header_bytes > limit:
        return drop_truncated, l4
    return 0, l4 + header_bytes


@helper
def parse_transport(row, rec, parsed, proto, l4, end, packet_end):
    """Parse the layer 4 header at `l4`.

    parsed  uint32   PARSED_* bits of layer 3
    Expects every field it writes to be 0. Returns (drop code, PARSED_* bits to add, ports): the
    ports as one word, source in the upper 16 bits.
    """
    limit = min(end, packet_end)
    if proto == PROTO_TCP:
        reason, l5 = parse_tcp(row, rec, l4, limit)
    elif proto == PROTO_UDP:
        fragment = (parsed & _PARSED_FRAGMENT) != 0
        reason, l5 = parse_udp(row, rec, l4, limit, packet_end, fragment)
    elif proto == PROTO_SCTP:
        reason, l5 = parse_fixed(l4, limit, SCTP_HEADER_BYTES, _DROP_SCTP_TRUNCATED)
    else:
        return parse_portless(row, rec, parsed, proto, l4, limit), _NO_BITS, _NO_BITS
    if reason != 0:
        return reason, _NO_BITS, _NO_BITS
    ports = be32(row, l4)
    rec["l4_offset"] = l4
    rec["l5_offset"] = l5
    rec["src_port"] = ports >> _16
    rec["dst_port"] = ports & _LOW_16
    return 0, _PARSED_PORTS, ports


@helper
def parse_portless(row, rec, parsed, proto, l4, limit):
    """Parse a layer 4 header that has no ports; returns a drop code."""
    if (proto == PROTO_ICMP and parsed & _PARSED_IPV4) or (proto == PROTO_ICMPV6 and parsed & _PARSED_IPV6):
        reason, l5 = parse_fixed(l4, limit, ICMP_HEADER_BYTES, _DROP_ICMP_TRUNCATED)
    elif proto == PROTO_GRE:
        reason, l5 = parse_gre(row, rec, l4, limit)
    else:
        return 0
    if reason != 0 or l5 == l4:
        return reason
    rec["l4_offset"] = l4
    rec["l5_offset"] = l5
    return 0
