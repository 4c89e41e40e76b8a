r"""What is possible on the machine, for each figure that is compared with a peer: the floor under it.

A floor is made of rows of bench/limits.py that were measured on the same machine, or of a veth pair that the
script itself measured beside ours. It is no promise: it leaves out whatever ours and the peers have to do
besides. A ratio that no line here matches has none.

In FLOORS, \1 of a row's name is the first group of the expression.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

SEGMENTS_BITS = 65_160 * 8  # payload of what "TAP, 64 KB" moves: 45 segments of 1448 octets


@dataclass(frozen=True)
class Way:
    """How rows make a floor: a function of their best repeats, and the same in words, {0} being the first."""

    words: str
    of: Callable


def _gbit(us):
    """Gbit/s of payload of 64 KB in `us`."""
    return SEGMENTS_BITS / us / 1e3


AS_IS = Way("{0}", lambda row: row)
SENT_BY_ONE_CPU = Way(
    "the least of {0} and 1 / {1}, as the worker's CPU sends each frame",
    lambda mpps, us: min(mpps, 1 / us),
)
MOVED_BY_ONE_CPU = Way(
    "the least of {0} and 64 KB / {1}, as the worker's CPU reads and writes each segment",
    lambda gbit, us: min(gbit, _gbit(us)),
)
MOVED_BY_BUSY_CPUS = Way(
    "1 / (1 / {0} + 1 / (2 x 64 KB / {1})), as two busy CPUs read and write each segment besides",
    lambda gbit, us: 1 / (1 / gbit + 1 / (2 * _gbit(us))),
)
THERE_AND_BACK = Way("{0} + 2 x {1}, as each way is through a port", lambda trip, us: trip + 2 * us)


@dataclass(frozen=True)
class Floor:
    """Under ratios of `script` whose whole name matches `figure`: `rows`, in a `way`."""

    script: str
    figure: str
    rows: tuple
    way: Way = AS_IS


TAP_64KB, TAP_64B = "TAP, 64 KB, read and write", "TAP, 64 B, read and write"
FLOORS = (
    Floor(
        "tcp_containers",
        r"(one stream)(?:, reverse|)(?:, .* rules|): DPU.* / .*",
        (r"TCP over a veth pair, \1", TAP_64KB),
        MOVED_BY_ONE_CPU,
    ),
    Floor(
        "tcp_containers",
        r"(?:4|16) streams.*: DPU.* / .*",
        ("TCP over a veth pair, 4 streams", TAP_64KB),
        MOVED_BY_BUSY_CPUS,
    ),
    Floor(
        "latency",
        r"(ping -f|ping -A|TCP ping-pong|UDP ping-pong)(?: beside .*)?, (mean|p[\d.]+): DPU.* / .*",
        (r"\1, \2, over a veth pair", TAP_64B),
        THERE_AND_BACK,
    ),
    Floor("applications", r"(.*): DPU / .*", (r"\1: veth",)),
    Floor("udp_containers", r"(.*): DPU / .*", (r"\1: veth",)),
    Floor("growth", r"packet size, 65214: DPU / .*", ("bare ring, 64 KB",)),
    Floor("vhost_user", r".*, (\d+ B): DPU.* / .*", (r"bare ring, \1",)),
    Floor("vhost_tso", r".*, (64 KB): DPU.* / .*", (r"bare ring, \1",)),
    Floor(
        "kernel_ports",
        r"(\d+ B): DPU, (af_packet|af_xdp) / .*",
        (r"veth pair, \1", r"\2 socket, \1, transmit"),
        SENT_BY_ONE_CPU,
    ),
    Floor(
        "kernel_ports_tcp",
        r"(ping -A, p\d+): DPU, (af_packet|af_xdp) / .*",
        (r"\1, over a veth pair", r"\2 socket, 64 B, transmit"),
        THERE_AND_BACK,
    ),
    Floor("kernel_ports_tcp", r"TCP: DPU, af_packet / .*", ("TCP over a veth pair, one stream",)),
    Floor(
        "growth",
        r"rules, .*: DPU / .*",
        ("TCP over a veth pair, one stream", TAP_64KB),
        MOVED_BY_ONE_CPU,
    ),
    Floor("kernel_ports_tcp", r"TCP: DPU, .*", ("TCP over a veth pair, no offloads",)),
)


def floor_of(script, figure):
    """(names of rows, Way) under a ratio, None without one; the first line counts."""
    for floor in FLOORS:
        if floor.script == script and (match := re.fullmatch(floor.figure, figure)):
            return [match.expand(row) for row in floor.rows], floor.way
    return None


def possible(script, figure, measured):
    """The floor under a ratio, in the unit of what is compared; None without one.

    measured  name -> best of the repeats, of rows of bench/limits.py on the same machine and of the script
    """
    rows, way = floor_of(script, figure) or ([None], AS_IS)
    return way.of(*(measured[row] for row in rows)) if set(rows) <= measured.keys() else None


def derived(script, figure):
    """How the floor under a ratio is made, in words; "" without one."""
    rows, way = floor_of(script, figure) or ([""], AS_IS)
    return way.words.format(*(f'"{row}"' for row in rows)) if rows[0] else ""
