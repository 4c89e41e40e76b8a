"""Of bench/growth.py what needs no device: the pipeline in memory with more rules, addresses and workers."""

import functools
import os
import threading
import time

import numpy as np

from bench import kernel_loops, kernels, packets, results
from bench.in_memory import ALL_OFFLOADS, InMemory, make_private, set_programs
from dpu_runtime.drivers.io import huge_pages
from dpu_runtime.kernels.layout import ARENA_BYTES, BATCH_SIZE, PORT_UP
from dpu_runtime.kernels.switch.mac_table import (
    COUNTER_FLOODED,
    COUNTER_LEARNED,
    COUNTER_TABLE_FULL,
    MAC_ENTRIES,
)
from dpu_runtime.plane.worker_thread import tsc_hz

RULES = (1, 10, 100, 1000, 10_000)
ADDRESSES = (1, 16, 256, 4096, MAC_ENTRIES)
WORKERS = (1, 2)
SIMULATED_WORKERS = (4, 8, 16)
WORKER_BURSTS = 20  # for each of another sample: workers must run beside each other for some time
MHZ = 1e6
DESTINATION_AT, SOURCE_AT = 0, 6  # octets, IEEE 802.3 3.1.1
ADDRESS_PREFIX = 0x0201_0000_0000  # of the addresses that are numbered: of a range for local use


@functools.cache
def small_pool():
    """Packets of 64 B; the same for all."""
    return packets.plain_pool(packets.FRAME_64)


def rules(bursts, repeats):
    """Results of packets through the pipeline with more and more rules, of few and of many flows."""
    hz, pool = tsc_hz(), small_pool()

    def sample(bench, flows):
        done, spent = bench.run("pipeline_loop", pool, bursts, flows)
        return done * hz / spent[0] / MHZ

    samples = {}
    for count in RULES:
        bench = kernels.Bench(count)
        for flows in (0, kernels.MANY_FLOWS):
            name = f"rules in memory, {count}: DPU, {flows or packets.FLOWS:,} flows"
            samples[name] = lambda bench=bench, flows=flows: sample(bench, flows)
    return _results(samples, repeats)


def _numbered(count, at, in_port):
    """Pool of MAC_ENTRIES packets with one of `count` addresses at octet `at`: each once, then random ones.

    All pools have one size: what they take of the caches is the same.
    """
    plain = small_pool()
    rest = np.random.default_rng(count).integers(0, count, MAC_ENTRIES - count)
    numbers = np.concatenate([np.random.default_rng(1).permutation(count), rest])
    octets = (ADDRESS_PREFIX | numbers).astype(">u8").view(np.uint8).reshape(-1, 8)[:, 2:]
    rows, vnet, meta = (
        np.resize(part, (MAC_ENTRIES, *part.shape[1:])) for part in (plain.rows, plain.vnet, plain.meta)
    )
    rows[:, at : at + 6] = octets
    meta["in_port"] = in_port
    return packets.Pool(rows, vnet, meta, plain.data, np.resize(plain.starts, MAC_ENTRIES))


class Addresses:
    """A device whose MAC table has learned `count` addresses at port 1, and packets to random ones."""

    def __init__(self, count):
        self._bench = kernels.Bench()
        self._switched = self._bench.device.shared.of("switch").switch[0]
        self._bench.run("pipeline_loop", _numbered(count, SOURCE_AT, 1), -(-count // BATCH_SIZE), 0)
        full = self._switched[COUNTER_TABLE_FULL]
        assert full == 0, f"there was no room for {full} of {count} addresses"
        assert self._switched[COUNTER_LEARNED] >= count
        self._pool = _numbered(count, DESTINATION_AT, 0)

    def packets_per_cycle(self, bursts):
        """Of the pipeline; AssertionError when an address was not known, and the packet so flooded."""
        before = self._switched[COUNTER_FLOODED]
        done, spent = self._bench.run("pipeline_loop", self._pool, bursts, 0)
        flooded = self._switched[COUNTER_FLOODED] - before
        assert flooded == 0, f"{flooded} packets were flooded"
        return done / int(spent[0])


def addresses(bursts, repeats):
    """Results of packets to more and more learned addresses."""
    hz = tsc_hz()
    samples = {}
    for count in ADDRESSES:
        device = Addresses(count)
        samples[f"MAC table in memory, {count}: DPU, to random ones of them"] = lambda device=device: (
            device.packets_per_cycle(bursts) * hz / MHZ
        )
    return _results(samples, repeats)


class Workers:
    """A device in memory with two workers, each on a CPU and with ports and rules in common."""

    def __init__(self):
        self._device = InMemory(workers=max(WORKERS))
        shared = self._device.shared
        for port in (0, 1):
            self._device.add_port(port, PORT_UP | ALL_OFFLOADS)
        self._device.set_rules("ingress", packets.rule_set(kernels.KERNEL_RULES))
        self._own = []
        for number in range(max(WORKERS)):
            worker, burst, _, programs = make_private(shared, number, max(WORKERS))
            set_programs(programs, self._device.on)
            worker.io.fds[:2] = self._device.worker.io.fds[:2]
            self._own.append((worker, burst, huge_pages(ARENA_BYTES), programs))

    def mpps(self, workers, bursts):
        """Packets a second of `workers` at once, filling included."""
        rates, ready = [0.0] * workers, threading.Barrier(workers)

        def work(number):
            os.sched_setaffinity(0, {max(WORKERS) - 1 - number})  # the first one on CPU 1, as in the daemon
            worker, burst, arena, _ = self._own[number]
            payloads = np.uint64(arena.ctypes.data)
            random, spent = np.array([1], np.uint64), np.zeros(1, np.uint64)
            ready.wait()
            began = time.perf_counter()
            done = kernel_loops.pipeline_loop(worker, burst, payloads, small_pool(), bursts, 0, random, spent)
            rates[number] = done / (time.perf_counter() - began)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(rates) / MHZ


def amdahl(one, two, workers):
    """What `workers` would do by Amdahl's law, when one does `one` and two do `two`."""
    serial = min(max(2 * one / two - 1, 0.0), 1.0)
    return one * workers / (1 + serial * (workers - 1))


def workers(bursts, repeats):
    """Results of one and two workers, measured; of more what Amdahl's law makes of them."""
    device = Workers()
    samples = {count: lambda count=count: device.mpps(count, WORKER_BURSTS * bursts) for count in WORKERS}
    rates = results.alternate(samples, repeats)
    title = "workers in memory, {}: DPU, 1,000 rules"
    made = [results.result(title.format(count), "Mpps", rates[count]) for count in WORKERS]
    for count in SIMULATED_WORKERS:
        said = [amdahl(one, two, count) for one, two in zip(rates[1], rates[2], strict=True)]
        name = f"{title.format(count)}, simulated by Amdahl's law from 1 and 2"
        made.append(results.result(name, "Mpps", said))
    return made


def _results(samples, repeats):
    taken = results.alternate(samples, repeats)
    return [results.result(name, "Mpps", values) for name, values in taken.items()]
