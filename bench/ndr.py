"""The highest rate without loss (NDR) and with 0.5 % (PDR) from one veth pair to another, and latencies.

    near eth0 ---- port0 [what is measured] port1 ---- eth0 far

Sender:  bench/generator, on af_xdp ports at both ends, which checks number and payload of every packet; 64
         octets with FCS, 64 flows.
Beside:  DPDK's testpmd with net_af_packet (rings as long as ours) and net_af_xdp, a Linux bridge; and no
         switch at all, which is the generator's own limit with all of its work on CPU 0. A switch takes some
         of that to CPU 1, so there may be more; how often the generator's rate ended a search, and not a
         loss, is a figure: such an NDR is a lower bound.
CPUs:    both ends of the generator on CPU 0, with the interrupt of port0 that it causes; what is measured on
         CPU 1, with the interrupt of far's eth0.
Search:  RFC 2544 26.1 by bisection to 5 %, the majority of three trials a rate (bench/generator/search.py).
         RFC 2544 asks for trials of 60 s, these are short. A rate is what was really sent, the median of its
         trials: on a machine with other work that is less than was asked for.
Latency: one way, by the time in the packet, at half of the NDR.
Size:    ms a trial.
"""

import contextlib
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass

from bench import results
from bench.generator.generator import Generator, Report
from bench.generator.patterns import Pattern, from_pattern
from bench.generator.ports import AF_PACKET, AF_XDP, KernelPorts
from bench.generator.search import NDR, PDR, search
from bench.kernel_ports import PACKAGES as KERNEL_PORTS_PACKAGES
from bench.kernel_ports import PACKETS_PER_MPACKET, SENDER_CPU, SWITCH_CPU, TESTPMD, Contender
from bench.peers import testpmd, wires, wires_dpu
from bench.peers.cpu_time import raise_priority
from bench.peers.hosts import stop_on_signals
from bench.peers.hugepages import hugepages

PACKAGES = {name: KERNEL_PORTS_PACKAGES[name] for name in (testpmd.PROGRAM, "ethtool")}
PEERS = ("testpmd net_af_packet, long rings", "testpmd net_af_xdp")
LIMIT = "no switch"
HUGEPAGES_MB = len(PEERS) * testpmd.MEMORY_MB + 64
PATTERN = Pattern(flows=64)
RATE_MIN, RATE_MAX = 1e3, 2e6  # packets a second
REPEATS = 5
LATENCY_TRIALS = 4  # as long as so many trials
LATENCIES = {"p50": 50, "p99": 99, "p99.9": 99.9}


@dataclass(frozen=True)
class Sample:
    """One measurement of a contender: packets a second that were sent, and a trial at half of the NDR.

    limited  nothing was lost at the highest rate that the generator could send
    """

    ndr: float
    pdr: float
    limited: bool
    report: Report


def check(name, report):
    """Fail unless what arrived is what was sent."""
    assert report.corrupted == 0, f"{name}: {report.corrupted} packets arrived with another payload"
    assert report.duplicated == 0, f"{name}: {report.duplicated} packets arrived twice"


class Bench:
    """Measures contenders with trials of `seconds`; what one could do last time is the next guess."""

    def __init__(self, pool, seconds):
        self._pool = pool
        self._seconds = seconds
        self._guesses = {}

    def sample(self, contender):
        """A Sample of a contender."""
        switch = contender.switch
        ends = ((f"pid:{host.pid}", wires.INTERFACE) for host in (switch.wires.near, switch.wires.far))
        switch.begin()
        try:
            macs = PATTERN.dst_mac, PATTERN.src_mac
            with Generator(KernelPorts(AF_XDP, *ends), self._pool, macs) as generator:
                return self._measure(contender.name, generator)
        finally:
            switch.rest()

    def _measure(self, name, generator):
        offered = {}

        def trial(rate):
            report = generator.trial(rate, self._seconds)
            check(name, report)
            offered.setdefault(rate, []).append(report.rate)
            return report.sent, report.lost

        before = self._guesses.get(name, (None, None))
        pdr = search(trial, PDR, RATE_MIN, RATE_MAX, before[0]).rate
        found = search(trial, NDR, RATE_MIN, RATE_MAX, before[1] or max(pdr, RATE_MIN))
        ndr = found.rate
        self._guesses[name] = max(pdr, RATE_MIN), max(ndr, RATE_MIN)
        sent = {rate: statistics.median(rates) for rate, rates in offered.items()}
        report = generator.trial(sent.get(ndr, RATE_MIN) / 2, LATENCY_TRIALS * self._seconds)
        check(name, report)
        assert report.received > 0, f"{name}: no packet arrived"
        return Sample(sent.get(ndr, 0.0), sent.get(pdr, 0.0), found.above is None, report)


