"""What GRO may put together: which packets qualify, and which continue another.

Spec: what Linux's tcp_gro_receive, udp_gro_receive, inet_gro_receive and ipv6_gro_receive ask of two
      packets; RFC 6864 (identification of atomic datagrams).
In:   parsed fields, gso_type, offload, in_port; header octets.   Out: offload (DATA_VALID).
Not:  CWR (it would have to stay on one segment), IPv4 options, IPv6 extension headers, fragments,
      packets that are merged already.

Merging must be undone by segmentation octet for octet. The one exception is Linux's as well: a fixed
IPv4 identification under DF, which means nothing there, becomes an incremental one.
"""

import numpy as np

from dpu_runtime.kernels.checksum.payload import IPPROTO_TCP, l4_payload_len
from dpu_runtime.kernels.checksum.verify import verify_checksum
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import (
    PARSED_AUTH,
    PARSED_FRAGMENT,
    PARSED_IP_OPTIONS,
    PARSED_IPV4,
    PORT_RX_GRO,
    PORT_TX_CSUM,
    PORT_TX_TSO4,
    PORT_TX_TSO6,
    PORT_TX_USO,
    ROW_BYTES,
    VERDICT_PASS,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
)
from dpu_runtime.kernels.octets.memory import address_of
from dpu_runtime.kernels.octets.wide_compare import COMPARED_BYTES, differing_octets
from dpu_runtime.kernels.octets.wire import be16, be32
from dpu_runtime.kernels.offload.segment import (
    IPV4_CHECKSUM_OFFSET,
    IPV4_ID_OFFSET,
    IPV4_LENGTH_OFFSET,
    IPV6_LENGTH_OFFSET,
    TCP_CHECKSUM_OFFSET,
    TCP_FIN,
    TCP_FLAGS_OFFSET,
    TCP_PSH,
    TCP_SEQUENCE_OFFSET,
    UDP_CHECKSUM_OFFSET,
    UDP_LENGTH_OFFSET,
)

IPV4_PLAIN = 0x45  # version 4, no options, RFC 791 3.1
IPV4_FRAGMENT_OFFSET = 6  # octets: flags and fragment offset
IPV4_DF = 0x4000
TCP_ACK = 0x10
TCP_ECE = 0x40
_TCP_MERGEABLE = TCP_ACK | TCP_PSH | TCP_FIN | TCP_ECE
_TCP_FLAGS_SAME = 0xFF ^ (TCP_PSH | TCP_FIN)
ID_UNRELATED = -1

# Octets that packets of one run have of their own, bit k for octet k of the header
_IPV4_OWN = np.uint64(0b11 << IPV4_LENGTH_OFFSET | 0b11 << IPV4_ID_OFFSET | 0b11 << IPV4_CHECKSUM_OFFSET)
_IPV6_OWN = np.uint64(0b11 << IPV6_LENGTH_OFFSET)
_TCP_OWN = np.uint64(
    0b1111 << TCP_SEQUENCE_OFFSET | 0b1 << (TCP_FLAGS_OFFSET + 1) | 0b11 << TCP_CHECKSUM_OFFSET
)
_UDP_OWN = np.uint64(0b11 << UDP_LENGTH_OFFSET | 0b11 << UDP_CHECKSUM_OFFSET)
_0 = np.uint64(0)
_1 = np.uint64(1)
_64 = np.uint64(COMPARED_BYTES)


@helper
def egress_merges(flags, record):
    """Whether a port with PORT_* `flags` takes a GSO packet of the kind that `record` would become."""
    if not flags & PORT_TX_CSUM:
        return False
    if record["ip_proto"] != IPPROTO_TCP:
        return flags & PORT_TX_USO != 0
    if np.int64(record["parsed"]) & PARSED_IPV4:
        return flags & PORT_TX_TSO4 != 0
    return flags & PORT_TX_TSO6 != 0


@helper
def mergeable_payload(headers, meta, i, ports, out_flags):
    """Octets of payload of packet `i` if it may be merged at all, else 0. Checksums are not looked at."""
    record = meta[i]
    in_port = np.int64(record["in_port"])
    if record["verdict"] != VERDICT_PASS or record["gso_type"] != 0 or in_port >= len(ports):
        return 0
    if not np.int64(ports[in_port]["flags"]) & PORT_RX_GRO or not egress_merges(out_flags, record):
        return 0
    payload_len = l4_payload_len(record)
    if payload_len <= 0 or np.int64(record["parsed"]) & (PARSED_FRAGMENT | PARSED_AUTH | PARSED_IP_OPTIONS):
        return 0
    row = headers[i]
    l3 = np.int64(record["l3_offset"])
    l4 = np.int64(record["l4_offset"])
    if np.int64(record["parsed"]) & PARSED_IPV4 and (
        row[l3] != IPV4_PLAIN or np.int64(be16(row, l3 + IPV4_FRAGMENT_OFFSET)) & ~IPV4_DF
    ):
        return 0
    owed = np.int64(record["offload"]) & VIRTIO_NET_HDR_F_NEEDS_CSUM
    if record["ip_proto"] == IPPROTO_TCP:
        flags = np.int64(row[l4 + TCP_FLAGS_OFFSET + 1])
        checksum_offset = TCP_CHECKSUM_OFFSET
        plain = flags & ~_TCP_MERGEABLE == 0 and flags & TCP_ACK != 0
    else:
        checksum_offset = UDP_CHECKSUM_OFFSET
        l4_len = np.int64(record["l3_len"]) - (l4 - l3)
        plain = np.int64(be16(row, l4 + UDP_LENGTH_OFFSET)) == l4_len
        if not owed and be16(row, l4 + UDP_CHECKSUM_OFFSET) == 0:
            plain = False  # no checksum: it would get one
    if owed and (record["csum_start"] != record["l4_offset"] or record["csum_offset"] != checksum_offset):
        plain = False
    return payload_len if plain else 0


