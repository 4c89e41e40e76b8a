"""The compiled loops of bench/kernels.py: fill a batch as a driver would, take the time of a kernel.

Out:  cycles of the kernels alone, without the filling, added to `spent`. Under callgrind every reading of
      the clock is a dump too, so that bench/instructions.py has the instructions between two of them.
"""

import numpy as np

from bench.callgrind import DUMP_STATS, request
from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.acl.filter import judge
from dpu_runtime.kernels.burst import INGRESS, Word
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
from dpu_runtime.kernels.switch.admit import admit
from dpu_runtime.kernels.switch.forward import forward
from dpu_runtime.kernels.switch.mac_table import TICK_NS
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
def _fill(burst, arena, pool, first, count, flows, random):
    """Packets first, first + 1, ... of the pool; with `flows` above 0 of as many random flows.

    arena  address of room for their payloads
    """
    free = arena
    for k in range(count):
        p = (first + k) % len(pool.starts)
        burst.meta[k] = pool.meta[p]
        row = address_of(burst.headers[k]) + np.uint64(HEADROOM_BYTES)
        copy_memory(row, address_of(pool.rows[p]), np.uint64(HEADER_BYTES))
        copy_memory(row - np.uint64(VNET_HDR_BYTES), address_of(pool.vnet[p]), np.uint64(VNET_HDR_BYTES))
        size = np.uint64(pool.meta[p]["payload_len"])
        copy_memory(free, address_of(pool.data) + np.uint64(pool.starts[p]), size)
        burst.meta[k]["payload_addr"] = free
        free = (free + size + _CACHE_LINE) & ~_CACHE_LINE
        if flows > 0:
            flow = np.int64(_next_random(random) >> np.uint64(33)) % flows
            put_be16(burst.headers[k], _SRC_IP_AT, 0x0A00 + (flow >> 16))
            put_be16(burst.headers[k], _SRC_IP_AT + 2, flow & 0xFFFF)
            put_be16(burst.headers[k], _SRC_PORT_AT, 1024 + flow % 64)


@kernel
def plain_loop(w, burst, arena, pool, bursts, admit_state, acl_state, switch_state, random, spent):
    """The kernels that every packet meets, one after another, over `bursts` full batches."""
    drops, ports = burst.drops, burst.ports
    meta, headers = burst.meta, burst.headers
    every = np.int64(BATCH_SIZE)
    for number in range(bursts):
        _fill(burst, arena, pool, number * BATCH_SIZE, BATCH_SIZE, 0, random)
        burst.words[Word.HOOK] = INGRESS
        burst.words[Word.WANTED] = 0
        burst.words[Word.OUT] = 0
        burst.words[Word.COARSE_NS] = 0
        for k in range(BATCH_SIZE):
            burst.packets[k] = k
        decode_vnet(headers, meta, BATCH_SIZE)
        t0 = clock()
        parse(headers, meta, BATCH_SIZE, drops)
        t1 = clock()
        check_vnet(headers, meta, BATCH_SIZE, drops)
        t2 = clock()
        left = admit(burst, admit_state, 0, every)
        t3 = clock()
        verify_checksums(headers, meta, BATCH_SIZE, ports, drops)
        t4 = clock()
        left = judge(burst, acl_state, 0, left)
        t5 = clock()
        forward(burst, switch_state, 0, left)
        t6 = clock()
        spent[PARSE] += t1 - t0
        spent[VNET] += t2 - t1
        spent[SWITCH] += (t3 - t2) + (t6 - t5)
        spent[VERIFY] += t4 - t3
        spent[FILTER] += t5 - t4
    return bursts * BATCH_SIZE


@helper
def _prepare(burst, arena, pool, first, count, random):
    _fill(burst, arena, pool, first, count, 0, random)
    decode_vnet(burst.headers, burst.meta, count)
    parse(burst.headers, burst.meta, count, burst.drops)
    check_vnet(burst.headers, burst.meta, count, burst.drops)


@kernel
def complete_loop(w, burst, arena, pool, bursts, random, spent):
    """complete_checksums; returns packets."""
    for number in range(bursts):
        _prepare(burst, arena, pool, number * BATCH_SIZE, BATCH_SIZE, random)
        began = clock()
        complete_checksums(burst.headers, burst.meta, BATCH_SIZE, burst.drops)
        spent[0] += clock() - began
    return bursts * BATCH_SIZE


@kernel
def segment_loop(w, burst, arena, pool, bursts, random, spent):
    """gso_segment of one large packet a burst; returns segments."""
    segments = np.int64(0)
    for number in range(bursts):
        _prepare(burst, arena, pool, number, 1, random)
        began = clock()
        total = np.int64(gso_segment_count(burst.meta[0]))
        done = np.int64(0)
        while done < total:
            done += gso_segment(
                burst.headers,
                burst.meta,
                0,
                done,
                w.frame.segments.headers,
                w.frame.segments.meta,
                w.frame.segment_iov,
            )
        spent[0] += clock() - began
        segments += done
    return segments


@kernel
def merge_loop(w, burst, arena, pool, bursts, random, spent):
    """gro_merge of full batches for port 1; returns (packets, packets left)."""
    left = np.int64(0)
    for number in range(bursts):
        _prepare(burst, arena, pool, number * BATCH_SIZE, BATCH_SIZE, random)
        for k in range(BATCH_SIZE):
            burst.packets[k] = k
        began = clock()
        left += gro_merge(
            burst.headers,
            burst.meta,
            burst.packets,
            BATCH_SIZE,
            burst.ports,
            1,
            w.frame.gro_iov,
            w.frame.gro_flows,
        )
        spent[0] += clock() - began
    return bursts * BATCH_SIZE, left


@kernel
def pipeline_loop(w, burst, arena, pool, bursts, flows, random, spent):
    """The fused pipeline, from a received burst to the egress port's tx; returns packets."""
    counters = w.frame.port_counters[0]
    for number in range(bursts):
        _fill(burst, arena, pool, number * BATCH_SIZE, BATCH_SIZE, flows, random)
        counters[PortCounter.RX_PACKETS] += np.uint64(BATCH_SIZE)
        burst.words[Word.COARSE_NS] = TICK_NS
        began = clock()
        worker.pipeline(w, burst, np.int64(burst.meta[0]["in_port"]), BATCH_SIZE)
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
