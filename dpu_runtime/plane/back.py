"""The back of the pipeline, fused: packets that leave by a port, made fit for it and sent.

Merge (GRO), cut (GSO), finish owed checksums, transmit. It has the form of a stage; its state is the
worker's Frame.
"""

import numpy as np

from dpu_runtime.drivers.burst import tx_burst
from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.checksum.internet import complete_checksum
from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import (
    PORT_RX_GRO,
    PORT_TX_CSUM,
    PORT_TX_ECN,
    PORT_TX_TSO4,
    PORT_TX_TSO6,
    PORT_TX_USO,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_NONE,
    VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6,
    VIRTIO_NET_HDR_GSO_UDP_L4,
)
from dpu_runtime.kernels.offload.gro import gro_merge
from dpu_runtime.kernels.offload.segment import gso_segment, gso_segment_count
from dpu_runtime.kernels.parse.transport import PROTO_TCP
from dpu_runtime.plane.account import charge
from dpu_runtime.plane.words import FrameStage


@helper
def takes_gso(flags, m):
    """Whether a port with PORT_* `flags` takes GSO packet `m` in one piece."""
    kind = m["gso_type"] & ~VIRTIO_NET_HDR_GSO_ECN
    if m["gso_type"] & VIRTIO_NET_HDR_GSO_ECN and not flags & PORT_TX_ECN:
        return False
    if kind == VIRTIO_NET_HDR_GSO_TCPV4:
        return flags & PORT_TX_TSO4 != 0
    if kind == VIRTIO_NET_HDR_GSO_TCPV6:
        return flags & PORT_TX_TSO6 != 0
    return kind == VIRTIO_NET_HDR_GSO_UDP_L4 and flags & PORT_TX_USO != 0


@helper
def _send_segments(burst, frame, port, packet, counters):
    """Cut a packet and send the pieces, BATCH_SIZE at a time."""
    total = np.int64(gso_segment_count(burst.meta[packet]))
    if total == 0:
        burst.drops[Drop.GSO_UNSUPPORTED] += np.uint64(1)
        counters[PortCounter.TX_DROPPED] += np.uint64(1)
        return
    counters[PortCounter.GSO_SEGMENTS] += np.uint64(total - 1)
    segments = frame.segments
    kind = burst.ports[port]["kind"]
    done = np.int64(0)
    while done < total:
        n = np.int64(
            gso_segment(
                burst.headers, burst.meta, packet, done, segments.headers, segments.meta, frame.segment_iov
            )
        )
        tx_burst(kind, segments, frame.io, port, np.int64(0), n)
        done += n


@helper
def _finish_checksums(burst, first, count, counters):
    """Complete the owed checksums of `packets[first:count]`; returns count less the hopeless ones."""
    kept = first
    for k in range(first, count):
        packet = np.int64(burst.packets[k])
        if burst.meta[packet]["offload"] & VIRTIO_NET_HDR_F_NEEDS_CSUM:
            reason = np.int64(complete_checksum(burst.headers, burst.meta, packet))
            if reason != Drop.NONE:
                burst.drops[reason] += np.uint64(1)
                counters[PortCounter.TX_DROPPED] += np.uint64(1)
                continue
            counters[PortCounter.TX_CHECKSUMS] += np.uint64(1)
        burst.packets[kept] = packet
        kept += 1
    return kept


@helper
def _send_run(burst, frame, port, first, end, counters):
    """Send `packets[first:end]`, which need no cutting."""
    if not burst.ports[port]["flags"] & PORT_TX_CSUM:
        end = _finish_checksums(burst, first, end, counters)
    tx_burst(burst.ports[port]["kind"], burst, frame.io, port, first, end)


@helper
def _may_merge(burst, count):
    """Whether GRO is of use: TCP came from a port without GRO of its own, and no packet is a copy.

    A merged packet is changed in place, so it must have one egress port only.
    """
    if count < 2:
        return False
    wanted = False
    for k in range(count):
        packet = np.int64(burst.packets[k])
        if burst.copies[packet] > 1:
            return False
        if burst.meta[packet]["ip_proto"] == PROTO_TCP:
            wanted |= burst.ports[np.int64(burst.meta[packet]["in_port"])]["flags"] & PORT_RX_GRO != 0
    return wanted


@kernel
def back(burst, frame, port, count):
    """Send the packets at hand by `port`, in their order.

    burst  Burst  in/out headers, meta, packets
    frame  Frame  scratch, counters, io

    Returns packets after merging.
    """
    counters = frame.port_counters[port]
    if _may_merge(burst, count):
        left = np.int64(
            gro_merge(
                burst.headers,
                burst.meta,
                burst.packets,
                count,
                burst.ports,
                port,
                frame.gro_iov,
                frame.gro_flows,
            )
        )
        counters[PortCounter.GRO_MERGED] += np.uint64(count - left)
        count = left
    charge(burst, frame.kernel_counters, FrameStage.OFFLOAD, count)
    flags = burst.ports[port]["flags"]
    first = np.int64(0)
    k = np.int64(0)
    while k < count:
        packet = np.int64(burst.packets[k])
        m = burst.meta[packet]
        if m["gso_type"] != VIRTIO_NET_HDR_GSO_NONE and not takes_gso(flags, m):
            if k > first:
                _send_run(burst, frame, port, first, k, counters)
            _send_segments(burst, frame, port, packet, counters)
            first = k + 1
        k += 1
    if count > first:
        _send_run(burst, frame, port, first, count, counters)
    charge(burst, frame.kernel_counters, FrameStage.TX, count)
    return count
