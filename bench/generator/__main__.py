"""Send packets at a rate from one port, receive them at another, and print what became of them.

    .venv/bin/python -m bench.generator --transport af_packet --tx eth0 --netns pid:123
        --rx eth0 --rx-netns pid:124 --rate 100k --size imix --flows 64 --seconds 5

In: bench/generator/README.md says what the options mean.
"""

import argparse
import os
import re
import sys

from bench.generator import patterns
from bench.generator.generator import Generator, GeneratorError
from bench.generator.host_ports import LIBDPU, HostPorts
from bench.generator.own_limit import own_limit
from bench.generator.ports import AF_PACKET, AF_XDP, KernelPorts
from bench.peers.hosts import stop_on_signals
from bench.results import figure
from dpu_runtime.drivers.port import PortError
from dpu_runtime.host import DpuError

TRANSPORTS = (AF_PACKET, AF_XDP, LIBDPU)
UNITS = {"": 1, "k": 1_000, "M": 1_000_000}
RATE_MAX = 100_000_000  # packets a second
SECONDS_MAX = 3600.0
COUNTED = ("received", "lost", "duplicated", "reordered", "stale", "corrupted", "foreign", "missed")
PERCENTILES = {"p50": 50, "p99": 99, "p99.9": 99.9, "max": 100}


def rate_of(text):
    """Packets a second of "100k", "1.5M", "0": as many as go."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kM]?)", text)
    rate = float(match[1]) * UNITS[match[2]] if match else -1
    if not 0 <= rate <= RATE_MAX:
        raise argparse.ArgumentTypeError(f"{text!r}: 0 to {RATE_MAX}, such as 100k or 1.5M; 0: as many as go")
    return rate


def seconds_of(text):
    """Seconds of a trial."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r}: seconds, above 0 to {SECONDS_MAX:.0f}")
    return seconds


def size_of(text):
    """Octets with FCS, or imix."""
    return int(text) if text.isdecimal() else text


def vary_of(text):
    """{field: how} of "sport:increment,dst:random"; a field alone increments."""
    pairs = (word.partition(":") for word in text.split(",") if word)
    return {name: how or patterns.INCREMENT for name, _, how in pairs}


def parser():
    """Make the parser of the command line."""
    made = argparse.ArgumentParser("bench.generator", description=__doc__.splitlines()[0])
    add = made.add_argument
    add("--transport", choices=TRANSPORTS, required=True)
    add("--tx", metavar="PORT", help="interface, or libdpu's socket, to send on")
    add("--rx", metavar="PORT", help="the one to receive on; default: none, packets are only sent")
    add("--netns", help="network namespace of --tx: name, path or pid:N; default: this one")
    add("--rx-netns", help="of --rx; default: that of --tx")
    add("--rate", type=rate_of, default=100_000.0, help="packets a second, 0: as many as go; default: 100k")
    add("--seconds", type=seconds_of, default=5.0)
    add("--size", type=size_of, default=64, help="octets of a frame with FCS, or imix; default: 64")
    add("--flows", type=int, default=1)
    add("--vary", type=vary_of, default={"sport": patterns.INCREMENT}, help="FIELD[:increment|random],...")
    for name, kind in (("src", str), ("dst", str), ("sport", int), ("dport", int)):
        add(f"--{name}", type=kind, default=getattr(patterns.Pattern, name))
    add("--src-mac", default=patterns.Pattern.src_mac)
    add("--dst-mac", default=patterns.Pattern.dst_mac)
    add("--vlan", type=int, help="VLAN ID of a tag")
    add("--seed", type=int, default=1, help="of random values and of the payload")
    add("--pcap", metavar="FILE", help="send the UDP and TCP packets of this file instead, over and over")
    add("--cpu", type=int, help="CPU to send and receive on")
    add("--own-limit", action="store_true", help="also: the same packets straight to the receiver")
    return made


def pool_of(given):
    """Pool of the parsed command line. Raises ValueError."""
    if given.pcap is not None:
        return patterns.from_capture(given.pcap)
    names = patterns.Pattern.__dataclass_fields__
    return patterns.from_pattern(patterns.Pattern(**{name: getattr(given, name) for name in names}))


def ports_of(given):
    """Open the ports of the parsed command line."""
    if given.tx is None:
        raise ValueError("--tx: the port to send on; only --own-limit does without")
    if given.transport == LIBDPU:
        return HostPorts(given.tx, given.rx)
    rx_netns = given.rx_netns or given.netns
    return KernelPorts(
        given.transport, (given.netns, given.tx), None if given.rx is None else (rx_netns, given.rx)
    )


def progress(seconds, sent, received):
    """Say how it goes, on one line that is written over."""
    if sys.stderr.isatty():
        print(f"\r{seconds:6.1f} s  sent {sent:,}  received {received:,} ", end="", file=sys.stderr)


def table(reports):
    """Text of {title: Report}, one a column."""
    lines = [("", *reports)]

    def add(name, value, of_receiver=True):
        cells = ("-" if of_receiver and report.only_sends else value(report) for report in reports.values())
        lines.append((name, *cells))

    add("rate, kpps", lambda r: figure(r.rate / 1e3), False)
    add("rate, Gbit/s without FCS", lambda r: figure(r.gbits), False)
    add("schedule slipped, ms", lambda r: figure(1e3 * r.slipped_s), False)
    add("sent", lambda r: f"{r.sent:,}", False)
    for name in COUNTED:
        add(name, lambda r, name=name: f"{getattr(r, name):,}")
    add("lost, %", lambda r: figure(100 * r.loss_ratio))
    for name, percent in PERCENTILES.items():
        add(f"latency {name}, us", lambda r, percent=percent: figure(r.latency_us(percent)))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]

    def text(line):
        cells = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        return "  ".join((line[0].ljust(widths[0]), *cells))

    return "\n".join(map(text, lines))


def run(given):
    """Measure, and print."""
    pool = pool_of(given)
    if given.cpu is not None:
        try:
            os.sched_setaffinity(0, {given.cpu})
        except OSError as error:
            raise ValueError(f"--cpu {given.cpu}: {error.strerror}") from None
    print(f"{len(pool.cycle)} packets over and over, {pool.octets_mean + 4:.0f} octets in the mean with FCS")
    if pool.padded:
        print(f"{pool.padded} of them lengthened to hold the stamp")
    for why, count in pool.skipped.items():
        print(f"{count} packets of the file left out: {why}")
    reports = {}
    if given.own_limit:
        reports["own limit"] = own_limit(given.transport, pool, given.seconds)
    if given.tx is not None or not given.own_limit:
        macs = None if given.pcap else (given.dst_mac, given.src_mac)
        with Generator(ports_of(given), pool, macs) as generator:
            reports[given.transport] = generator.trial(given.rate, given.seconds, progress)
            if sys.stderr.isatty():
                print("\r\x1b[K", end="", file=sys.stderr)
            for note in generator.ports.notes:
                print(f"note: {note}")
    print(table(reports))


def main():
    """Run the command line."""
    stop_on_signals()
    given = parser().parse_args()
    try:
        run(given)
    except (ValueError, PortError, DpuError, GeneratorError) as error:
        sys.exit(f"bench.generator: {error}")


if __name__ == "__main__":
    main()
