"""Verification of received checksums, for ports whose other side is not trusted to have done it.

Spec: RFC 791 3.1 (IPv4 header), RFC 768 and RFC 8200 8.1 (UDP), RFC 6935 (UDP zero checksum over
      IPv6 for tunnels), RFC 9293 3.1 (TCP), RFC 792 (ICMP), RFC 4443 2.3 (ICMPv6), RFC 9260 6.8 (SCTP).
In:   meta.in_port, l3_*, l4_offset, parsed, ip_proto, tunnel, addresses, offload, payload_*.
Out:  VIRTIO_NET_HDR_F_DATA_VALID where layer 4 was good; verdict and drop_reason where not.
Not:  layer 4 of fragments (the checksum covers the reassembled packet), of packets that owe their
      checksum or that the other side vouched for, of IPv6 packets on the way to an intermediate
      address of a routing header (the pseudo header has the final one, RFC 8200 8.1) or with a home
      address option (RFC 6275 11.3.1); other protocols.

A UDP checksum of 0 says "none". IPv4 allows it. IPv6 forbids it, except for tunnels, which protect
their inner packet: it passes when the parser found a tunnel header behind it.
"""

import numpy as np

from dpu_runtime.kernels.checksum.crc32c import SCTP_CHECKSUM_OFFSET, sctp_checksum
from dpu_runtime.kernels.checksum.internet import (
    UDP_CHECKSUM_OFFSET,
    fold,
    ones_sum,
    packet_end,
    pseudo_header_sum,
    range_sum,
)
from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import (
    PARSED_FRAGMENT,
    PARSED_IP_OPTIONS,
    PARSED_IPV4,
    PARSED_IPV6,
    PORT_RX_VERIFY,
    TUNNEL_NONE,
    VERDICT_PASS,
    VIRTIO_NET_HDR_F_DATA_VALID,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
)
from dpu_runtime.kernels.octets.memory import address_of, load_u32
from dpu_runtime.kernels.octets.wire import be16
from dpu_runtime.kernels.parse.ipv4 import IPV4_HEADER_BYTES
from dpu_runtime.kernels.parse.ipv6 import DESTINATION_OPTIONS, HOP_BY_HOP, IPV6_HEADER_BYTES, ROUTING
from dpu_runtime.kernels.parse.transport import (
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_SCTP,
    PROTO_TCP,
    PROTO_UDP,
    SCTP_HEADER_BYTES,
    UDP_HEADER_BYTES,
    UDP_LENGTH_OFFSET,
)
from dpu_runtime.kernels.verdict import drop_packet

IPV6_NEXT_HEADER_OFFSET = 6  # octets, RFC 8200 3
SEGMENTS_LEFT_OFFSET = 3  # octets, RFC 8200 4.4
OPTION_PAD1 = 0  # RFC 8200 4.2
OPTION_HOME_ADDRESS = 0xC9  # RFC 6275 6.3

_UNKNOWN = np.uint8(0)  # not verified
_GOOD = np.uint8(1)
_BAD = np.uint8(2)
_NONE = np.uint8(Drop.NONE)
_IPV4_BAD = np.uint8(Drop.IPV4_CHECKSUM)
_L4_BAD = np.uint8(Drop.L4_CHECKSUM)
_GOOD_SUM = np.uint64(0xFFFF)  # RFC 1071 1 (3): all ones
_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_4 = np.uint64(4)
_8 = np.uint64(8)
_12 = np.uint64(12)
_16 = np.uint64(16)


@helper
def ipv4_header_good(headers, meta, i):
    """Whether the checksum of the IPv4 header of packet `i`, options included, is right."""
    record = meta[i]
    l3 = np.uint64(record["l3_offset"])
    header_end = np.uint64(record["header_end"])
    if l3 + IPV4_HEADER_BYTES > header_end:
        return False
    length = np.uint64(headers[i, l3] & np.uint8(0x0F)) << _2
    if length < IPV4_HEADER_BYTES or l3 + length > header_end:
        return False
    at = address_of(headers[i]) + l3
    if length == IPV4_HEADER_BYTES:
        # nearly every packet's; a loop over 20 octets would cost more than they do
        total = np.uint64(load_u32(at + _16)) + np.uint64(load_u32(at)) + np.uint64(load_u32(at + _4))
        total += np.uint64(load_u32(at + _8)) + np.uint64(load_u32(at + _12))
        return fold(total) == _GOOD_SUM
    return ones_sum(at, length) == _GOOD_SUM


@helper
def has_home_address(row, start, end):
    """Whether the options in row[start:end] hold a home address."""
    at = np.uint64(start)
    last = np.uint64(end)
    while at < last:
        if row[at] == np.uint8(OPTION_HOME_ADDRESS):
            return True
        if row[at] == np.uint8(OPTION_PAD1):
            at += _1
        elif at + _1 < last:
            at += _2 + np.uint64(row[at + _1])
        else:
            return False
    return False


