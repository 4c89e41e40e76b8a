"""Generic receive offload: merge the packets of a flow within a burst into one large GSO packet.

Spec: Linux tcp_gro_receive and tcp_gro_complete, udp_gro_receive_segment; virtio 1.2 5.1.6.2.
In:   the packets going to one port, in order, that came from a port with PORT_RX_GRO.
Out:  the first of a run becomes a GSO packet that owes its checksum, whose payload is a list of the others'
      pieces; VERDICT_MERGED on the others.
Not:  packets are not held back for the next burst. Nothing is copied: what a merged packet consists of stays
      where it was received, in the rows of its members and behind them, until it has been sent.

TCP is merged when the egress port takes TSO of its family. UDP is merged when it takes USO, which is
what Linux's `rx-udp-gro-forwarding` does: datagrams keep their borders, as the far side cuts them or hands
them to a socket that asked for it (UDP_GRO). What qualifies and what follows what: gro_match.py.

Order within a flow is kept: a packet that cannot be put behind its flow's open packet closes that.
Packets of other flows may be overtaken, as with any GRO.
"""

import numpy as np

from dpu_runtime.kernels.checksum.internet import fold, pseudo_header_sum, update16
from dpu_runtime.kernels.checksum.payload import (
    IPPROTO_TCP,
    IPV6_BYTES,
    PIECE_BYTES,
    list_octets,
    octet_pieces,
)
from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.layout import (
    BATCH_SIZE,
    PARSED_IPV4,
    PAYLOAD_PIECES_MAX,
    VERDICT_MERGED,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6,
    VIRTIO_NET_HDR_GSO_UDP_L4,
)
from dpu_runtime.kernels.octets.memory import address_of
from dpu_runtime.kernels.octets.wire import be16, put_be16
from dpu_runtime.kernels.offload.gro_match import (
    ID_UNRELATED,
    checksum_good,
    ends_flow,
    id_step,
    mergeable_payload,
    same_flow,
    same_headers,
    sequence_number,
)
from dpu_runtime.kernels.offload.segment import (
    GSO_SIZE_MIN,
    IPV4_CHECKSUM_OFFSET,
    IPV4_LENGTH_OFFSET,
    IPV6_LENGTH_OFFSET,
    TCP_CHECKSUM_OFFSET,
    TCP_FIN,
    TCP_FLAGS_OFFSET,
    TCP_PSH,
    UDP_CHECKSUM_OFFSET,
    UDP_LENGTH_OFFSET,
)

GRO_FLOWS_MAX = 8  # open flows that a packet is compared with, Linux MAX_GRO_SKBS
GRO_SEGMENTS_MAX = 64  # packets merged into one, Linux UDP_GRO_CNT_MAX
GRO_BYTES_MAX = 65535  # octets from l3_offset: what a length field and meta.l3_len can say
# struct iovecs for the lists of a batch: those of the longest runs, each with the free one in front
GRO_IOV_MAX = BATCH_SIZE // 2 * (PAYLOAD_PIECES_MAX + 1)

# Scratch of one call, a row a packet of the batch; a packet's row is in use while it is a head or
# a member. Heads of open flows are a list, newest first; the members of a head are another.
GRO_DTYPE = np.dtype(
    [
        ("older", "u2"),  # next open head
        ("next", "u2"),  # next member
        ("last", "u2"),  # last member
        ("segments", "u2"),  # packets, the head included; 0: not a head
        ("size", "u2"),  # octets of payload of the head, gso_size to be
        ("id_step", "u2"),  # 0: fixed IPv4 identification
        ("entries", "u2"),  # struct iovecs of its list, the free one in front included
        ("payload_len", "u4"),  # octets of payload of all
        ("next_sequence", "u4"),  # TCP
    ],
    align=True,
)
GRO_NONE = 0xFFFF  # end of a list