@helper
def ends_flow(headers, record, i):
    """Whether nothing may be put behind packet `i`: FIN, or PSH, which says where to hand over."""
    if record["ip_proto"] != IPPROTO_TCP:
        return False
    flags = headers[i, np.int64(record["l4_offset"]) + TCP_FLAGS_OFFSET + 1]
    return flags & (TCP_PSH | TCP_FIN) != 0


@helper
def same_flow(a, b):
    """Whether two records have the same addresses, protocol and ports."""
    return (
        a["src_lo"] == b["src_lo"]
        and a["dst_lo"] == b["dst_lo"]
        and a["src_port"] == b["src_port"]
        and a["dst_port"] == b["dst_port"]
        and a["ip_proto"] == b["ip_proto"]
        and a["src_hi"] == b["src_hi"]
        and a["dst_hi"] == b["dst_hi"]
    )


@helper
def same_headers(headers, meta, head, i):
    """Whether all header octets are equal that segmentation would copy from `head` into `i`.

    Both are mergeable and of one flow. Lengths, identification, checksums, sequence number, PSH and FIN
    are the caller's.
    """
    a = meta[head]
    b = meta[i]
    if a["in_port"] != b["in_port"] or a["l2_offset"] != b["l2_offset"] or a["parsed"] != b["parsed"]:
        return False
    if a["l3_offset"] != b["l3_offset"] or a["l4_offset"] != b["l4_offset"]:
        return False
    if a["l5_offset"] != b["l5_offset"]:
        return False
    l2 = np.uint64(a["l2_offset"])
    l3_at = np.uint64(a["l3_offset"]) - l2
    l4_at = np.uint64(a["l4_offset"]) - l2
    size = np.uint64(a["l5_offset"]) - l2
    # Never with the headers that may be merged; a record may say otherwise.
    if l4_at >= _64 or size >= _64 + _64 or l2 + _64 + _64 > np.uint64(ROW_BYTES):
        return False
    own = _IPV4_OWN if np.int64(a["parsed"]) & PARSED_IPV4 else _IPV6_OWN
    is_tcp = a["ip_proto"] == IPPROTO_TCP
    l4_own = _TCP_OWN if is_tcp else _UDP_OWN
    row_a = address_of(headers[head]) + l2
    row_b = address_of(headers[i]) + l2
    differ = differing_octets(row_a, row_b) & ~(own << l3_at | l4_own << l4_at)
    if size < _64:
        differ &= (_1 << size) - _1
    elif size > _64:
        behind = differing_octets(row_a + _64, row_b + _64) & ~(l4_own >> (_64 - l4_at))
        differ |= behind & ((_1 << (size - _64)) - _1)
    if differ != _0:
        return False
    if is_tcp:
        at = np.int64(a["l4_offset"]) + TCP_FLAGS_OFFSET + 1
        return (headers[head, at] ^ headers[i, at]) & _TCP_FLAGS_SAME == 0
    return True


@helper
def sequence_number(headers, record, i):
    """TCP sequence number of packet `i`."""
    return np.int64(be32(headers[i], np.int64(record["l4_offset"]) + 4))


@helper
def id_step(headers, meta, head, i, segments):
    """Step of the IPv4 identification from `head` to `i`, its `segments`-th successor.

    1: incremental. 0: fixed, under DF only. ID_UNRELATED: neither. IPv6 has none: always 1.
    """
    a = meta[head]
    if not np.int64(a["parsed"]) & PARSED_IPV4:
        return 1
    l3 = np.int64(a["l3_offset"])
    id_a = np.int64(be16(headers[head], l3 + IPV4_ID_OFFSET))
    id_b = np.int64(be16(headers[i], l3 + IPV4_ID_OFFSET))
    if (id_b - id_a) & 0xFFFF == segments:
        return 1
    fixed = id_a == id_b and be16(headers[head], l3 + IPV4_FRAGMENT_OFFSET) & IPV4_DF
    return 0 if fixed else ID_UNRELATED


@helper
def checksum_good(headers, meta, i):
    """Whether the checksums of packet `i` are right, or its layer 4 checksum is owed or vouched for."""
    return verify_checksum(headers, meta, i) == Drop.NONE
