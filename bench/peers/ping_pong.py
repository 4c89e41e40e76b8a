"""Round trips of a message between a pair of hosts, over UDP or TCP; or of a wake-up, without a network.

Source: ping_pong.c, which says what it checks and when a message is lost.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.peers.compiled import compiled
from bench.peers.hosts import run

SOURCE = Path(__file__).resolve().with_suffix(".c")
PORT = 11111
UDP, TCP = "udp", "tcp"
NS_PER_US = 1e3
END_SECONDS_MAX = 20.0  # beyond what is measured


@dataclass(frozen=True)
class Times:
    """What the program printed.

    lost, damaged  messages without an answer; answers with other octets
    ns             uint32[n], round trips
    """

    lost: int
    damaged: int
    ns: np.ndarray

    def us(self, percent):
        """A percentile in us."""
        return float(np.percentile(self.ns, percent)) / NS_PER_US


def parse(printed):
    """Times of the octets printed."""
    head, _, rest = printed.partition(b"\n")
    counted = dict(word.split("=") for word in head.decode().split())
    return Times(int(counted["lost"]), int(counted["damaged"]), np.frombuffer(rest, np.uint32))


def built():
    """Path of the program, compiled, as long as the block lasts."""
    return compiled("ping_pong", [SOURCE])


def serve(program, pair):
    """Answer on the server's host, on both protocols."""
    pair.server.start(program, "serve", pair.address, PORT)
    pair.server.wait_listening(PORT)


def ask(program, pair, protocol, octets, seconds):
    """Times of messages of `octets`, one after the other; AssertionError when an answer is another one."""
    argv = [program, protocol, pair.address, PORT, octets, seconds]
    return checked(parse(pair.client.run(*argv, text=False, timeout=seconds + END_SECONDS_MAX)))


def wake(program, cpus, seconds):
    """Times of a wake-up to and fro between processes on two CPUs: eventfd(2), no network."""
    argv = [program, "wake", *cpus, seconds]
    return checked(parse(run(argv, text=False, timeout=seconds + END_SECONDS_MAX)))


def checked(times):
    """Return `times`; AssertionError when they are of no use."""
    assert times.damaged == 0, f"{times.damaged} answers were not what was sent"
    assert len(times.ns), "no answer came"
    return times
