"""The compiled loops over our kernels, a burst at a time, as the C files have theirs over the peers."""

import numpy as np

from dpu_runtime.kernels.acl.filter import judge
from dpu_runtime.kernels.burst import Word
from dpu_runtime.kernels.checksum.crc32c import crc32c
from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.layout import BATCH_SIZE, ROW_BYTES
from dpu_runtime.kernels.meter.bucket import limit
from dpu_runtime.kernels.octets.memory import address_of, copy_memory, cycles
from dpu_runtime.kernels.offload.gro import gro_merge
from dpu_runtime.kernels.offload.segment import gso_segment
from dpu_runtime.kernels.offload.virtio_net import decode_vnet
from dpu_runtime.kernels.parse.parse import parse
from dpu_runtime.kernels.switch.mac_learning import learn_mac, lookup_mac

_LOW32 = np.uint64(0xFFFFFFFF)
_ROW_BYTES = np.uint64(ROW_BYTES)
_PORT_BITS = np.uint64(16)
_PORT_MASK = np.uint64(0xFFFF)
_MAPPED = np.uint64(0xFFFF00000000)  # ::ffff:0:0/96, RFC 4291 2.5.5.2


@kernel
def parse_loop(headers, meta, drops, rounds):
    """Parse all bursts `rounds` times; returns packets passed."""
    passed = 0
    for _ in range(rounds):
        for first in range(0, len(meta), BATCH_SIZE):
            end = first + BATCH_SIZE
            passed += parse(headers[first:end], meta[first:end], BATCH_SIZE, drops)
    return passed


@kernel
def decode_and_parse(headers, meta, drops):
    """What comes before the kernels of these loops."""
    decode_vnet(headers, meta, len(meta))
    return parse(headers, meta, len(meta), drops)


@kernel
def crc_loop(memory, size, step, places, count):
    """CRC32c of `count` ranges; returns what tells their order too."""
    found = np.uint64(0)
    addr = address_of(memory)
    place = np.int64(0)
    for i in range(count):
        found ^= (crc32c(addr + np.uint64(place * step), np.uint64(size)) + np.uint64(i)) & _LOW32
        place = place + 1 if place + 1 < places else 0
    return found


@kernel
def learn_all(mac, keys, values, ports, now, ageing, counters):
    """Fill the MAC table with keys that were learned on ports `values`."""
    for i in range(len(keys)):
        learn_mac(mac, keys[i], np.int64(values[i]), ports, now, ageing, counters)


@kernel
def lookup_loop(mac, keys, ports, now, ageing, rounds):
    """Look up all keys; returns the sum of their ports."""
    total = np.int64(0)
    for _ in range(rounds):
        for i in range(len(keys)):
            total += lookup_mac(mac, keys[i], ports, now, ageing)
    return total


@helper
def _at_hand(burst, first):
    """Have the packets from row `first` on at hand."""
    for k in range(BATCH_SIZE):
        burst.packets[k] = first + k


@kernel
def acl_loop(burst, state, flows, rounds):
    """Judge bursts whose packets get the next `flows` (address:32 | port:16); returns packets passed."""
    passed = 0
    meta = burst.meta
    for _ in range(rounds):
        for first in range(0, len(flows), BATCH_SIZE):
            for i in range(BATCH_SIZE):
                meta[i]["src_lo"] = _MAPPED | (flows[first + i] >> _PORT_BITS)
                meta[i]["src_port"] = flows[first + i] & _PORT_MASK
            _at_hand(burst, 0)
            passed += judge(burst, state, 0, BATCH_SIZE)
    return passed


@kernel
def gso_loop(headers, meta, out_headers, out_meta, out_iov, rounds):
    """Cut packet after packet whole; returns segments of all."""
    total = 0
    for r in range(rounds):
        total += gso_segment(headers, meta, r % len(meta), 0, out_headers, out_meta, out_iov)
    return total


@kernel
def gro_loop(headers, meta, burst, frame, rounds, spent):
    """Merge bursts for port 1, restored before each; cycles go to `spent`. Returns packets left of all."""
    total = np.int64(0)
    for r in range(rounds):
        first = r * BATCH_SIZE % len(meta)
        for k in range(BATCH_SIZE):
            copy_memory(address_of(burst.headers[k]), address_of(headers[first + k]), _ROW_BYTES)
            burst.meta[k] = meta[first + k]
            burst.packets[k] = k
        began = cycles()
        total += gro_merge(
            burst.headers,
            burst.meta,
            burst.packets,
            BATCH_SIZE,
            burst.ports,
            1,
            frame.gro_iov,
            frame.gro_flows,
        )
        spent[0] += cycles() - began
    return total


@kernel
def meter_loop(burst, state, packets, start_ns, step_ns, rounds):
    """Meter bursts of the first `packets` rows that are `step_ns` apart; returns packets passed."""
    passed = 0
    now = np.uint64(start_ns)
    for _ in range(rounds):
        for first in range(0, packets, BATCH_SIZE):
            now += np.uint64(step_ns)
            burst.words[Word.NOW_NS] = now
            _at_hand(burst, first)
            passed += limit(burst, state, 0, BATCH_SIZE)
    return passed
