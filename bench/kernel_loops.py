"""The compiled loops of bench/kernels.py: fill a batch as a driver would, take the time of a kernel.

Out:  cycles of the kernels alone, without the filling, added to `spent`. Under callgrind every reading of
      the clock is a dump too, so that bench/instructions.py has the instructions between two of them.
"""

import numpy as np

from bench.callgrind import DUMP_STATS, request
from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.acl.filter import filter_ingress
from dpu_runtime.kernels.checksum.internet import complete_checksums, ones_sum
from dpu_runtime.kernels.checksum.verify import verify_checksums
from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.layout import BATCH_SIZE, HEADER_BYTES, HEADROOM_BYTES
from dpu_runtime.kernels.octets.memory import address_of, copy_memory, cycles
from dpu_runtime.kernels.octets.wire import put_be16
from dpu_runtime.kernels.offload.gro import gro_merge
from dpu_runtime.kernels.offload.segment import gso_segment, gso_segment_count
from dpu_runtime.kernels.offload.virtio_net import VNET_HDR_BYTES, check_vnet, decode_vnet
from dpu_runtime.kernels.parse.parse import parse
from dpu_runtime.kernels.switch.forward import admit, switch
from dpu_runtime.plane import worker

# rows of `spent` in plain_loop
PARSE, VNET, SWITCH, FILTER, VERIFY = range(5)
NAMES = ("parse", "check_vnet", "admit + switch", "filter_ingress", "verify_checksums")

_SRC_IP_AT = HEADROOM_BYTES + 14 + 12
_SRC_PORT_AT = HEADROOM_BYTES + 14 + 20
_CACHE_LINE = np.uint64(63)


@helper
def clock():
    """Cycles now; to callgrind, the end of what it counts together."""
    request(np.uint64(DUMP_STATS))
    return cycles()