@kernel
def gro_merge(headers, meta, order, count, ports, out_port, iov, gro):
    """Merge what can be merged of the packets on their way to `out_port`.

    headers   uint8[n, ROW_BYTES]    in/out, headers of merged packets
    meta      META_DTYPE[n]          in/out
    order     uint16[m]              in/out, indices of the packets; merged ones are taken out
    count     int, 0 <= count <= m   packets in `order`
    ports     PORT_DTYPE[]           in
    out_port  int                    index into ports
    iov       uint64[p, 2]           out, lists of the pieces of merged packets; GRO_IOV_MAX are enough
    gro       GRO_DTYPE[n]           scratch

    Headers, payloads and `iov` must last until the packets left are sent. A packet that has other
    destinations too (flooded, mirrored) must not be in `order`: its record is shared. Returns packets left
    in `order`. A packet whose pieces have no room in `iov` stays as it is.
    """
    out_flags = np.int64(ports[out_port]["flags"])
    room = np.int64(len(iov))
    newest = GRO_NONE
    for k in range(count):
        i = np.int64(order[k])
        gro[i]["segments"] = 0
        size = mergeable_payload(headers, meta, i, ports, out_flags)
        newest, room = _take(headers, meta, i, size, newest, room, gro)
    left = 0
    used = np.int64(0)
    for k in range(count):
        i = np.int64(order[k])
        if meta[i]["verdict"] == VERDICT_MERGED:
            continue
        if gro[i]["segments"] > 1:
            used = _join(headers, meta, i, iov, used, gro)
        order[left] = i
        left += 1
    return left


@helper
def _take(headers, meta, i, size, newest, room, gro):
    """Put packet `i` behind its flow's open head, or make it one. Returns (newest head, room in the lists).

    size  payload octets of a packet that may be merged, else 0
    """
    head = newest
    previous = GRO_NONE
    seen = 1
    while head != GRO_NONE and not same_flow(meta[head], meta[i]):
        if seen == GRO_FLOWS_MAX:
            # forget the oldest; it must not come into reach again behind a younger one of its flow
            gro[previous]["older"] = GRO_NONE
            head = GRO_NONE
            break
        previous = head
        head = np.int64(gro[head]["older"])
        seen += 1
    if head != GRO_NONE:
        promised = _append(headers, meta, head, i, size, room, gro)
        if promised > 0 and size == gro[head]["size"] and not ends_flow(headers, meta[i], i):
            return newest, room - promised
        older = np.int64(gro[head]["older"])
        if previous == GRO_NONE:
            newest = older
        else:
            gro[previous]["older"] = older
        if promised > 0:
            return newest, room - promised
    size_min = GSO_SIZE_MIN if meta[i]["ip_proto"] == IPPROTO_TCP else 1
    if size < size_min or ends_flow(headers, meta[i], i):
        return newest, room
    flow = gro[i]
    flow["older"] = newest
    flow["next"] = GRO_NONE
    flow["last"] = i
    flow["segments"] = 1
    flow["size"] = size
    flow["payload_len"] = size
    if meta[i]["ip_proto"] == IPPROTO_TCP:
        flow["next_sequence"] = (sequence_number(headers, meta[i], i) + size) & 0xFFFFFFFF
    return i, room


@helper
def _append(headers, meta, head, i, size, room, gro):
    """Make packet `i` a member of `head` if it continues it; returns the struct iovecs promised, or 0."""
    flow = gro[head]
    segments = np.int64(flow["segments"])
    payload_len = np.int64(flow["payload_len"])
    size_of_head = np.int64(flow["size"])
    l5 = np.int64(meta[head]["l5_offset"])
    header_bytes = l5 - np.int64(meta[head]["l3_offset"])
    if size == 0 or size > size_of_head or segments == GRO_SEGMENTS_MAX:
        return 0
    if header_bytes + payload_len + size > GRO_BYTES_MAX or not same_headers(headers, meta, head, i):
        return 0
    is_tcp = meta[i]["ip_proto"] == IPPROTO_TCP
    if is_tcp and sequence_number(headers, meta[i], i) != np.int64(flow["next_sequence"]):
        return 0
    step = id_step(headers, meta, head, i, segments)
    if step == ID_UNRELATED or (segments > 1 and step != np.int64(flow["id_step"])):
        return 0
    promised = octet_pieces(meta[i], meta[i]["l5_offset"], size)
    entries = np.int64(flow["entries"]) + promised
    if segments == 1:
        start = _row_end(meta[head], size_of_head)
        entries = promised + 1 + octet_pieces(meta[head], start, l5 + size_of_head - start)
        promised = entries
    if promised > room or entries > 1 + PAYLOAD_PIECES_MAX:
        return 0
    # checked last, it is the expensive part; the head's only now that it is needed
    if segments == 1 and not checksum_good(headers, meta, head):
        return 0
    if not checksum_good(headers, meta, i):
        return 0
    gro[np.int64(flow["last"])]["next"] = i
    gro[i]["next"] = GRO_NONE
    flow["last"] = i
    flow["segments"] = segments + 1
    flow["id_step"] = step
    flow["entries"] = entries
    flow["payload_len"] = payload_len + size
    if is_tcp:
        flow["next_sequence"] = (np.int64(flow["next_sequence"]) + size) & 0xFFFFFFFF
    meta[i]["verdict"] = VERDICT_MERGED
    return promised


