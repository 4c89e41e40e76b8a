"""The compiled loops over our kernels, a burst at a time, as the C files have theirs over the peers."""

import numpy as np

from dpu_runtime.kernels.acl.filter import filter_ingress
from dpu_runtime.kernels.checksum.crc32c import crc32c
from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.layout import BATCH_SIZE, ROW_BYTES
from dpu_runtime.kernels.meter.bucket import meter_rx
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


@kernel
def acl_loop(headers, meta, flows, acl, cache, hits, drops, rounds):
    """Filter bursts whose packets get the next `flows` (address:32 | port:16); returns packets passed."""
    passed = 0
    for _ in range(rounds):
        for first in range(0, len(flows), BATCH_SIZE):
            for i in range(BATCH_SIZE):
                meta[i]["src_lo"] = _MAPPED | (flows[first + i] >> _PORT_BITS)
                meta[i]["src_port"] = flows[first + i] & _PORT_MASK
            passed += filter_ingress(headers, meta, BATCH_SIZE, acl, cache, hits, drops)
    return passed


@kernel
def gso_loop(headers, meta, out_headers, out_meta, out_iov, rounds):
    """Cut packet after packet whole; returns segments of all."""
    total = 0
    for r in range(rounds):
        total += gso_segment(headers, meta, r % len(meta), 0, out_headers, out_meta, out_iov)
    return total


@kernel
def gro_loop(headers, meta, batch, ports, rounds, spent):
    """Merge bursts for port 1, restored before each; cycles go to `spent`. Returns packets left of all."""
    total = np.int64(0)
    for r in range(rounds):
        first = r * BATCH_SIZE % len(meta)
        for k in range(BATCH_SIZE):
            copy_memory(address_of(batch.headers[k]), address_of(headers[first + k]), _ROW_BYTES)
            batch.meta[k] = meta[first + k]
            batch.order[k] = k
        began = cycles()
        total += gro_merge(
            batch.headers,
            batch.meta,
            batch.order,
            BATCH_SIZE,
            ports,
            1,
            batch.gro_iov,
            batch.gro_flows,
        )
        spent[0] += cycles() - began
    return total


@kernel
def meter_loop(meta, words, start_ns, step_ns, drops, rounds):
    """Meter bursts that are `step_ns` apart; returns packets passed."""
    passed = 0
    now = np.uint64(start_ns)
    for _ in range(rounds):
        for first in range(0, len(meta), BATCH_SIZE):
            now += np.uint64(step_ns)
            passed += meter_rx(meta[first : first + BATCH_SIZE], BATCH_SIZE, words, now, drops)
    return passed
