"""Round-trip times between two containers through the DPU, beside a Linux bridge, alternating.

Figures: mean of `ping -f`; percentiles of `ping -A`, which waits for each answer, and of a TCP ping-pong.
Size:    echo requests a measurement; the ping-pong takes --seconds.
Checks:  no echo request is lost; the DPU's counters add up and it dropped nothing.
"""

import re

from bench import results
from bench.peers.bridge import Bridge
from bench.peers.containers import Containers
from bench.peers.hosts import stop_on_signals

PORT = 11111
MESSAGE_BYTES = 64
PERCENTILES = (50, 99)
US_PER_MS = 1e3


def percentile(values, percent):
    """The smallest value that `percent` % of all do not exceed."""
    ranked = sorted(values)
    return ranked[max(0, -(-len(ranked) * percent // 100) - 1)]


def check_answers(printed, count):
    """Fail unless ping says that all of `count` requests were answered."""
    assert re.search(rf"{count} packets transmitted, {count} received", printed), printed.splitlines()[-3:]


def flood_us(pair, count):
    """Mean round trip of `ping -f`, in us."""
    printed = pair.client.run("ping", "-n", "-q", "-f", "-c", str(count), pair.address)
    check_answers(printed, count)
    return (float(re.search(r"rtt min/avg/max/mdev = [\d.]+/([\d.]+)/", printed)[1]) * US_PER_MS,)


def ping_us(pair, count):
    """Percentiles of the round trips of `ping -A`, in us."""
    printed = pair.client.run("ping", "-n", "-A", "-c", str(count), pair.address)
    check_answers(printed, count)
    times = [float(ms) * US_PER_MS for ms in re.findall(r" time=([\d.]+) ms", printed)]
    return tuple(percentile(times, percent) for percent in PERCENTILES)


def tcp_us(pair, seconds):
    """Percentiles of the round trips of a TCP ping-pong, in us."""
    where = ["--tcp", "-i", pair.address, "-p", str(PORT), "-m", str(MESSAGE_BYTES)]
    printed = pair.client.run("sockperf", "ping-pong", *where, "-t", str(seconds), "--full-rtt")
    return tuple(
        float(re.search(rf"percentile {percent}\.000 = +([\d.]+)", printed)[1]) for percent in PERCENTILES
    )


def run(size, repeats=results.REPEATS, seconds=2, cpus=None):
    """Measure round-trip times of `size` echo requests, and of a TCP ping-pong of `seconds`."""
    percentiles = [f"p{percent}" for percent in PERCENTILES]
    with Bridge(cpus) as bridge, Containers(cpus) as dpu:
        dpu.wait_for_standby()  # its start takes a CPU
        for pair in (bridge, dpu):
            pair.server.start("sockperf", "server", "--tcp", "-i", pair.address, "-p", str(PORT))
            pair.server.wait_listening(PORT)
        made = [
            *_compare("ping -f", ["mean"], bridge, dpu, repeats, lambda pair: flood_us(pair, size)),
            *_compare("ping -A", percentiles, bridge, dpu, repeats, lambda pair: ping_us(pair, size)),
            *_compare("TCP ping-pong", percentiles, bridge, dpu, repeats, lambda pair: tcp_us(pair, seconds)),
        ]
        stats = dpu.stats()
        assert stats["balance"]["dropped"] == 0, f"the DPU dropped packets: {stats['drops']}"
    return made


def _compare(title, figures, bridge, dpu, repeats, sample):
    """Results of the bridge, the DPU and their ratio, for each figure of a sample."""
    samples = {pair.name: lambda pair=pair: sample(pair) for pair in (bridge, dpu)}
    taken = results.alternate(samples, repeats)
    for column, figure in enumerate(figures):
        theirs = [values[column] for values in taken["bridge"]]
        ours = [values[column] for values in taken["dpu"]]
        yield results.result(f"{title}, {figure}: bridge", "us", theirs)
        yield results.result(f"{title}, {figure}: DPU", "us", ours)
        yield results.ratio(f"{title}, {figure}: DPU / bridge", ours, theirs, "us", lower_is_better=True)


if __name__ == "__main__":
    stop_on_signals()
    results.main(
        "latency",
        run,
        20_000,
        __doc__,
        repeats={"type": int, "default": results.REPEATS, "help": "pairs of measurements"},
        seconds={"type": int, "default": 2, "help": "seconds a TCP ping-pong; default: 2"},
        cpus={"help": "CPUs for ping and sockperf, such as 0 or 0,1; default: any"},
    )