def run(size, repeats=REPEATS, priority=False):
    """Measure all of it, trials of `size` ms; returns rates, latencies and ratios.

    priority  before all others on both CPUs, where the machine is shared
    """
    results.require(PACKAGES)
    cpus = os.sched_getaffinity(0)
    with hugepages(HUGEPAGES_MB), contextlib.ExitStack() as stack:
        contenders = list(_contenders(stack))
        if priority:
            raise_priority({os.getpid(), *(pid for one in contenders for pid in one.switch.pids)})
        stack.callback(os.sched_setaffinity, 0, cpus)
        os.sched_setaffinity(0, {SENDER_CPU})
        bench = Bench(from_pattern(PATTERN), size / 1e3)
        samples = {one.name: lambda one=one: bench.sample(one) for one in contenders}
        return list(_results(contenders, results.alternate(samples, repeats)))


def _contenders(stack):
    """All that can join two wires, each on wires of its own, at rest."""

    def joined(switch, *args, folder=False):
        where = stack.enter_context(wires.Wires(SWITCH_CPU, gro=True))
        folders = [stack.enter_context(tempfile.TemporaryDirectory(prefix="dpu-bench-"))] if folder else []
        made = stack.enter_context(switch(where, SWITCH_CPU, *folders, *args))
        made.rest()
        return made

    yield Contender(LIMIT, stack.enter_context(wires.Direct(SWITCH_CPU, gro=True)))
    yield Contender("bridge", stack.enter_context(wires.KernelBridge(SWITCH_CPU, gro=True)), group="bridge")
    for name in PEERS:
        kind, driver, options = TESTPMD[name]
        yield Contender(name, joined(testpmd.KernelPorts, driver, options), kind, name)
    for kind in (AF_PACKET, AF_XDP):
        yield Contender(f"DPU, {kind}", joined(wires_dpu.WiresDpu, kind, folder=True), kind, "DPU")


def _results(contenders, taken):
    """Figures of each contender, then the DPU's ratios to peers of its socket kind and to the bridge."""
    for name, samples in taken.items():
        for figure in ("ndr", "pdr"):
            yield results.result(f"{name}, {figure.upper()}", "Mpps", _mpps(samples, figure))
        limited = [100.0 * sample.limited for sample in samples]
        yield results.result(
            f"{name}, NDR ended by the generator", "% of rounds", [sum(limited) / len(limited)]
        )
        for title, percent in LATENCIES.items():
            latencies = [sample.report.latency_us(percent) for sample in samples]
            yield results.result(f"{name}, {title} at 50 % of NDR", "us", latencies)
        lost = [sample.report.lost for sample in samples]
        yield results.result(f"{name}, lost at 50 % of NDR", "packets", lost)
    for ours in (one for one in contenders if one.group == "DPU"):
        for peer in contenders:
            if peer.group in ("", "DPU") or peer.kind not in (ours.kind, None):
                continue
            sides = taken[ours.name], taken[peer.name]
            for figure in ("ndr", "pdr"):
                least = RATE_MIN / PACKETS_PER_MPACKET  # where not even that went without a loss
                rates = ([max(rate, least) for rate in _mpps(side, figure)] for side in sides)
                yield results.ratio(f"{figure.upper()}: {ours.name} / {peer.name}", *rates, "Mpps")
            for title, percent in LATENCIES.items():
                latencies = ([sample.report.latency_us(percent) for sample in side] for side in sides)
                yield results.ratio(
                    f"{title} at 50 % of NDR: {ours.name} / {peer.name}",
                    *latencies,
                    "us",
                    lower_is_better=True,
                )


def _mpps(samples, figure):
    return [getattr(sample, figure) / PACKETS_PER_MPACKET for sample in samples]


if __name__ == "__main__":
    stop_on_signals()
    try:
        results.main(
            "ndr",
            run,
            100,
            __doc__,
            repeats={"type": int, "default": REPEATS, "help": "rounds of measurements"},
            priority={"action": "store_true", "help": "run before all else, on a machine with other work"},
        )
    except RuntimeError as error:
        sys.exit(f"bench/ndr.py: {error}")
