"""TCP between two containers through the DPU, beside what a user would pick, by iperf3, alternating.

Beside: a Linux bridge; Open vSwitch's user-space datapath with and without TSO; with filtering, a bridge with
        nftables, its rules in a list and in a set; a veth pair without a switch, the limit of all of them.
Size:   seconds a measurement; every pair of a variant has its turn, --repeats times after a dropped round.
CPUs:   iperf3's client on CPU 0, its server on 1, unless --cpus says otherwise; the DPU's worker on CPU 1, as
        configured by default, and Open vSwitch there too. The kernel forwards on the sender's CPU.
Checks: the rate is what the receiver counted; the DPU's counters add up and it dropped nothing; else the
        script fails. What was lost on the way is what TCP sent again.
"""

import json
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from bench import results
from bench.peers import pairs
from bench.peers.hosts import end, stop_on_signals
from bench.peers.hosts import run as run_here
from bench.peers.pairs import BRIDGE, DPU, NFT_LIST, NFT_SET, OVS, OVS_PLAIN, VETH

PORT = 5201
CONGESTION_CONTROL = Path("/proc/sys/net/ipv4/tcp_congestion_control")
BITS_PER_GBIT = 1e9
PROFILE_HZ = 999
PROFILE_LINES_MAX = 40
PROFILE_PERCENT_MIN = 0.5
NO_RULES = 0


@dataclass(frozen=True)
class Variant:
    """Something to measure, on the DPU and on `peers`.

    words     of iperf3
    filtered  by the DPU, with as many rules as nftables has all the time
    stages    show the DPU's cycles a packet of each stage
    """

    title: str
    words: tuple = ()
    peers: tuple = (VETH, BRIDGE, OVS)
    filtered: bool = False
    stages: bool = False


VARIANTS = (
    Variant("one stream", peers=(VETH, BRIDGE, OVS, OVS_PLAIN), stages=True),
    Variant("one stream, reverse", ("-R",), (BRIDGE,)),
    Variant("4 streams", ("-P", "4")),
    Variant("16 streams", ("-P", "16")),
    Variant("one stream, {rules} rules", (), (BRIDGE, NFT_LIST, NFT_SET), filtered=True, stages=True),
)
QUICK = (replace(VARIANTS[0], peers=(BRIDGE, OVS)), replace(VARIANTS[-1], peers=(NFT_SET,)))


@dataclass(frozen=True)
class Sample:
    """One measurement: what arrived, and segments that were sent again."""

    gbit: float
    retransmitted: int


def serve(pair):
    """Start iperf3's server on a pair's server host."""
    pair.server.start("iperf3", "-s", "-B", pair.address, "-p", str(PORT))
    pair.server.wait_listening(PORT)


def stream(pair, seconds, words=()):
    """Sample of `seconds` of iperf3."""
    argv = ["iperf3", "-c", pair.address, "-p", str(PORT), "-t", str(seconds), "-J", *words]
    sums = json.loads(pair.client.run(*argv))["end"]
    gbit = sums["sum_received"]["bits_per_second"] / BITS_PER_GBIT
    return Sample(gbit, sums["sum_sent"]["retransmits"])


def gbit_per_second(pair, seconds, words=()):
    """Rate that arrived, in Gbit/s."""
    return stream(pair, seconds, words).gbit


def run(size, repeats=results.REPEATS, rules=1000, cpus=pairs.APART, peers=None, profile=False, quick=False):
    """Measure all variants, `size` seconds each time; returns rates, ratios and the DPU's cycles.

    peers  only beside these; None: all
    quick  two variants, beside those that matter most
    """
    results.require({**pairs.PACKAGES, "iperf3": "iperf3"})
    variants = QUICK if quick else VARIANTS
    variants = [replace(one, peers=[p for p in one.peers if p in (peers or one.peers)]) for one in variants]
    names = dict.fromkeys(name for variant in variants for name in (*variant.peers, DPU))
    options = {name: {"rules": rules} for name in (NFT_LIST, NFT_SET)}
    with pairs.made(names, cpus, **options) as there:
        dpu = there[DPU]
        workers = [worker["cpu"] for worker in dpu.stats()["workers"]]
        control = CONGESTION_CONTROL.read_text().strip()
        print(f"DPU workers on CPU {workers}, iperf3 on {cpus}, congestion control {control}")
        for pair in there.values():
            serve(pair)
        made = []
        for variant in variants:
            dpu.set_rules(rules if variant.filtered else NO_RULES)
            made += measured(variant, variant.title.format(rules=rules), there, size, repeats)
        if profile:
            dpu.set_rules(NO_RULES)
            print(worker_profile(dpu, size))
    return made


