"""TCP between two containers through the DPU, beside a Linux bridge: iperf3, default settings, alternating.

Size:   seconds a measurement; each is taken on the bridge, then on the DPU, --repeats times.
CPUs:   the DPU's worker on CPU 1, as configured by default; iperf3 where the scheduler puts it, or on --cpus.
Checks: the DPU's counters add up and it dropped nothing; else the script fails.
"""

import json
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from bench import results
from bench.peers.bridge import Bridge
from bench.peers.containers import Containers
from bench.peers.hosts import end, stop_on_signals
from bench.peers.hosts import run as run_here

PORT = 5201
CONGESTION_CONTROL = Path("/proc/sys/net/ipv4/tcp_congestion_control")
BITS_PER_GBIT = 1e9
STREAMS = 4
PROFILE_HZ = 999
PROFILE_LINES_MAX = 40
PROFILE_PERCENT_MIN = 0.5
NO_RULES = 0

# name -> (iperf3's words, rules in force)
VARIANTS = {
    "one stream": ([], False),
    "one stream, reverse": (["-R"], False),
    f"{STREAMS} streams": (["-P", str(STREAMS)], False),
    "one stream, {rules} rules": ([], True),
}


def serve(pair):
    """Start iperf3's server on a pair's server host."""
    pair.server.start("iperf3", "-s", "-B", pair.address, "-p", str(PORT))
    pair.server.wait_listening(PORT)


def gbit_per_second(pair, seconds, words=()):
    """Rate that arrived, in Gbit/s."""
    argv = ["iperf3", "-c", pair.address, "-p", str(PORT), "-t", str(seconds), "-J", *words]
    report = json.loads(pair.client.run(*argv))
    return report["end"]["sum_received"]["bits_per_second"] / BITS_PER_GBIT


def run(size, repeats=results.REPEATS, rules=1000, cpus=None, profile=False):
    """Measure all variants, `size` seconds each time; returns rates, ratios and the DPU's cycles."""
    made = []
    with Bridge(cpus) as bridge, Containers(cpus) as dpu:
        dpu.wait_for_standby()  # its start takes a CPU
        workers = [worker["cpu"] for worker in dpu.stats()["workers"]]
        control = CONGESTION_CONTROL.read_text().strip()
        print(f"DPU workers on CPU {workers}, iperf3 on {cpus or 'any'}, congestion control {control}")
        for pair in (bridge, dpu):
            serve(pair)
        for title, (words, with_rules) in VARIANTS.items():
            dpu.set_rules(rules if with_rules else NO_RULES)
            made += _variant(title.format(rules=rules), bridge, dpu, size, repeats, words)
        if profile:
            dpu.set_rules(NO_RULES)
            print(worker_profile(dpu, size))
    return made


def _variant(title, bridge, dpu, seconds, repeats, words):
    before = dpu.stats()
    samples = {pair.name: lambda pair=pair: gbit_per_second(pair, seconds, words) for pair in (bridge, dpu)}
    rates = results.alternate(samples, repeats)
    after = dpu.stats()
    dropped = after["balance"]["dropped"] - before["balance"]["dropped"]
    assert dropped == 0, f"{title}: the DPU dropped {dropped} packets: {after['drops']}"
    return [
        results.result(f"{title}: bridge", "Gbit/s", rates["bridge"]),
        results.result(f"{title}: DPU", "Gbit/s", rates["dpu"]),
        results.ratio(f"{title}: DPU / bridge", rates["dpu"], rates["bridge"], "Gbit/s"),
        *(_stage_results(title, before, after) if not words else ()),
    ]


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
        cpus={"help": "CPUs for iperf3, such as 0 or 0,1; default: any"},
        profile={"action": "store_true", "help": "show where the worker's time goes, by perf"},
    )
