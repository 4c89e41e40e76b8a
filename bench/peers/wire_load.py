"""Load at one end of wires, counted at the other: packets a second, and whether they are what was sent.

Source: wire_load.c, which says what its options mean and how it sends.
"""

from dataclasses import dataclass
from pathlib import Path

from bench.peers.compiled import compiled
from bench.peers.hosts import run
from bench.peers.wires import INTERFACE

SOURCE = Path(__file__).resolve().with_suffix(".c")
END_SECONDS_MAX = 20.0  # beyond what is measured


@dataclass(frozen=True)
class Count:
    """What the program printed.

    sent, frames              packets that were sent, and that arrived, in `seconds`
    total_sent, total_frames  from the first packet to the last, `total_octets` in those that arrived
    checked                   of those that arrived, so many were compared with what was sent:
    damaged                   has other octets, or another length
    repeated, reordered       has a number that came before; comes after a later one
    missed                    arrived and could not be kept for the comparison
    """

    seconds: float
    sent: int
    frames: int
    total_sent: int
    total_frames: int
    total_octets: int
    checked: int
    damaged: int
    repeated: int
    reordered: int
    missed: int

    @property
    def rate(self):
        """Packets a second that arrived."""
        return self.frames / self.seconds

    @property
    def sent_rate(self):
        """Packets a second that were sent."""
        return self.sent / self.seconds

    @property
    def lost_percent(self):
        """Of all that were sent."""
        return 100 * (self.total_sent - self.total_frames) / self.total_sent if self.total_sent else 0.0


def parse(text):
    """Count of a printed line."""
    pairs = (word.split("=") for word in text.split())
    return Count(**{key: float(value) if "." in value else int(value) for key, value in pairs})


def built():
    """Path of the program, compiled, as long as the block lasts."""
    return compiled("wire_load", [SOURCE])


def load(program, wires, cpu, octets, seconds, rate=None, warm_up=0.2):
    """Send frames of `octets` from `wires.near`, on `cpu`; returns the Count.

    rate  packets a second; None: as many as go
    """
    options = ["-t", seconds, "-u", warm_up, "-s", octets, *(["-r", int(rate)] if rate else [])]
    inside = ["nsenter", f"--net=/proc/{wires.near.pid}/ns/net", "taskset", "-c", cpu, program]
    where = [INTERFACE, INTERFACE, f"/proc/{wires.far.pid}/ns/net"]
    return parse(run([*inside, *options, *where], timeout=seconds + warm_up + END_SECONDS_MAX))
