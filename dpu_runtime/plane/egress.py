"""Egress: from the switch's copies to the ports' queues.

Copies are gathered by port, so that a port's policy, offloads and transmit each run once a burst.
In:   `out_packet`/`out_port` of the batch.   Out: packets sent, drops and port counters.
"""

import numpy as np

from dpu_runtime.drivers.burst import tx_burst
from dpu_runtime.drivers.linux.libc import CLOCK_MONOTONIC, clock_gettime
from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.acl.filter import filter_egress
from dpu_runtime.kernels.checksum.internet import complete_checksum
from dpu_runtime.kernels.compile.jit import glue, helper
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import (
    BATCH_SIZE,
    PORT_RX_GRO,
    PORT_TX_CSUM,
    PORT_TX_ECN,
    PORT_TX_METER,
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
from dpu_runtime.kernels.meter.bucket import meter_tx
from dpu_runtime.kernels.meter.table import NS_PER_SECOND
from dpu_runtime.kernels.meter.table import TX as METER_TX_ROW
from dpu_runtime.kernels.octets.memory import address_of, cycles
from dpu_runtime.kernels.offload.gro import gro_merge
from dpu_runtime.kernels.offload.segment import gso_segment, gso_segment_count
from dpu_runtime.kernels.parse.transport import PROTO_TCP
from dpu_runtime.kernels.switch.vlan import retag
from dpu_runtime.plane.shared import Stage
from dpu_runtime.plane.watch import note_burst


@helper
def charge(kernel_counters, stage, packets, since):
    """Book `packets` and the cycles since `since` to a stage; returns the time now."""
    now = cycles()
    kernel_counters[stage, 0] += np.uint64(packets)
    kernel_counters[stage, 1] += now - since
    return now


@helper
def clock_ns(w):
    """Time of the rate limits: one clock for all workers, and for the data plane after this one."""
    clock_gettime(np.int32(CLOCK_MONOTONIC), address_of(w.words))
    return w.words[0] * np.uint64(NS_PER_SECOND) + w.words[1]


@helper
def _to_one_port(batch, n_out):
    """Whether every copy goes to one port, each packet once: then `order` is them as they are.

    That is nearly every burst of one flow or of few; to link its copies would be work for nothing.
    """
    port = batch.out_port[0]
    for k in range(1, n_out):
        if batch.out_port[k] != port or batch.out_packet[k] <= batch.out_packet[k - 1]:
            return False
    if n_out > BATCH_SIZE:
        return False
    for k in range(n_out):
        packet = batch.out_packet[k]
        batch.order[k] = packet
        batch.order_port[k] = port
        batch.copies[np.int64(packet)] = 1
    batch.egress_ports[0] = port
    return True


@helper
def gather(batch, n_out):
    """Link the copies by egress port; returns the number of distinct ports."""
    distinct = 0
    for k in range(n_out):
        batch.copies[np.int64(batch.out_packet[k])] = 0
    for k in range(n_out):
        port = np.int64(batch.out_port[k])
        batch.copies[np.int64(batch.out_packet[k])] += 1
        batch.next_copy[k] = -1
        if batch.first_copy[port] < 0:
            batch.first_copy[port] = k
            batch.egress_ports[distinct] = port
            distinct += 1
        else:
            batch.next_copy[batch.last_copy[port]] = k
        batch.last_copy[port] = k
    return distinct


@helper
def _take_port(batch, port):
    """Write the packets of one port into `order`, in order, and unlink them; returns how many."""
    count = 0
    k = np.int64(batch.first_copy[port])
    while k >= 0:
        batch.order[count] = batch.out_packet[k]
        batch.order_port[count] = port
        count += 1
        k = np.int64(batch.next_copy[k])
    batch.first_copy[port] = -1
    return count


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


@glue
def _send_segments(w, shared, batch, port, i, counters, drops):
    """Cut packet `i` and send the pieces, BATCH_SIZE at a time."""
    total = np.int64(gso_segment_count(batch.meta[i]))
    if total == 0:
        drops[Drop.GSO_UNSUPPORTED] += np.uint64(1)
        counters[PortCounter.TX_DROPPED] += np.uint64(1)
        return
    counters[PortCounter.GSO_SEGMENTS] += np.uint64(total - 1)
    done = np.int64(0)
    while done < total:
        n = np.int64(
            gso_segment(
                batch.headers,
                batch.meta,
                i,
                done,
                batch.segment_headers,
                batch.segment_meta,
                batch.segment_iov,
            )
        )
        tx_burst(
            shared.ports[port]["kind"],
            w.io,
            port,
            batch.segment_headers,
            batch.segment_meta,
            batch.segment_order,
            n,
            counters,
            drops,
        )
        done += n


@helper
def _finish_checksums(batch, first, count, counters, drops):
    """Complete the owed checksums of `order[first:count]`; returns count less the hopeless ones."""
    kept = first
    for k in range(first, count):
        i = np.int64(batch.order[k])
        if batch.meta[i]["offload"] & VIRTIO_NET_HDR_F_NEEDS_CSUM:
            reason = np.int64(complete_checksum(batch.headers, batch.meta, i))
            if reason != Drop.NONE:
                drops[reason] += np.uint64(1)
                counters[PortCounter.TX_DROPPED] += np.uint64(1)
                continue
            counters[PortCounter.TX_CHECKSUMS] += np.uint64(1)
        batch.order[kept] = i
        kept += 1
    return kept


@glue
def _send_run(w, shared, batch, port, first, end, counters, drops):
    """Send `order[first:end]`, packets that need no cutting."""
    if not shared.ports[port]["flags"] & PORT_TX_CSUM:
        end = _finish_checksums(batch, first, end, counters, drops)
    tx_burst(
        shared.ports[port]["kind"],
        w.io,
        port,
        batch.headers,
        batch.meta,
        batch.order[first:],
        end - first,
        counters,
        drops,
    )


@glue
def _offload_and_send(w, shared, batch, port, count, counters, drops):
    """Send `order[:count]` in order, cutting what the port cannot take in one piece."""
    flags = shared.ports[port]["flags"]
    first = 0
    for k in range(count):
        i = np.int64(batch.order[k])
        m = batch.meta[i]
        if m["gso_type"] != VIRTIO_NET_HDR_GSO_NONE and not takes_gso(flags, m):
            if k > first:
                _send_run(w, shared, batch, port, first, k, counters, drops)
            _send_segments(w, shared, batch, port, i, counters, drops)
            first = k + 1
    if count > first:
        _send_run(w, shared, batch, port, first, count, counters, drops)


@helper
def _retag_all(shared, batch, port, count, drops):
    """Tag or untag `order[:count]` as the port wants; returns how many are left."""
    kept = 0
    for k in range(count):
        i = np.int64(batch.order[k])
        reason = np.int64(retag(batch.headers, batch.meta, i, shared.ports, port))
        if reason != Drop.NONE:
            drops[reason] += np.uint64(1)
            continue
        batch.order[kept] = i
        kept += 1
    return kept


@helper
def _may_merge(shared, batch, count):
    """Whether GRO is of use: TCP came from a port without GRO of its own, and no packet is a copy.

    A merged packet is changed in place, so it must have one egress port only.
    """
    if count < 2:
        return False
    wanted = False
    for k in range(count):
        i = np.int64(batch.order[k])
        if batch.copies[i] > 1:
            return False
        if batch.meta[i]["ip_proto"] == PROTO_TCP:
            wanted |= shared.ports[np.int64(batch.meta[i]["in_port"])]["flags"] & PORT_RX_GRO != 0
    return wanted


@glue
def _merge(shared, batch, port, count, counters):
    """Merge what can be merged of `order[:count]`; returns how many packets are left."""
    left = np.int64(
        gro_merge(
            batch.headers,
            batch.meta,
            batch.order,
            count,
            shared.ports,
            port,
            batch.gro_iov,
            batch.gro_flows,
        )
    )
    counters[PortCounter.GRO_MERGED] += np.uint64(count - left)
    return left


@helper
def _limit(w, shared, batch, port, count, drops):
    """Hold `order[:count]` to the rate of its port; returns how many are left."""
    words = shared.meters[port, METER_TX_ROW]
    return np.int64(meter_tx(batch.meta, batch.order, count, words, clock_ns(w), drops))


@glue
def _send_port(w, shared, batch, port, taken, bare, now):
    """Policy, tags, offloads and transmit of one port's copies, `order[:taken]`; returns the time.

    With `bare`, a cross-connect's, neither policy nor tags.
    """
    counters = shared.port_counters[w.number, port]
    drops = shared.drops[w.number]
    kernel_counters = shared.kernel_counters[w.number]
    count = taken
    if not bare:
        allowed = np.int64(
            filter_egress(
                batch.meta,
                batch.order,
                batch.order_port,
                taken,
                shared.acl_egress,
                w.cache_egress,
                shared.rule_hits[w.number],
                drops,
            )
        )
        now = charge(kernel_counters, Stage.ACL_EGRESS, taken, now)
        count = np.int64(_retag_all(shared, batch, port, allowed, drops))
        if shared.ports[port]["flags"] & PORT_TX_METER:
            count = _limit(w, shared, batch, port, count, drops)
        counters[PortCounter.TX_DROPPED] += np.uint64(taken - count)
    if _may_merge(shared, batch, count):
        count = _merge(shared, batch, port, count, counters)
    now = charge(kernel_counters, Stage.OFFLOAD, count, now)
    _offload_and_send(w, shared, batch, port, count, counters, drops)
    note_burst(w, shared, port, count)
    return charge(kernel_counters, Stage.TX, count, now)


@glue
def egress(w, shared, batch, n_out, bare, now):
    """Send the `n_out` copies the switch made; returns the time."""
    direct = n_out > 0 and _to_one_port(batch, n_out)
    distinct = np.int64(1) if direct else gather(batch, n_out)
    for k in range(distinct):
        port = np.int64(batch.egress_ports[k])
        taken = n_out if direct else _take_port(batch, port)
        now = _send_port(w, shared, batch, port, taken, bare, now)
    return now


assert BATCH_SIZE <= 0xFFFF, "order holds 16-bit packet numbers"
