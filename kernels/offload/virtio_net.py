"""The virtio-net header: offload metadata as it comes in and goes out.

Spec: virtio 1.2 5.1.6 (`struct virtio_net_hdr`), 5.1.6.2 and 5.1.6.4 (what each side must set).
In:   the 12 octets in front of `l2_offset`, little-endian.
Out:  meta's offload fields; verdict, drop_reason.
Not:  the legacy 10-octet header; UFO, which is never negotiated.
"""

import numpy as np

from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import (
    PARSED_IPV4,
    PARSED_IPV6,
    VERDICT_PASS,
    VIRTIO_NET_HDR_F_DATA_VALID,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_NONE,
    VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6,
    VIRTIO_NET_HDR_GSO_UDP_L4,
)
from dpu_runtime.kernels.octets.memory import address_of, load_u16, load_u64, store_u32, store_u64
from dpu_runtime.kernels.verdict import drop_packet

VNET_HDR_BYTES = 12  # octets, with num_buffers
# bits of its first eight octets and of its last four, both little-endian
GSO_TYPE_SHIFT = np.uint64(8)
HDR_LEN_SHIFT = np.uint64(16)
GSO_SIZE_SHIFT = np.uint64(32)
CSUM_START_SHIFT = np.uint64(48)
NUM_BUFFERS_SHIFT = np.uint64(16)

_0 = np.uint64(0)
_8 = np.uint64(8)
_LOW8 = np.uint64(0xFF)
_LOW16 = np.uint64(0xFFFF)
_TCP = 6
_UDP = 17
_SCTP = 132
_FLAGS_UNKNOWN = 0xFF & ~(VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID)
_NOT_DATA_VALID = np.uint8(0xFF & ~VIRTIO_NET_HDR_F_DATA_VALID)
_GSO_KIND_MASK = 0xFF & ~VIRTIO_NET_HDR_GSO_ECN
_CHECKSUM_BYTES = 2


@kernel
def decode_vnet(headers, meta, count):
    """Copy the header in front of each of `count` frames into meta; judges nothing.

    headers  uint8[n, ROW_BYTES]   in, 12 octets before l2_offset
    meta     META_DTYPE[n]         out offload, gso_type, gso_hdr_len, gso_size, csum_start, csum_offset

    `csum_start` becomes an offset into the row; one that would leave 16 bits becomes 0xFFFF,
    which `check_vnet` drops. DATA_VALID is the device's to say (5.1.6.4), so the attached side's is
    forgotten; a port with PORT_RX_VERIFY sets it anew. Returns count.
    """
    rows = address_of(headers)
    row_bytes = np.uint64(headers.shape[1])
    for i in range(count):
        m = meta[i]
        l2 = np.uint64(m["l2_offset"])
        at = rows + np.uint64(i) * row_bytes + l2 - np.uint64(VNET_HDR_BYTES)
        word = load_u64(at)
        m["offload"] = np.uint8(word & _LOW8) & _NOT_DATA_VALID
        m["gso_type"] = (word >> GSO_TYPE_SHIFT) & _LOW8
        m["gso_hdr_len"] = (word >> HDR_LEN_SHIFT) & _LOW16
        m["gso_size"] = (word >> GSO_SIZE_SHIFT) & _LOW16
        m["csum_start"] = min((word >> CSUM_START_SHIFT) + l2, _LOW16)
        m["csum_offset"] = load_u16(at + _8)
    return count


@helper
def _check_checksum(m):
    """Judge csum_start and csum_offset of a packet whose checksum is owed."""
    start = np.int64(m["csum_start"])
    offset = np.int64(m["csum_offset"])
    l4 = np.int64(m["l4_offset"])
    floor = l4 if l4 != 0 else np.int64(m["l3_offset"])
    if floor == 0:
        floor = np.int64(m["l2_offset"])
    if start < floor or start >= np.int64(m["header_end"]):
        return Drop.VNET_CSUM_START
    if start + offset + _CHECKSUM_BYTES > np.int64(m["header_end"]):
        return Drop.VNET_CSUM_OFFSET
    if start == l4:
        proto = m["ip_proto"]
        if (
            (proto == _TCP and offset != 16)
            or (proto == _UDP and offset != 6)
            or (proto == _SCTP and offset != 8)
        ):
            return Drop.VNET_CSUM_OFFSET
    return Drop.NONE


