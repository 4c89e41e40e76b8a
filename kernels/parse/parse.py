"""Parser: what every other kernel knows about a packet.

Spec: one file a protocol: ethernet, arp, ipv4, ipv6, transport, tunnel, flow_hash. Runs: repeat.
In:   placement and offload fields; header_end - l2_offset <= frame_len.
Out:  every field of META_DTYPE under "parsed", "decided" and "addresses", except payload_iov.
Not:  checksums, the headers inside a tunnel, policy.

Headers must lie in the header row. What the frame holds behind header_end is out of reach, so a
header that crosses it is dropped for its protocol's reason, as if the frame ended there.

    frame                               passes with
    neither IP nor ARP                  ethertype, l3_offset; l3_len 0, no layer 4
    later fragment                      PARSED_LATER_FRAGMENT, no layer 4, no ports
    unknown IP protocol                 ip_proto, no layer 4
    ICMP, ICMPv6, GRE                   l4_offset, l5_offset, no ports

A dropped packet keeps what was parsed in front of the fault; the rest is 0, as is its flow_hash.
`flow_hash` covers addresses, protocol and ports; any fragment counts with ports 0, so that all
fragments of a datagram stay together; a frame without addresses counts its MACs and ethertype.
"""

import numpy as np

from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.layout import (
    PARSED_ARP,
    PARSED_FRAGMENT,
    PARSED_LATER_FRAGMENT,
    PARSED_MULTICAST,
    VERDICT_PASS,
)
from dpu_runtime.kernels.octets.flow_hash import flow_hash
from dpu_runtime.kernels.octets.memory import address_of
from dpu_runtime.kernels.parse.arp import parse_arp
from dpu_runtime.kernels.parse.ethernet import ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, parse_ethernet
from dpu_runtime.kernels.parse.ipv4 import parse_ipv4
from dpu_runtime.kernels.parse.ipv6 import parse_ipv6
from dpu_runtime.kernels.parse.repeat import RUN_TRIES, copy_parsed, may_repeat, repeats
from dpu_runtime.kernels.parse.transport import parse_transport
from dpu_runtime.kernels.verdict import drop_packet

_PARSED_ARP = np.uint32(PARSED_ARP)
_PARSED_FRAGMENT = np.uint32(PARSED_FRAGMENT)
_PARSED_LATER_FRAGMENT = np.uint32(PARSED_LATER_FRAGMENT)
_PARSED_MULTICAST = np.uint32(PARSED_MULTICAST)
_NO_BITS = np.uint32(0)
_NO_ADDRESS = np.uint64(0)
_PORT_MASK = np.uint32(0xFFFF)
_PORT_SHIFT = np.uint32(16)


@helper
def clear_parsed(rec):
    """Zero every field of the parser; neighbours in the record, so these become a few wide stores."""
    rec["ethertype"] = 0
    rec["vlan_tci"] = 0
    rec["inner_tci"] = 0
    rec["vlan"] = 0
    rec["l3_offset"] = 0
    rec["l4_offset"] = 0
    rec["l5_offset"] = 0
    rec["l3_len"] = 0
    rec["src_port"] = 0
    rec["dst_port"] = 0
    rec["parsed"] = 0
    rec["ip_proto"] = 0
    rec["tcp_flags"] = 0
    rec["tunnel"] = 0
    rec["verdict"] = VERDICT_PASS
    rec["drop_reason"] = 0
    rec["tags"] = 0
    rec["tunnel_id"] = 0
    rec["flow_hash"] = 0
    rec["repeats"] = 0
    rec["src_hi"] = 0
    rec["src_lo"] = 0
    rec["dst_hi"] = 0
    rec["dst_lo"] = 0
    rec["src_mac"] = 0
    rec["dst_mac"] = 0


@helper
def parse_ip(row, rec, ethertype, group, l3, end, frame_end):
    """Parse IPv4 or IPv6 and what it carries; returns a drop code."""
    if ethertype == ETHERTYPE_IPV4:
        reason, parsed, proto, l4, packet_end = parse_ipv4(row, rec, l3, end, frame_end)
    else:
        reason, parsed, proto, l4, packet_end = parse_ipv6(row, rec, l3, end, frame_end)
    ports = _NO_BITS
    if reason == 0 and not parsed & _PARSED_LATER_FRAGMENT:
        reason, more, ports = parse_transport(row, rec, parsed, proto, l4, end, packet_end)
        parsed |= more
    rec["parsed"] = parsed | group
    if reason != 0:
        return reason
    if parsed & _PARSED_FRAGMENT:
        ports = _NO_BITS
    rec["flow_hash"] = flow_hash(
        rec["src_hi"],
        rec["src_lo"],
        rec["dst_hi"],
        rec["dst_lo"],
        proto,
        ports >> _PORT_SHIFT,
        ports & _PORT_MASK,
    )
    return 0


@helper
def parse_packet(row, rec):
    """Parse one packet into its record; returns a drop code."""
    clear_parsed(rec)
    l2 = np.uint64(rec["l2_offset"])
    end = np.uint64(rec["header_end"])
    frame_end = l2 + np.uint64(rec["frame_len"])
    reason, is_group, ethertype, l3 = parse_ethernet(row, rec, l2, end)
    group = _PARSED_MULTICAST if is_group else _NO_BITS
    if reason != 0:
        rec["parsed"] = group
        return reason
    if ethertype in (ETHERTYPE_IPV4, ETHERTYPE_IPV6):
        return parse_ip(row, rec, ethertype, group, l3, end, frame_end)
    if ethertype == ETHERTYPE_ARP:
        rec["parsed"] = group | _PARSED_ARP
        reason = parse_arp(row, rec, l3, end)
        if reason == 0:
            rec["flow_hash"] = flow_hash(
                _NO_ADDRESS, rec["src_lo"], _NO_ADDRESS, rec["dst_lo"], _NO_BITS, _NO_BITS, _NO_BITS
            )
        return reason
    rec["parsed"] = group
    rec["flow_hash"] = flow_hash(
        _NO_ADDRESS, rec["src_mac"], _NO_ADDRESS, rec["dst_mac"], ethertype, _NO_BITS, _NO_BITS
    )
    return 0


@kernel
def parse(headers, meta, count, drops):
    """Parse the first `count` packets; drop those that are malformed.

    headers  uint8[n, ROW_BYTES]        in
    meta     META_DTYPE[n]              in placement and offload fields, out see the head of this file
    count    int, 0 <= count <= n       packets in the batch
    drops    uint64[DROP_REASON_COUNT]  in/out, packets, added to

    Returns packets passed. Never raises: a bad packet is a verdict.
    """
    rows, records = address_of(headers), address_of(meta)
    row_bytes = np.uint64(headers.shape[1])
    passed = 0
    plain = -1  # the packet that began the run at hand
    tries = RUN_TRIES
    for i in range(count):
        rec = meta[i]
        if plain >= 0:
            if repeats(rows, row_bytes, records, meta, i, plain):
                copy_parsed(records, i, plain)
                rec["repeats"] = 1
                passed += 1
                tries = RUN_TRIES
                continue
            tries -= 1
        reason = parse_packet(headers[i], rec)
        plain = i if reason == 0 and tries > 0 and may_repeat(rec) else -1
        if reason == 0:
            passed += 1
        else:
            drop_packet(rec, reason, drops)
    return passed