@helper
def ipv6_addresses_final(row, l3_offset, l4_offset):
    """Whether the IPv6 header's addresses are those of the pseudo header.

    Walks the extension headers in row[l3_offset:l4_offset], which the parser has accepted.
    """
    at = np.uint64(l3_offset) + IPV6_HEADER_BYTES
    end = np.uint64(l4_offset)
    next_header = np.uint32(row[np.uint64(l3_offset) + np.uint64(IPV6_NEXT_HEADER_OFFSET)])
    while at + _8 <= end:
        header_end = at + ((np.uint64(row[at + _1]) + _1) << np.uint64(3))
        if next_header == ROUTING:
            if row[at + np.uint64(SEGMENTS_LEFT_OFFSET)] != np.uint8(0):
                return False
        elif next_header == DESTINATION_OPTIONS:
            if has_home_address(row, at + _2, min(header_end, end)):
                return False
        elif next_header != HOP_BY_HOP:
            # AH counts its length in other units; nothing behind it changes the addresses here
            return True
        next_header = np.uint32(row[at])
        at = header_end
    return True


@helper
def udp_state(headers, meta, i, l4, end):
    """Whether the UDP checksum is good, bad, or none; it covers the octets of the UDP length."""
    record = meta[i]
    if l4 + UDP_HEADER_BYTES > min(np.uint64(record["header_end"]), end):
        return _BAD
    row = headers[i]
    length = np.uint64(be16(row, l4 + UDP_LENGTH_OFFSET))
    if length < UDP_HEADER_BYTES or l4 + length > end:
        return _BAD
    if be16(row, l4 + np.uint64(UDP_CHECKSUM_OFFSET)) == np.uint32(0):
        if record["parsed"] & np.uint16(PARSED_IPV4) or record["tunnel"] != np.uint8(TUNNEL_NONE):
            return _UNKNOWN
        return _BAD
    total = pseudo_header_sum(record, length) + range_sum(headers, meta, i, l4, l4 + length)
    return _GOOD if fold(total) == _GOOD_SUM else _BAD


@helper
def sctp_state(headers, meta, i, l4, end):
    """Whether the SCTP checksum is good or bad."""
    if l4 + SCTP_HEADER_BYTES > min(np.uint64(meta[i]["header_end"]), end):
        return _BAD
    field = np.uint64(load_u32(address_of(headers[i]) + l4 + np.uint64(SCTP_CHECKSUM_OFFSET)))
    return _GOOD if sctp_checksum(headers, meta, i, l4, end) == field else _BAD


@helper
def l4_state(headers, meta, i):
    """Whether the layer 4 checksum of packet `i` is good, bad, or unknown (see the file's head)."""
    record = meta[i]
    l4 = np.uint64(record["l4_offset"])
    flags = np.uint8(VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID)
    parsed = np.uint16(record["parsed"])
    if l4 == _0 or record["offload"] & flags or parsed & np.uint16(PARSED_FRAGMENT):
        return _UNKNOWN
    if parsed & np.uint16(PARSED_IPV6) and parsed & np.uint16(PARSED_IP_OPTIONS):
        if l4 > np.uint64(record["header_end"]):
            return _UNKNOWN
        if not ipv6_addresses_final(headers[i], record["l3_offset"], l4):
            return _UNKNOWN
    end = packet_end(record)
    proto = np.uint32(record["ip_proto"])
    if proto == PROTO_UDP:
        return udp_state(headers, meta, i, l4, end)
    if proto == PROTO_SCTP:
        return sctp_state(headers, meta, i, l4, end)
    total = _0
    if proto == PROTO_TCP or proto == PROTO_ICMPV6:
        total = pseudo_header_sum(record, end - l4 if end > l4 else _0)
    elif proto != PROTO_ICMP:
        return _UNKNOWN
    total += range_sum(headers, meta, i, l4, end)
    return _GOOD if fold(total) == _GOOD_SUM else _BAD


@helper
def verify_checksum(headers, meta, i):
    """Verify the checksums of packet `i`; returns Drop.NONE or the drop reason."""
    record = meta[i]
    if record["parsed"] & np.uint16(PARSED_IPV4) and not ipv4_header_good(headers, meta, i):
        return _IPV4_BAD
    state = l4_state(headers, meta, i)
    if state == _BAD:
        return _L4_BAD
    if state == _GOOD:
        record["offload"] = np.uint8(record["offload"]) | np.uint8(VIRTIO_NET_HDR_F_DATA_VALID)
    return _NONE


@kernel
def verify_checksums(headers, meta, count, ports, drops):
    """Verify the checksums of those of the first `count` packets whose port asks for it.

    headers  uint8[n, ROW_BYTES]        in
    meta     META_DTYPE[n]              in/out, offload; out verdict, drop_reason
    count    int, 0 <= count <= n       packets in the batch
    ports    PORT_DTYPE[PORTS_MAX]      in, flags: PORT_RX_VERIFY
    drops    uint64[DROP_REASON_COUNT]  in/out, packets, added to

    Returns packets passed. Never raises: a bad packet is a verdict.
    """
    passed = 0
    for i in range(count):
        if meta[i]["verdict"] != VERDICT_PASS:
            continue
        in_port = np.uint64(meta[i]["in_port"])
        reason = _NONE
        if in_port < np.uint64(len(ports)) and ports[in_port]["flags"] & np.uint32(PORT_RX_VERIFY):
            reason = verify_checksum(headers, meta, i)
        if reason == _NONE:
            passed += 1
        else:
            drop_packet(meta[i], reason, drops)
    return passed