def measured(variant, title, there, seconds, repeats):
    """Results of a variant, on those of the pairs `there` that it is for."""
    dpu, names = there[DPU], (*variant.peers, DPU)
    before = dpu.stats()
    taken = results.alternate(
        {name: lambda pair=there[name]: stream(pair, seconds, variant.words) for name in names}, repeats
    )
    after = pairs.check_dropped(dpu, before, title)
    rates = {name: [sample.gbit for sample in samples] for name, samples in taken.items()}
    for name, samples in taken.items():
        yield results.result(f"{title}: {name}", "Gbit/s", rates[name])
        again = [sample.retransmitted for sample in samples]
        yield results.result(f"{title}: {name}, retransmitted", "segments", again)
    for name in variant.peers:
        yield results.ratio(f"{title}: DPU / {name}", rates[DPU], rates[name], "Gbit/s")
    if variant.stages:
        yield from _stage_results(title, before, after)


def _stage_results(title, before, after):
    """Cycles a packet of each stage of the pipeline, and octets a packet, between two readings."""
    packets = after["balance"]["received"] - before["balance"]["received"]
    octets = sum(
        after["ports"][name]["rx_bytes"] - before["ports"][name]["rx_bytes"] for name in after["ports"]
    )
    yield results.result(f"{title}: DPU, a packet", "octets", [octets / packets])
    for stage, counters in after["kernels"].items():
        cycles = counters["cycles"] - before["kernels"][stage]["cycles"]
        if cycles:
            yield results.result(f"{title}: DPU, {stage}", "cycles a packet", [cycles / packets])


def worker_profile(dpu, seconds):
    """Where the first worker's thread spends its time under one stream: perf's report as text."""
    if shutil.which("perf") is None:
        return "no profile: perf is missing, Debian package linux-perf"
    thread = dpu.stats()["workers"][0]["thread"]
    with tempfile.TemporaryDirectory(prefix="dpu-bench-") as folder:
        data = Path(folder, "perf.data")
        # cpu-clock: a timer, where a virtual machine has no hardware counters
        record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", PROFILE_HZ, "-g", "-t", thread, "-o", data]
        recorder = dpu.client.start(*map(str, record), stderr=subprocess.PIPE, text=True)
        gbit_per_second(dpu, seconds)
        end(recorder, signal.SIGINT)
        if not data.exists():
            return f"no profile: {recorder.stderr.read().strip()}"
        report = ["perf", "report", "--stdio", "--no-children", "-g", "none", "-i", data]
        text = run_here([*report, "--percent-limit", PROFILE_PERCENT_MIN])
    lines = [line.rstrip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return "\n".join([f"worker's thread under one stream, {PROFILE_HZ} Hz:", *lines[:PROFILE_LINES_MAX]])


if __name__ == "__main__":
    stop_on_signals()
    results.main(
        "tcp_containers",
        run,
        3,
        __doc__,
        repeats={"type": int, "default": results.REPEATS, "help": "pairs of measurements"},
        rules={"type": int, "default": 1000, "help": "rules in the variant with rules; default: 1000"},
        cpus={**pairs.CPUS_OPTION, "help": "CPUs for iperf3's client and server; default: 0 1"},
        peers={"nargs": "+", "metavar": "NAME", "choices": list(pairs.MAKE), "help": "only beside these"},
        quick={"action": "store_true", "help": "one stream only, beside fewer"},
        profile={"action": "store_true", "help": "show where the worker's time goes, by perf"},
    )
