"""Tunnel headers: GRE, VXLAN, GENEVE, GTP-U. Recognised, not entered.

Spec: RFC 2784, RFC 2890 (GRE), RFC 7348 section 5 (VXLAN), RFC 8926 section 3.4 (GENEVE),
      3GPP TS 29.281 section 5.1 (GTP-U).
In:   the header, the end of what may be read.   Out: tunnel, tunnel_id.
Not:  the inner headers; VXLAN-GPE; GRE version 1 (PPTP) and source routes (RFC 1701).

GRE has a protocol number of its own, so a GRE header that ends early is malformed: GRE_TRUNCATED.
A UDP port alone says nothing, anybody may send from or to it: UDP to a tunnel port whose payload
is no valid and complete tunnel header stays plain UDP (TUNNEL_NONE). Nothing here is a
TUNNEL_TRUNCATED: that reason is for those who enter a recognised tunnel and find it cut short.
"""

import numpy as np

from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import TUNNEL_GENEVE, TUNNEL_GRE, TUNNEL_GTPU, TUNNEL_VXLAN
from dpu_runtime.kernels.octets.wire import be16, be32

GRE_HEADER_BYTES = np.uint64(4)  # octets, RFC 2784 2
GRE_OPTION_BYTES = np.uint64(4)  # octets of each of checksum, key, sequence number, RFC 2890 2
GRE_CHECKSUM = np.uint32(0x8000)
GRE_ROUTING = np.uint32(0x4000)  # RFC 1701, gone since RFC 2784
GRE_KEY = np.uint32(0x2000)
GRE_SEQUENCE = np.uint32(0x1000)
GRE_VERSION_MASK = np.uint32(0x0007)
VXLAN_PORT = np.uint32(4789)  # RFC 7348 5
VXLAN_HEADER_BYTES = np.uint64(8)  # octets
VXLAN_VNI_VALID = np.uint32(0x0800_0000)  # the I flag, in the header's first word
GENEVE_PORT = np.uint32(6081)  # RFC 8926 3.3
GENEVE_HEADER_BYTES = np.uint64(8)  # octets, without options
GENEVE_VERSION_SHIFT = np.uint32(30)
GENEVE_OPTIONS_SHIFT = np.uint32(24)  # of the count of options, units of 4 octets
GENEVE_OPTIONS_MASK = np.uint32(0x3F)
GTPU_PORT = np.uint32(2152)  # TS 29.281 4.4.2
GTPU_HEADER_BYTES = np.uint64(8)  # octets, the mandatory part
GTPU_OPTION_BYTES = np.uint64(4)  # octets, there when any of E, S and PN is set
GTPU_FLAGS_SHIFT = np.uint32(24)
GTPU_VERSION_MASK = np.uint32(0xF0)  # version and protocol type
GTPU_VERSION_1 = np.uint32(0x30)  # version 1, protocol type GTP
GTPU_OPTIONS_MASK = np.uint32(0x07)  # E, S, PN
GTPU_TYPE_SHIFT = np.uint32(16)
GTPU_G_PDU = np.uint32(255)  # message type of a tunnelled packet; all others are signalling
_DROP_GRE_TRUNCATED = int(Drop.GRE_TRUNCATED)
_VNI_OFFSET = np.uint64(4)  # octets; VNI and TEID both lie in the second word
_VNI_SHIFT = np.uint32(8)
_LOW_8 = np.uint32(0xFF)
_LOW_16 = np.uint32(0xFFFF)
_0 = np.uint32(0)
_NO_BYTES = np.uint64(0)
_2 = np.uint64(2)


@helper
def parse_gre(row, rec, l4, limit):
    """Parse a GRE header; returns (drop code, offset behind it).

    A version that is not known, or a source route, returns (0, l4): an unknown header.
    """
    offset = l4 + GRE_HEADER_BYTES
    if offset > limit:
        return _DROP_GRE_TRUNCATED, l4
    flags = be16(row, l4)
    if flags & (GRE_ROUTING | GRE_VERSION_MASK):
        return 0, l4
    if flags & GRE_CHECKSUM:
        offset = offset + GRE_OPTION_BYTES
    key_offset = offset
    if flags & GRE_KEY:
        offset = offset + GRE_OPTION_BYTES
    if flags & GRE_SEQUENCE:
        offset = offset + GRE_OPTION_BYTES
    if offset > limit:
        return _DROP_GRE_TRUNCATED, l4
    rec["tunnel"] = TUNNEL_GRE
    if flags & GRE_KEY:
        rec["tunnel_id"] = be32(row, key_offset)
    return 0, offset


@helper
def is_vxlan(row, offset, limit):
    """Whether a VXLAN header with a VNI lies at `offset`."""
    return offset + VXLAN_HEADER_BYTES <= limit and (be32(row, offset) & VXLAN_VNI_VALID) != _0


@helper
def is_geneve(row, offset, limit):
    """Whether a GENEVE header of version 0 and all of its options lie at `offset`."""
    if offset + GENEVE_HEADER_BYTES > limit:
        return False
    word = be32(row, offset)
    options_bytes = np.uint64((word >> GENEVE_OPTIONS_SHIFT) & GENEVE_OPTIONS_MASK) << _2
    return (word >> GENEVE_VERSION_SHIFT) == _0 and offset + GENEVE_HEADER_BYTES + options_bytes <= limit


@helper
def is_gtpu(row, offset, limit, udp_end):
    """Whether a GTP-U header with a tunnelled packet lies at `offset`, inside the datagram."""
    if offset + GTPU_HEADER_BYTES > limit:
        return False
    word = be32(row, offset)
    flags = word >> GTPU_FLAGS_SHIFT
    message_bytes = np.uint64(word & _LOW_16)  # behind the mandatory part
    if (flags & GTPU_VERSION_MASK) != GTPU_VERSION_1 or (word >> GTPU_TYPE_SHIFT) & _LOW_8 != GTPU_G_PDU:
        return False
    body = offset + GTPU_HEADER_BYTES
    options_bytes = GTPU_OPTION_BYTES if flags & GTPU_OPTIONS_MASK else _NO_BYTES
    if options_bytes > message_bytes or body + options_bytes > limit:
        return False
    return body + message_bytes <= udp_end


@helper
def announces_tunnel(dst_port):
    """Whether UDP to `dst_port`, uint32, may carry a tunnel header."""
    return dst_port == VXLAN_PORT or dst_port == GENEVE_PORT or dst_port == GTPU_PORT


@helper
def recognise_udp_tunnel(row, rec, dst_port, offset, limit, udp_end):
    """Write `tunnel` and `tunnel_id` if a valid tunnel header lies behind a UDP header.

    offset, limit, udp_end  uint64   UDP payload, end of what may be read, end by the UDP length
    """
    if dst_port == VXLAN_PORT:
        if is_vxlan(row, offset, limit):
            rec["tunnel"] = TUNNEL_VXLAN
            rec["tunnel_id"] = be32(row, offset + _VNI_OFFSET) >> _VNI_SHIFT
    elif dst_port == GENEVE_PORT:
        if is_geneve(row, offset, limit):
            rec["tunnel"] = TUNNEL_GENEVE
            rec["tunnel_id"] = be32(row, offset + _VNI_OFFSET) >> _VNI_SHIFT
    elif dst_port == GTPU_PORT and is_gtpu(row, offset, limit, udp_end):
        rec["tunnel"] = TUNNEL_GTPU
        rec["tunnel_id"] = be32(row, offset + _VNI_OFFSET)
