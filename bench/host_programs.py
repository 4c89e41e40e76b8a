"""Host programs on libdpu, from one to the other through the DPU: packets a second, and one-way latency.

CPUs:    sender and receiver on CPU 0, the DPU's worker on CPU 1. The two take turns in one thread: as two
         programs that poll they would take CPU 0 from each other (bench/peers/host_pair.py).
Cases:   ports joined by xconnect, and the switch with --rules rules; the programs poll, or sleep in dpu_wait.
Figures: Mpps of 64 B with half a ring of packets under way; of latency, percentiles at a fixed rate, by the
         time of sending in the packet (CLOCK_MONOTONIC, both ends read the same clock).
Size:    ms a measurement, after a warm-up.
Checks:  what arrives is what was sent, no buffer is missing; losses, by sequence number, are figures. A
         measurement in which others had the CPUs is taken again (bench/peers/cpu_time.py).
"""

import contextlib
import itertools
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bench import results
from bench.peers import vhost_dpu
from bench.peers.cpu_time import raise_priority, undisturbed, waited_seconds
from bench.peers.host_pair import HostPair, Line, built
from bench.peers.hosts import stop_on_signals

PROGRAM_CPU, SWITCH_CPU = 0, 1
FRAME_OCTETS = 64  # without FCS
RULES = 1000
RATES = (10_000, 100_000)  # packets a second
PERCENTILES = (50, 99, 99.9)
SLEEPING = {"polling": [], "dpu_wait": ["-w"]}
NS_PER_US = 1e3


@dataclass(frozen=True)
class Sample:
    """One measurement: what `HostPair.finish` returned, and what others had of both CPUs."""

    counted: Line
    total: Line
    latencies: np.ndarray | None
    stolen_percent: float

    @property
    def arrived(self):
        """Whether a packet arrived."""
        return self.counted.frames > 0

    @property
    def mpps(self):
        """Million packets received a second."""
        return self.counted.frames / self.counted.seconds / 1e6

    def percentile(self, percent):
        """Of the latencies, in us."""
        return float(np.percentile(self.latencies, percent)) / NS_PER_US


def measure(program, dpu, options, seconds, latencies=False, priority=False):
    """One Sample of the host programs on the ports of `dpu`."""
    began, before = time.monotonic(), waited_seconds(dpu.pids)
    options = ["-t", seconds, "-s", FRAME_OCTETS, *options]
    with HostPair(program, dpu.sockets, PROGRAM_CPU, *options, latencies=latencies) as pair:
        pair.wait_ready()
        if priority:
            raise_priority(pair.pids)
        counted, total, taken = pair.finish(seconds)
    check(counted, total)
    stolen = (waited_seconds(dpu.pids) - before) / (time.monotonic() - began)
    stolen += counted.waited_ns / 1e9 / counted.seconds
    return Sample(counted, total, taken, 100 * stolen / 2)


def check(counted, total):
    """Fail unless packets arrived, as they were sent, and all buffers are there."""
    assert counted.frames > 0, "no packet arrived"
    assert total.damaged == total.errors == 0, f"packets were changed: {total}"
    assert total.repeated == 0, f"packets arrived twice: {total}"
    assert total.bufs_missing == 0, f"buffers are missing: {total}"


def run(size, repeats=results.REPEATS, rules=RULES, priority=False):
    """Measure all of it, `size` ms each time; `priority`: before all others on both CPUs."""
    with contextlib.ExitStack() as stack:
        program = stack.enter_context(built())
        duts = {}
        for name, variant in (("xconnect", vhost_dpu.JOINED), (f"switch, {rules} rules", vhost_dpu.SWITCHED)):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dpu-bench-"))
            sockets = [str(Path(folder, f"{end}.sock")) for end in ("sender", "receiver")]
            duts[name] = stack.enter_context(
                vhost_dpu.VhostDpu(sockets, SWITCH_CPU, folder, variant, rules=rules)
            )
            if priority:
                raise_priority(duts[name].pids)
        take = partial(measure, program, seconds=size / 1e3, priority=priority)
        stolen = []
        return [
            *_throughput(take, duts, repeats, stolen),
            *itertools.chain(*(_latency(take, duts, repeats, rate, stolen) for rate in RATES)),
            results.result("time of both CPUs that others had", "%", stolen),
        ]


def _alternate(take, duts, repeats, stolen, options=(), latencies=False):
    """Samples of each case, by its name."""
    samples = {
        f"{name}, {way}": partial(undisturbed, partial(take, dpu, [*options, *words], latencies=latencies))
        for name, dpu in duts.items()
        for way, words in SLEEPING.items()
    }
    taken = results.alternate(samples, repeats)
    stolen.extend(sample.stolen_percent for case in taken.values() for sample in case)
    return taken


def _throughput(take, duts, repeats, stolen):
    for name, samples in _alternate(take, duts, repeats, stolen).items():
        yield results.result(f"{FRAME_OCTETS} B: {name}", "Mpps", [one.mpps for one in samples])
        yield results.result(
            f"{FRAME_OCTETS} B: {name}, lost", "packets", [one.total.lost for one in samples]
        )


def _latency(take, duts, repeats, rate, stolen):
    for name, samples in _alternate(take, duts, repeats, stolen, ["-r", rate], latencies=True).items():
        title = f"one way, {rate // 1000} kpps: {name}"
        for percent in PERCENTILES:
            yield results.result(f"{title}, p{percent}", "us", [one.percentile(percent) for one in samples])
        yield results.result(f"{title}, lost", "packets", [one.total.lost for one in samples])


if __name__ == "__main__":
    stop_on_signals()
    results.main(
        "host_programs",
        run,
        1000,
        __doc__,
        repeats={"type": int, "default": results.REPEATS, "help": "rounds of measurements"},
        rules={"type": int, "default": RULES, "help": f"rules of the switch; default: {RULES}"},
        priority={"action": "store_true", "help": "run before all else, on a machine with other work"},
    )
