"""Round-trip times between two containers through the DPU, beside what a user would pick, alternating.

Beside:  a Linux bridge; for the ping-pongs Open vSwitch's user-space datapath too, and a veth pair, the
         limit of all of them.
         What a wake-up of another process costs is shown as well: it needs two, the DPU's way four.
Figures: mean of `ping -f`; percentiles of `ping -A`, which waits for each answer, and of a TCP and a UDP
         ping-pong of 64 B, alone and beside a TCP stream of 1 Gbit/s between the same two hosts.
Size:    echo requests a measurement; a ping-pong takes --seconds.
CPUs:    the client's programs on CPU 0, the server's on 1, unless --cpus says otherwise; the DPU's worker on
         CPU 1, as configured by default, and Open vSwitch there too.
Checks:  no echo request is lost, answers are what was sent; lost messages are a figure, and what the stream
         carried; the DPU's counters add up and it dropped nothing.
"""

import contextlib
import re
import time
from pathlib import Path
from types import SimpleNamespace

from bench import beside, results, tcp_containers
from bench.peers import pairs, ping_pong
from bench.peers.hosts import end, stop_on_signals
from bench.peers.pairs import BRIDGE, DPU, OVS, VETH

PACKAGES = {**pairs.PACKAGES, "ping": "iputils-ping", "iperf3": "iperf3", "gcc": "gcc"}
PEERS = (VETH, BRIDGE, OVS, DPU)
INTERFACE = "eth0"
MESSAGE_OCTETS = 64
PERCENTILES = (50, 99)  # of ping
PING_PONG_PERCENTILES = (50, 99, 99.9)
US_PER_MS = 1e3
LOAD_GBIT = 1
LOAD_BEGINS_OCTETS = 1e6
LOAD_BEGINS_SECONDS_MAX = 5.0
LOAD_SECONDS_MAX = 60
WAKE = "wake-up of a process on the other CPU"
ROUND_TRIPS, LOST, BESIDE = "round trips", "lost", "stream beside"
UNITS = {ROUND_TRIPS: "samples", LOST: "messages", BESIDE: "Gbit/s"}  # of what is no time


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
    return float(re.search(r"rtt min/avg/max/mdev = [\d.]+/([\d.]+)/", printed)[1]) * US_PER_MS


def ping_us(pair, count):
    """Percentiles of the round trips of `ping -A`, in us."""
    printed = pair.client.run("ping", "-n", "-A", "-c", str(count), pair.address)
    check_answers(printed, count)
    times = [float(ms) * US_PER_MS for ms in re.findall(r" time=([\d.]+) ms", printed)]
    return tuple(percentile(times, percent) for percent in PERCENTILES)


def _octets_arrived(pair):
    """Octets that the server's interface received."""
    text = Path(f"/proc/{pair.server.pid}/net/dev").read_text()
    return int(re.search(rf"{INTERFACE}:\s*(\d+)", text)[1])


@contextlib.contextmanager
def stream_beside(pair):
    """A TCP stream of LOAD_GBIT while the block lasts; its `gbit` that arrived is set when it ends."""
    port = str(tcp_containers.PORT)
    words = ["-b", f"{LOAD_GBIT}G", "-t", str(LOAD_SECONDS_MAX)]
    stream = pair.client.start("iperf3", "-c", pair.address, "-p", port, *words)
    carried = SimpleNamespace(gbit=0.0)
    try:
        first, latest = _octets_arrived(pair), time.monotonic() + LOAD_BEGINS_SECONDS_MAX
        while _octets_arrived(pair) - first < LOAD_BEGINS_OCTETS:
            assert time.monotonic() < latest, "the stream beside does not begin"
            time.sleep(0.01)
        first, began = _octets_arrived(pair), time.monotonic()
        yield carried
        octets, seconds = _octets_arrived(pair) - first, time.monotonic() - began
        carried.gbit = 8 * octets / tcp_containers.BITS_PER_GBIT / seconds
    finally:
        end(stream)


def asking(program, protocol, seconds):
    """Function of a pair: percentiles of its round trips in us, their number, messages that were lost."""

    def sample(pair):
        times = ping_pong.ask(program, pair, protocol, MESSAGE_OCTETS, seconds)
        return _figures(times) | {LOST: times.lost}

    return sample


def beside_stream(sample):
    """Function of a pair: `sample` of it beside a stream, and what that carried."""

    def loaded(pair):
        with stream_beside(pair) as carried:
            figures = sample(pair)
        return figures | {BESIDE: carried.gbit}

    return loaded


def _figures(times):
    percentiles = {f"p{percent}": times.us(percent) for percent in PING_PONG_PERCENTILES}
    return percentiles | {ROUND_TRIPS: len(times.ns)}


def _ping_samples(size):
    names = [f"p{percent}" for percent in PERCENTILES]
    yield "ping -f", lambda pair: {"mean": flood_us(pair, size)}
    yield "ping -A", lambda pair: dict(zip(names, ping_us(pair, size), strict=True))


def _ping_pong_samples(program, seconds):
    alone = {
        f"{protocol.upper()} ping-pong": asking(program, protocol, seconds)
        for protocol in (ping_pong.TCP, ping_pong.UDP)
    }
    yield from alone.items()
    for title, sample in alone.items():
        yield f"{title} beside {LOAD_GBIT} Gbit/s", beside_stream(sample)


def _wake_ups(samples):
    for figure in samples[0]:
        values = [sample[figure] for sample in samples]
        yield results.result(f"{WAKE}, {figure}", UNITS.get(figure, "us"), values)


def run(size, repeats=results.REPEATS, seconds=0.5, cpus=pairs.APART):
    """Measure round-trip times of `size` echo requests, and of ping-pongs of `seconds`."""
    results.require(PACKAGES)
    made = []
    with pairs.made(PEERS, cpus) as there, ping_pong.built() as program:
        for pair in there.values():
            ping_pong.serve(program, pair)
            tcp_containers.serve(pair)
        before = there[DPU].stats()
        for title, sample in _ping_samples(size):
            made += beside.measure(
                title, {name: there[name] for name in (BRIDGE, DPU)}, repeats, sample, UNITS
            )
        for title, sample in _ping_pong_samples(program, seconds):
            made += beside.measure(title, there, repeats, sample, UNITS, alone=(BESIDE,))
        wakes = {WAKE: lambda: _figures(ping_pong.wake(program, pairs.APART, seconds))}
        made += _wake_ups(results.alternate(wakes, repeats)[WAKE])
        pairs.check_dropped(there[DPU], before, "round trips")
    return made


if __name__ == "__main__":
    stop_on_signals()
    results.main(
        "latency",
        run,
        5000,
        __doc__,
        repeats={"type": int, "default": results.REPEATS, "help": "rounds of measurements"},
        seconds={"type": float, "default": 0.5, "help": "seconds a ping-pong; default: 0.5"},
        cpus={**pairs.CPUS_OPTION, "help": "CPUs for the client's programs and the server's; default: 0 1"},
    )