@helper
def _row_end(record, size):
    """Row offset at which the payload of a head, `size` octets, ends or goes on behind the row."""
    return min(np.int64(record["header_end"]), np.int64(record["l5_offset"]) + size)  # no Ethernet padding


@helper
def _join(headers, meta, head, iov, used, gro):
    """Make `head` a GSO packet with the payload of its members; returns the entries of `iov` in use then."""
    flow = gro[head]
    record = meta[head]
    size = np.int64(flow["size"])
    payload_len = np.int64(flow["payload_len"])
    l5 = np.int64(record["l5_offset"])
    row_end = _row_end(record, size)
    first = used + 1  # the one in front stays free
    end = list_octets(headers, meta, head, row_end, l5 + size - row_end, iov, first)
    left = payload_len - size
    member = np.int64(flow["next"])
    while member != GRO_NONE:
        # all but the last are as long as the head
        member_len = min(left, size)
        end = list_octets(headers, meta, member, l5, member_len, iov, end)
        left -= member_len
        if record["ip_proto"] == IPPROTO_TCP:
            _add_flags(headers[head], record, headers[member], TCP_PSH | TCP_FIN)
        member = np.int64(gro[member]["next"])
    record["header_end"] = row_end
    record["payload_iov"] = address_of(iov) + np.uint64(first) * PIECE_BYTES
    record["payload_len"] = l5 + payload_len - row_end
    record["frame_len"] = l5 - np.int64(record["l2_offset"]) + payload_len
    _finish_headers(headers[head], record, size)
    return end


@helper
def _add_flags(row, record, member_row, mask):
    """Or the flags of a member that are in `mask` into those of the head."""
    at = np.int64(record["l4_offset"]) + TCP_FLAGS_OFFSET + 1
    flags = np.int64(row[at]) | (np.int64(member_row[at]) & mask)
    row[at] = flags
    record["tcp_flags"] = flags


@helper
def _finish_headers(row, record, size):
    """Write lengths and the pseudo header's sum into the headers, and the offload fields."""
    l3 = np.int64(record["l3_offset"])
    l4 = np.int64(record["l4_offset"])
    l3_len = np.int64(record["frame_len"]) - (l3 - np.int64(record["l2_offset"]))
    l4_len = l3_len - (l4 - l3)
    record["l3_len"] = l3_len
    is_v4 = np.int64(record["parsed"]) & PARSED_IPV4 != 0
    if is_v4:
        old_len = be16(row, l3 + IPV4_LENGTH_OFFSET)
        checksum = be16(row, l3 + IPV4_CHECKSUM_OFFSET)
        put_be16(row, l3 + IPV4_LENGTH_OFFSET, l3_len)
        put_be16(row, l3 + IPV4_CHECKSUM_OFFSET, update16(checksum, old_len, l3_len))
    else:
        put_be16(row, l3 + IPV6_LENGTH_OFFSET, l3_len - IPV6_BYTES)
    checksum_offset = TCP_CHECKSUM_OFFSET
    gso_type = VIRTIO_NET_HDR_GSO_TCPV4 if is_v4 else VIRTIO_NET_HDR_GSO_TCPV6
    if record["ip_proto"] != IPPROTO_TCP:
        checksum_offset = UDP_CHECKSUM_OFFSET
        gso_type = VIRTIO_NET_HDR_GSO_UDP_L4
        put_be16(row, l4 + UDP_LENGTH_OFFSET, l4_len)
    put_be16(row, l4 + checksum_offset, fold(pseudo_header_sum(record, l4_len)))
    record["offload"] = VIRTIO_NET_HDR_F_NEEDS_CSUM
    record["csum_start"] = l4
    record["csum_offset"] = checksum_offset
    record["gso_type"] = gso_type
    record["gso_size"] = size
    record["gso_hdr_len"] = np.int64(record["l5_offset"]) - np.int64(record["l2_offset"])