@helper
def _next_random(random):
    x = random[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    random[0] = x
    return x * np.uint64(0x2545F4914F6CDD1D)


@helper
def _fill(batch, pool, first, count, flows, random):
    """Packets first, first + 1, ... of the pool; with `flows` above 0 of as many random flows."""
    free = address_of(batch.arena)
    for k in range(count):
        p = (first + k) % len(pool.starts)
        batch.meta[k] = pool.meta[p]
        row = address_of(batch.headers[k]) + np.uint64(HEADROOM_BYTES)
        copy_memory(row, address_of(pool.rows[p]), np.uint64(HEADER_BYTES))
        copy_memory(row - np.uint64(VNET_HDR_BYTES), address_of(pool.vnet[p]), np.uint64(VNET_HDR_BYTES))
        size = np.uint64(pool.meta[p]["payload_len"])
        copy_memory(free, address_of(pool.data) + np.uint64(pool.starts[p]), size)
        batch.meta[k]["payload_addr"] = free
        free = (free + size + _CACHE_LINE) & ~_CACHE_LINE
        if flows > 0:
            flow = np.int64(_next_random(random) >> np.uint64(33)) % flows
            put_be16(batch.headers[k], _SRC_IP_AT, 0x0A00 + (flow >> 16))
            put_be16(batch.headers[k], _SRC_IP_AT + 2, flow & 0xFFFF)
            put_be16(batch.headers[k], _SRC_PORT_AT, 1024 + flow % 64)


@kernel
def plain_loop(w, shared, batch, pool, bursts, random, spent):
    """The kernels that every packet meets, one after another, over `bursts` full batches."""
    drops = shared.drops[0]
    meta, headers = batch.meta, batch.headers
    for burst in range(bursts):
        _fill(batch, pool, burst * BATCH_SIZE, BATCH_SIZE, 0, random)
        decode_vnet(headers, meta, BATCH_SIZE)
        t0 = clock()
        parse(headers, meta, BATCH_SIZE, drops)
        t1 = clock()
        check_vnet(headers, meta, BATCH_SIZE, drops)
        t2 = clock()
        admit(meta, BATCH_SIZE, shared.ports, shared.vlan_allowed, shared.mac, drops)
        t3 = clock()
        verify_checksums(headers, meta, BATCH_SIZE, shared.ports, drops)
        t4 = clock()
        filter_ingress(
            headers, meta, BATCH_SIZE, shared.acl_ingress, w.cache_ingress, shared.rule_hits[0], drops
        )
        t5 = clock()
        switch(
            headers,
            meta,
            BATCH_SIZE,
            0,
            shared.ports,
            shared.vlan_allowed,
            shared.active_ports,
            shared.mac,
            0,
            1200,
            batch.out_packet,
            batch.out_port,
            shared.switch_counters[0],
            drops,
        )
        t6 = clock()
        spent[PARSE] += t1 - t0
        spent[VNET] += t2 - t1
        spent[SWITCH] += (t3 - t2) + (t6 - t5)
        spent[VERIFY] += t4 - t3
        spent[FILTER] += t5 - t4
    return bursts * BATCH_SIZE


@helper
def _prepare(shared, batch, pool, first, count, random):
    _fill(batch, pool, first, count, 0, random)
    decode_vnet(batch.headers, batch.meta, count)
    parse(batch.headers, batch.meta, count, shared.drops[0])
    check_vnet(batch.headers, batch.meta, count, shared.drops[0])


@kernel
def complete_loop(shared, batch, pool, bursts, random, spent):
    """complete_checksums; returns packets."""
    for burst in range(bursts):
        _prepare(shared, batch, pool, burst * BATCH_SIZE, BATCH_SIZE, random)
        began = clock()
        complete_checksums(batch.headers, batch.meta, BATCH_SIZE, shared.drops[0])
        spent[0] += clock() - began
    return bursts * BATCH_SIZE


@kernel
def segment_loop(shared, batch, pool, bursts, random, spent):
    """gso_segment of one large packet a burst; returns segments."""
    segments = np.int64(0)
    for burst in range(bursts):
        _prepare(shared, batch, pool, burst, 1, random)
        began = clock()
        total = np.int64(gso_segment_count(batch.meta[0]))
        done = np.int64(0)
        while done < total:
            done += gso_segment(
                batch.headers,
                batch.meta,
                0,
                done,
                batch.segment_headers,
                batch.segment_meta,
                batch.segment_iov,
            )
        spent[0] += clock() - began
        segments += done
    return segments


@kernel
def merge_loop(shared, batch, pool, bursts, random, spent):
    """gro_merge of full batches for port 1; returns (packets, packets left)."""
    left = np.int64(0)
    for burst in range(bursts):
        _prepare(shared, batch, pool, burst * BATCH_SIZE, BATCH_SIZE, random)
        for k in range(BATCH_SIZE):
            batch.order[k] = k
        began = clock()
        left += gro_merge(
            batch.headers,
            batch.meta,
            batch.order,
            BATCH_SIZE,
            shared.ports,
            1,
            batch.gro_iov,
            batch.gro_flows,
        )
        spent[0] += clock() - began
    return bursts * BATCH_SIZE, left


@kernel
def pipeline_loop(w, shared, batch, pool, bursts, flows, random, spent):
    """The fused pipeline, from a received burst to the egress port's tx; returns packets."""
    counters = shared.port_counters[w.number, 0]
    for burst in range(bursts):
        _fill(batch, pool, burst * BATCH_SIZE, BATCH_SIZE, flows, random)
        counters[PortCounter.RX_PACKETS] += np.uint64(BATCH_SIZE)
        began = clock()
        worker.pipeline(w, shared, batch, BATCH_SIZE, np.uint64(1), began)
        spent[0] += clock() - began
    return bursts * BATCH_SIZE


@kernel
def checksum_loop(memory, size, step, count):
    """ones_sum of `count` ranges of `size` octets, `step` apart, round and round; returns their sum."""
    total = np.uint64(0)
    addr = address_of(memory)
    places = np.int64(len(memory) - size) // step + 1
    place = np.int64(0)
    for _ in range(count):
        total += ones_sum(addr + np.uint64(place * step), np.uint64(size))
        place = place + 1 if place + 1 < places else 0
    return total
