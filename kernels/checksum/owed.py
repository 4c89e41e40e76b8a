"""Owed checksums that nothing marks: frames of an interface that hands them over without offload metadata.

Linux leaves the layer 4 checksum to the device (CHECKSUM_PARTIAL), and an AF_XDP socket on the other end of
a veth pair gets the frame before any device has done it, without a word. The field then holds what the stack
put there: the pseudo header's sum, folded and not complemented; for SCTP 0.

Spec: RFC 9293 3.1 and RFC 768 (TCP, UDP), RFC 8200 8.1 (pseudo header), RFC 9260 6.8 (SCTP), virtio 1.2
      5.1.6.2 (what an owed checksum looks like), Linux Documentation/networking/checksum-offloads.rst.
In:   the flags of the burst's port, parsed fields, offload, the checksum field.
Out:  offload with NEEDS_CSUM, csum_start, csum_offset: from here on as if a virtio driver had said it.
Not:  fragments; IPv6 packets whose pseudo header has another destination than the IP header (as in
      checksum_verify.py); UDP without a checksum, or with a length that is not its packet's; the
      packet inside a tunnel.

A complete packet may hold this value by chance, one in 65,536, and is marked too. That does it no harm:
with P the pseudo header's sum and D that of the other octets (RFC 1071), complete means field = ~(P + D).
To finish it, the octets are summed as they lie, field included, and complemented: ~(field + D). As field = P,
this is ~(P + D), the same field again. (TCP has two ways to write zero, 0 and 0xFFFF, and one may become the
other; receivers take both.) SCTP's CRC does not include the field, and comes out 0 again. What this costs is
what a 16-bit sum misses in any case: one damaged packet in 65,536 is no longer seen to be damaged.
"""

import numpy as np

from dpu_runtime.kernels.checksum.crc32c import SCTP_CHECKSUM_OFFSET
from dpu_runtime.kernels.checksum.internet import UDP_CHECKSUM_OFFSET, fold, pseudo_header_sum
from dpu_runtime.kernels.checksum.verify import ipv6_addresses_final
from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.layout import (
    PARSED_FRAGMENT,
    PARSED_IP_OPTIONS,
    PARSED_IPV4,
    PARSED_IPV6,
    PORT_RX_OWED,
    VERDICT_PASS,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
)
from dpu_runtime.kernels.octets.wire import be16, be32
from dpu_runtime.kernels.offload.segment import TCP_CHECKSUM_OFFSET
from dpu_runtime.kernels.parse.transport import PROTO_SCTP, PROTO_TCP, PROTO_UDP, UDP_LENGTH_OFFSET

_IP = np.uint16(PARSED_IPV4 | PARSED_IPV6)
_IPV6_OPTIONS = np.uint16(PARSED_IPV6 | PARSED_IP_OPTIONS)
_FRAGMENT = np.uint16(PARSED_FRAGMENT)
_NEEDS_CSUM = np.uint8(VIRTIO_NET_HDR_F_NEEDS_CSUM)
_NO_OFFSET = np.uint64(0)
_TCP_AT = np.uint64(TCP_CHECKSUM_OFFSET)
_UDP_AT = np.uint64(UDP_CHECKSUM_OFFSET)
_SCTP_AT = np.uint64(SCTP_CHECKSUM_OFFSET)
_0 = np.uint64(0)
_2 = np.uint64(2)
_4 = np.uint64(4)


@helper
def owed_offset(row, record):
    """Octets from layer 4 to the checksum that the packet of meta `record` seems to owe; 0: to none."""
    parsed = np.uint16(record["parsed"])
    l3 = np.uint64(record["l3_offset"])
    l4 = np.uint64(record["l4_offset"])
    header_end = np.uint64(record["header_end"])
    l3_end = l3 + np.uint64(record["l3_len"])
    if l4 == _0 or not parsed & _IP or parsed & _FRAGMENT or l3_end <= l4 or l4 > header_end:
        return _NO_OFFSET
    proto = np.uint32(record["ip_proto"])
    if proto == PROTO_SCTP:
        owed = l4 + _SCTP_AT + _4 <= header_end and be32(row, l4 + _SCTP_AT) == np.uint32(0)
        return _SCTP_AT if owed else _NO_OFFSET
    if proto == PROTO_TCP:
        offset = _TCP_AT
    elif proto == PROTO_UDP:
        offset = _UDP_AT
    else:
        return _NO_OFFSET
    if l4 + offset + _2 > header_end:
        return _NO_OFFSET
    l4_len = l3_end - l4
    field = np.uint64(be16(row, l4 + offset))
    # the pseudo header's sum is never 0 (it has the protocol in it), so UDP's "none" does not match
    if field != fold(pseudo_header_sum(record, l4_len)):
        return _NO_OFFSET
    if proto == PROTO_UDP and np.uint64(be16(row, l4 + UDP_LENGTH_OFFSET)) != l4_len:
        return _NO_OFFSET
    if parsed & _IPV6_OPTIONS == _IPV6_OPTIONS and not ipv6_addresses_final(row, l3, l4):
        return _NO_OFFSET
    return offset


@kernel
def mark_owed(headers, meta, count, ports):
    """Mark those of a burst's first `count` packets that owe their checksum, if its port does not.

    headers  uint8[n, ROW_BYTES]    in
    meta     META_DTYPE[n]          in parsed fields, out offload, csum_start, csum_offset
    count    int, 0 <= count <= n   packets in the batch, all of one port
    ports    PORT_DTYPE[PORTS_MAX]  in, flags: PORT_RX_OWED

    Returns packets marked. Never raises.
    """
    marked = 0
    if count < 1 or not ports[np.uint64(meta[0]["in_port"])]["flags"] & np.uint32(PORT_RX_OWED):
        return marked
    for i in range(count):
        record = meta[i]
        if record["verdict"] != VERDICT_PASS or record["offload"] & _NEEDS_CSUM:
            continue
        offset = owed_offset(headers[i], record)
        if offset != _NO_OFFSET:
            record["offload"] = np.uint8(record["offload"]) | _NEEDS_CSUM
            record["csum_start"] = record["l4_offset"]
            record["csum_offset"] = offset
            marked += 1
    return marked
