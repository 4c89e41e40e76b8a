"""UDP between a pair of hosts, counted where it arrives: datagrams a second, Gbit/s, and what was lost.

Source: udp_flow.c, which says how it sends and what it compares.
"""

import itertools
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.peers.compiled import compiled
from bench.peers.hosts import end

SOURCE = Path(__file__).resolve().with_suffix(".c")
PORT = 5001
OCTETS_MAX = 65507  # of a datagram's payload over IPv4
END_SECONDS_MAX = 20.0  # beyond what is measured
SEARCH_FROM = 1.5  # times what arrives of a flood
SEARCH_STEPS, SEARCH_STEPS_MAX = 5, 10  # the latter when every rate so far was too high
NS = 1e9
FLOWS = 1 << 16
_flows = itertools.count()


@dataclass(frozen=True)
class Count:
    """What sender and receiver printed.

    sent, refused  datagrams handed to the kernel in `sent_ns`; times that it took none
    frames         datagrams that arrived, from the first to the last in `frames_ns`
    damaged, late  of those: with other octets or another length; after one with a higher number, or again
    """

    octets: int
    sent: int
    refused: int
    sent_ns: int
    frames: int
    damaged: int
    late: int
    frames_ns: int

    @property
    def rate(self):
        """Datagrams a second that arrived."""
        return self.frames / max(self.frames_ns, self.sent_ns) * NS

    @property
    def gbit(self):
        """Gbit/s of payload that arrived."""
        return 8 * self.octets * self.rate / NS

    @property
    def lost_percent(self):
        """Of all that were sent."""
        return 100 * (self.sent - self.frames) / self.sent


def built():
    """Path of the program, compiled, as long as the block lasts."""
    return compiled("udp_flow", [SOURCE])


def flow(program, pair, octets, seconds, rate=0, segments=1):
    """Count of datagrams of `octets` from the client to the server; AssertionError when one was changed.

    rate      datagrams a second; 0: as many as go
    segments  datagrams that the sender's kernel gets at once
    """
    number = next(_flows) % FLOWS
    receiving = [program, "receive", pair.address, PORT, number, octets]
    receiver = pair.server.start(*receiving, stdout=subprocess.PIPE, text=True)
    try:
        assert receiver.stdout.readline() == "ready\n", "the receiver does not start"
        sending = [program, "send", pair.address, PORT, number, octets, seconds, f"{rate:.0f}", segments]
        printed = pair.client.run(*sending, timeout=seconds + END_SECONDS_MAX)
    finally:
        end(receiver)
    return checked(parse(octets, printed + receiver.stdout.read()))


def parse(octets, printed):
    """Count of the lines of both."""
    pairs = (word.split("=") for word in printed.split())
    return Count(octets, **{name: int(value) for name, value in pairs})


def checked(count):
    """Return `count`; AssertionError when something else arrived than was sent."""
    assert count.damaged == 0, f"{count.damaged} of {count.frames} datagrams were changed"
    assert count.frames <= count.sent, f"{count.frames} of {count.sent} datagrams arrived: some twice"
    return count


def search(program, pair, octets, seconds, lost_percent_max, segments=1):
    """(Count as fast as the sender can, Count at the highest rate found at which no more is lost)."""
    flood = flow(program, pair, octets, seconds, 0, segments)
    if flood.lost_percent <= lost_percent_max:
        return flood, flood
    best, low, high = None, 0.0, SEARCH_FROM * flood.rate
    for step in range(SEARCH_STEPS_MAX):
        if best and step >= SEARCH_STEPS:
            break
        rate = (low + high) / 2
        count = flow(program, pair, octets, seconds, rate, segments)
        if count.lost_percent <= lost_percent_max:
            best, low = count, rate
        else:
            high = rate
    assert best, f"{pair.name} loses {count.lost_percent:.1f} % even of {rate:.0f} datagrams a second"
    return flood, best
