"""What the kernels cost, in memory: nanoseconds a packet of each, of all together, and checksum bandwidth.

    python bench/kernels.py [--size BURSTS]

64 B is a frame of 60 octets and its FCS, 1500 B a full frame, IMIX 7:4:1 of 64, 594 and 1518 octets with
FCS. A batch is filled as a driver would, so headers and payloads are in the CPU's caches; the filling is
not timed. All rules allow and all packets pass, from one port to one other; egress has no
rules. `filter_ingress` alone has 1,000 rules and 64 flows.
"""

import sys
import time
import zlib
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this file would hide the package kernels

from bench import kernel_loops as loops
from bench import packets
from bench.in_memory import ALL_OFFLOADS, InMemory
from bench.results import REPEATS, alternate, main, result
from dpu_runtime.kernels.layout import BATCH_SIZE, PORT_RX_GRO, PORT_RX_VERIFY, PORT_UP
from dpu_runtime.plane.worker_thread import tsc_hz

BURSTS = 500  # a sample: a millisecond or so, most of which the scheduler leaves in one piece
SAMPLES = 3 * REPEATS
RULES = (0, 10, 1000, 10_000)
KERNEL_RULES = 1000  # behind the rules' kernel
PLAIN_STAGES = ("switch_admit", "acl_ingress", "switch")
MANY_FLOWS = 100_000  # more than the verdict cache holds
CHECKSUM_OCTETS = 1480
CACHED_OCTETS = 64 * CHECKSUM_OCTETS  # a burst
MEMORY_OCTETS = 64 << 20  # octets, beyond the caches


class Bench:
    """One device with ports 0 -> 1, and the time that loops take over it."""

    def __init__(self, rules=0, in_flags=0, out_flags=ALL_OFFLOADS):
        self.device = InMemory()
        self.device.add_port(0, PORT_UP | ALL_OFFLOADS | in_flags)
        self.device.add_port(1, PORT_UP | out_flags)
        self.device.set_rules("ingress", packets.rule_set(rules))
        self._learn_server()

    def _learn_server(self):
        """Let a packet come from port 1, so that the others do not flood."""
        pool = packets.make_pool([b"\2\0\0\0\0\1" + b"\2\0\0\0\0\2" + b"\x88\xb5" + b"\0" * 46])
        pool.meta["in_port"] = 1
        self.run("pipeline_loop", pool, 1, 0)

    def run(self, loop, pool, bursts, *args):
        """(what `loop` returned, cycles it spent, an array)."""
        d = self.device
        d.shared.port_counters[0, :2] = 0
        spent = np.zeros(len(loops.NAMES), np.uint64)
        random = np.array([1], np.uint64)
        states = [d.stages.state(name) for name in PLAIN_STAGES] if loop == "plain_loop" else []
        arena = np.uint64(d.arena.ctypes.data)
        done = getattr(loops, loop)(d.worker, d.burst, arena, pool, bursts, *args, *states, random, spent)
        return done, spent

    def checksum(self):
        """CRC of what the kernels left behind; addresses and times are not in it."""
        shared, meta = self.device.shared, self.device.burst.meta
        names = ("l3_offset", "l4_offset", "flow_hash", "frame_len", "verdict", "drop_reason", "offload")
        parts = [meta[name] for name in names] + [shared.drops[0], shared.port_counters[0, :2]]
        return zlib.crc32(b"".join(part.tobytes() for part in parts))


def sampled(samples, unit, repeats):
    """Results of `samples`: name -> (function that returns a figure, function that returns a checksum)."""
    values = alternate({name: sample for name, (sample, _) in samples.items()}, repeats)
    return [result(name, unit, values[name], samples[name][1]()) for name in samples]