@helper
def _check_gso(m):
    """Judge gso_type, gso_size and hdr_len of a packet that is to be segmented later."""
    kind = m["gso_type"] & _GSO_KIND_MASK
    proto = m["ip_proto"]
    parsed = m["parsed"]
    tcp = m["l4_offset"] != 0 and proto == _TCP
    udp = m["l4_offset"] != 0 and proto == _UDP
    if kind == VIRTIO_NET_HDR_GSO_TCPV4:
        fits = tcp and parsed & PARSED_IPV4
    elif kind == VIRTIO_NET_HDR_GSO_TCPV6:
        fits = tcp and parsed & PARSED_IPV6
    elif kind == VIRTIO_NET_HDR_GSO_UDP_L4:
        fits = udp and not m["gso_type"] & VIRTIO_NET_HDR_GSO_ECN
    else:
        fits = False
    if not fits:
        return Drop.VNET_GSO_TYPE
    if not m["offload"] & VIRTIO_NET_HDR_F_NEEDS_CSUM or m["csum_start"] != m["l4_offset"]:
        return Drop.VNET_FLAGS  # 5.1.6.2: a GSO packet's checksum is always owed
    if m["gso_size"] == 0:
        return Drop.VNET_GSO_SIZE
    if np.int64(m["gso_hdr_len"]) > np.int64(m["frame_len"]):
        return Drop.VNET_HDR_LEN
    return Drop.NONE


@kernel
def check_vnet(headers, meta, count, drops):
    """Drop packets whose offload metadata contradicts what was parsed.

    headers  uint8[n, ROW_BYTES]         not read
    meta     META_DTYPE[n]               in parsed and offload fields, out verdict, drop_reason
    drops    uint64[DROP_REASON_COUNT]   in/out, packets

    A checksum may be owed beyond the outer layer 4 header (a tunnel's inner packet), never in
    front of it. Returns packets passed.
    """
    passed = 0
    for i in range(count):
        m = meta[i]
        if m["verdict"] != VERDICT_PASS:
            continue
        reason = np.int64(Drop.NONE)
        if m["offload"] & _FLAGS_UNKNOWN:
            reason = np.int64(Drop.VNET_FLAGS)
        elif m["offload"] & VIRTIO_NET_HDR_F_NEEDS_CSUM:
            reason = np.int64(_check_checksum(m))
        if reason == Drop.NONE and m["gso_type"] != VIRTIO_NET_HDR_GSO_NONE:
            reason = np.int64(_check_gso(m))
        if reason != Drop.NONE:
            drop_packet(m, reason, drops)
        else:
            passed += 1
    return passed


@helper
def encode_vnet(row_addr, m, buffers):
    """Write the header of packet `m` in front of its frame in the row at `row_addr`.

    buffers  num_buffers, how many receive buffers the packet takes; 0 where nobody looks

    hdr_len is what this side parsed (5.1.6.2), never what came in.
    """
    l2 = np.uint64(m["l2_offset"])
    at = row_addr + l2 - np.uint64(VNET_HDR_BYTES)
    word = np.uint64(m["offload"])
    tail = np.uint64(buffers) << NUM_BUFFERS_SHIFT
    if m["gso_type"] != VIRTIO_NET_HDR_GSO_NONE:
        word |= np.uint64(m["gso_type"]) << GSO_TYPE_SHIFT
        word |= (np.uint64(m["l5_offset"]) - l2) << HDR_LEN_SHIFT
        word |= np.uint64(m["gso_size"]) << GSO_SIZE_SHIFT
    if m["offload"] & VIRTIO_NET_HDR_F_NEEDS_CSUM:
        word |= (np.uint64(m["csum_start"]) - l2) << CSUM_START_SHIFT
        tail |= np.uint64(m["csum_offset"])
    store_u64(at, word)
    store_u32(at + _8, tail)
