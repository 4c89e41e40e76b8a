"""Segments cut and merged, and a rate limit: ours beside rte_gso, rte_gro and rte_meter.

rte_gso leaves checksums to others; they are finished here by DPDK's own functions, as no card is there.
rte_gro leaves the payloads where they are, in a chain of buffers, as ours does with a list of pieces; but it
looks at no checksum, and ours verifies all of them. A second figure has DPDK verify them.
"""

import contextlib
import ctypes

import numpy as np

from bench import packets
from bench.in_memory import ALL_OFFLOADS, InMemory
from bench.peers.memory import loops
from bench.peers.memory.compared import Compared, Rate, frames_of, rows_of
from bench.peers.memory.library import frames, library, pointer
from dpu_runtime.kernels.compile.reference import Lent
from dpu_runtime.kernels.layout import BATCH_SIZE, HEADROOM_BYTES, META_DTYPE, PORT_RX_GRO, PORT_UP, ROW_BYTES
from dpu_runtime.kernels.meter.table import RX, write_meter
from dpu_runtime.kernels.offload.segment import GSO_IOV_MAX
from dpu_runtime.plane.worker_thread import tsc_hz

SEGMENT_BYTES = (1448, 536)
SEGMENTS_MAX = 128
STREAM_FLOWS = (1, 8)
STREAM_BYTES = 1448
RATE_BITS, BURST_BYTES, STEP_NS = (
    10_000_000_000,
    1 << 20,
    30_000,
)  # a burst of IMIX each step stays below the rate


def _payload(record):
    """The octets that a record names behind its row."""
    return ctypes.string_at(int(record["payload_addr"]), int(record["payload_len"]))


def _gso(lib, size, stack, ms):
    pool = packets.large_pool(size)
    pool.vnet[:, 0] = 0  # the checksum is complete, not owed
    headers, meta = rows_of(pool)
    device = InMemory()
    loops.decode_and_parse(headers, meta, device.shared.drops[0])
    out_headers, out_meta = np.zeros((SEGMENTS_MAX, ROW_BYTES), np.uint8), np.zeros(SEGMENTS_MAX, META_DTYPE)
    out_iov = np.zeros((GSO_IOV_MAX + SEGMENTS_MAX, 2), np.uint64)
    buffers = stack.enter_context(frames(frames_of(pool)))
    ffi, _ = library()

    def ours(rounds):
        return loops.gso_loop(headers, meta, out_headers, out_meta, out_iov, rounds)

    def by_dpdk(rounds, out=ffi.NULL, sizes=ffi.NULL):
        made = lib.gso_loop(buffers, size, rounds, out, sizes)
        if made < 0:
            raise RuntimeError("DPDK: rte_gso_segment failed")
        return made

    def check():
        count = ours(1)
        out, sizes = np.zeros(2 * 65536, np.uint8), np.zeros(SEGMENTS_MAX, np.uint32)
        assert by_dpdk(1, pointer(out), pointer(sizes)) == count
        end = 0
        for k in range(count):
            front = out_headers[k, HEADROOM_BYTES : out_meta[k]["header_end"]].tobytes()
            theirs = out[end : end + sizes[k]].tobytes()
            assert front + _payload(out_meta[k]) == theirs, f"segment {k}"
            end += int(sizes[k])

    million = -(-64_000 // size) / 1e6
    return Compared(
        f"64 KB cut to {size} B",
        "M segments/s",
        Rate(lambda rounds: ours(rounds) and None, million, ms),
        {"DPDK rte_gso + checksums": Rate(lambda rounds: by_dpdk(rounds) and None, million, ms)},
        check,
        kept=pool,
    )


def _gro(lib, flows, stack, ms):
    pool = packets.stream_pool(STREAM_BYTES, flows)
    headers, meta = rows_of(pool)
    device = InMemory()
    device.add_port(0, PORT_UP | ALL_OFFLOADS | PORT_RX_GRO)
    device.add_port(1)
    loops.decode_and_parse(headers, meta, device.shared.drops[0])
    frame = Lent(device.worker.frame)
    buffers = stack.enter_context(frames(frames_of(pool)))
    spent, cycles, sizes = np.zeros(1, np.uint64), np.zeros(1, np.uint64), np.zeros(BATCH_SIZE, np.uint32)

    def ours(rounds):
        spent[0] = 0
        left = loops.gro_loop(headers, meta, device.burst, frame, rounds, spent)
        return left, spent[0] / tsc_hz()

    def by_dpdk(rounds, verify):
        cycles[0] = 0
        left = lib.gro_loop(buffers, rounds, verify, pointer(cycles), pointer(sizes))
        if left < 0:
            raise RuntimeError("DPDK: a checksum of a packet is wrong")
        return left, cycles[0] / tsc_hz()

    def check():
        lib.gro_loop(buffers, 1, 0, pointer(cycles), pointer(sizes))  # marks the layers
        for verify in (0, 1):
            left, _ = ours(1)
            assert by_dpdk(1, verify)[0] == left
            merged = [int(device.burst.meta[int(k)]["frame_len"]) for k in device.burst.packets[:left]]
            assert sorted(merged) == sorted(sizes[:left].tolist())

    million = BATCH_SIZE / 1e6
    return Compared(
        f"merged, {STREAM_BYTES} B, {flows} flow{'s' * (flows > 1)}",
        "Mpps",
        Rate(lambda rounds: ours(rounds)[1], million, ms),
        {
            "DPDK rte_gro": Rate(lambda rounds: by_dpdk(rounds, 0)[1], million, ms),
            "DPDK rte_gro + checksums": Rate(lambda rounds: by_dpdk(rounds, 1)[1], million, ms),
        },
        check,
        kept=pool,
    )


def _meter(lib, ms):
    meta = packets.plain_pool(packets.IMIX).meta.copy()
    sizes = meta["frame_len"].astype(np.uint32)
    device = InMemory()
    write_meter(device.shared.of("meter").meters[0, RX], RATE_BITS, BURST_BYTES)
    state = device.stages.state("meter_rx")
    burst = Lent(device.burst.value._replace(meta=meta))
    step = int(STEP_NS * tsc_hz() / 1e9)
    now = [1 << 40]

    def ours(rounds):
        passed = loops.meter_loop(burst, state, len(meta), now[0], STEP_NS, rounds)
        now[0] += STEP_NS * rounds * (len(meta) // BATCH_SIZE)
        return passed

    def by_dpdk(rounds):
        return lib.meter_loop(pointer(sizes), len(sizes), RATE_BITS, BURST_BYTES, step, rounds)

    def check():
        assert ours(2) == 2 * len(meta) == by_dpdk(2)

    million = len(meta) / 1e6
    return Compared(
        "rate limit, IMIX",
        "Mpps",
        Rate(lambda rounds: ours(rounds) and None, million, ms),
        {"DPDK rte_meter": Rate(lambda rounds: by_dpdk(rounds) and None, million, ms)},
        check,
    )


@contextlib.contextmanager
def compared(ms):
    """Comparisons with samples of `ms`."""
    _, lib = library()
    with contextlib.ExitStack() as stack:
        yield [
            *(_gso(lib, size, stack, ms) for size in SEGMENT_BYTES),
            *(_gro(lib, flows, stack, ms) for flows in STREAM_FLOWS),
            _meter(lib, ms),
        ]