def kernel_samples(bursts, ns):
    """Each kernel alone, by size of packet."""
    plain = Bench(KERNEL_RULES, in_flags=PORT_RX_VERIFY)
    latest = {}

    def stage(name, pool, index):
        def sample():
            if index == 0:
                latest[name] = *plain.run("plain_loop", pool, bursts), plain.checksum()
            done, spent, _ = latest[name]
            return spent[index] * ns / done

        return sample, lambda: latest[name][2]

    def single(loop, bench, pool, count):
        def sample():
            done, spent = bench.run(loop, pool, count)
            done = done if isinstance(done, int) else done[0]
            return spent[0] * ns / done

        return sample, bench.checksum

    samples = {}
    for name, lengths in packets.SIZES.items():
        pool = packets.plain_pool(lengths)
        for index, kernel in enumerate(loops.NAMES):
            samples[f"{kernel}, {name}"] = stage(name, pool, index)
    for name, lengths in packets.SIZES.items():
        pool = packets.owed_pool(lengths)
        samples[f"complete_checksums, {name}"] = single("complete_loop", Bench(), pool, bursts)
    few = max(bursts // 10, 1)
    for size in (1448, 536):
        samples[f"gso_segment, {size} B a segment"] = single(
            "segment_loop", Bench(), packets.large_pool(size), few
        )
    for size, flows in ((1448, 1), (1448, 8), (6, 1)):
        bench = Bench(in_flags=PORT_RX_GRO)
        label = f"gro_merge, {size} B payload, {flows} flow{'s' * (flows > 1)}"
        samples[label] = single("merge_loop", bench, packets.stream_pool(size, flows), few)
    return samples


def pipeline_samples(bursts, ns):
    """The fused pipeline, by size of packet, number of rules and of flows."""

    def pipeline(bench, pool, flows):
        def sample():
            done, spent = bench.run("pipeline_loop", pool, bursts, flows)
            return spent[0] * ns / done

        return sample, bench.checksum

    samples = {}
    pools = {name: packets.plain_pool(lengths) for name, lengths in packets.SIZES.items()}
    for name in ("1500 B", "IMIX"):
        samples[f"pipeline, {name}, 0 rules"] = pipeline(Bench(), pools[name], 0)
    bench = Bench(out_flags=0)
    samples["pipeline, 1500 B, 0 rules, checksum owed and finished"] = pipeline(
        bench, packets.owed_pool(packets.FRAME_1500), 0
    )
    for rules in RULES:
        bench = Bench(rules)
        for flows, label in ((0, packets.FLOWS), (MANY_FLOWS, MANY_FLOWS)):
            samples[f"pipeline, 64 B, {rules:,} rules, {label:,} flows"] = pipeline(
                bench, pools["64 B"], flows
            )
    return samples


def bandwidth_samples(octets):
    """IPv4-style checksum of 1480 B in GB/s, cached and from memory, beside what numpy reads and copies."""
    near = np.frombuffer(np.random.default_rng(1).bytes(CACHED_OCTETS), np.uint8)
    far = np.frombuffer(np.random.default_rng(2).bytes(MEMORY_OCTETS), np.uint8)
    copy = np.empty_like(far)
    made = {}

    def rate(function, size):
        began = time.perf_counter()
        value = function()
        return size / (time.perf_counter() - began) / 1e9, value

    def checksum(name, memory):
        count = max(octets // CHECKSUM_OCTETS, 1)

        def sample():
            figure, made[name] = rate(
                lambda: loops.checksum_loop(memory, CHECKSUM_OCTETS, CHECKSUM_OCTETS, count),
                count * CHECKSUM_OCTETS,
            )
            return figure

        return sample, lambda: made[name]

    return {
        "ones_sum of 1480 B, a burst in cache": checksum("near", near),
        "ones_sum of 1480 B, from memory": checksum("far", far),
        "numpy sum of 64 MB, from memory": (lambda: rate(far.view("u8").sum, far.size)[0], lambda: 0),
        "numpy copy of 64 MB, octets copied": (
            lambda: rate(lambda: np.copyto(copy, far), far.size)[0],
            lambda: 0,
        ),
    }


def run(size, repeats=SAMPLES):
    """Results of `size` bursts a sample."""
    ns = 1e9 / tsc_hz()
    found = sampled(kernel_samples(size, ns), "ns/packet", repeats)
    found += sampled(pipeline_samples(size, ns), "ns/packet", repeats)
    return found + sampled(bandwidth_samples(size * BATCH_SIZE * CHECKSUM_OCTETS), "GB/s", repeats)


if __name__ == "__main__":
    main("kernels", run, BURSTS, __doc__)
