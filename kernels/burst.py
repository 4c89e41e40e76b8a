"""The burst: up to BATCH_SIZE packets of one port, as the worker loop, stages and drivers see it.

Not: anything of numba; kernels/stage.py has what stages do with one.

    rows of headers, meta, marks
    0 .. BATCH_SIZE - 1      packets as received
    BATCH_SIZE .. ROWS - 1   spare: packets that a function made, own rows of copies that are rewritten

`packets[:count]` are the rows that a stage is about: at ingress the packets received and not dropped, at
egress those that leave by the port at hand.
"""

import enum
from collections import namedtuple

import numpy as np

from dpu_runtime.kernels.layout import BATCH_SIZE, META_DTYPE, PORTS_MAX, ROW_BYTES

SPARE_ROWS = BATCH_SIZE
ROWS = BATCH_SIZE + SPARE_ROWS
OUT_MAX = PORTS_MAX + BATCH_SIZE  # entries of the list that `forward` fills: the widest flood and a burst
INGRESS, FORWARD, EGRESS = range(3)  # hooks, by number
HOOK_COUNT = 3

# What stages say to each other of a packet: a cache line, written only where a stage of the program reads it.
MARKS_DTYPE = np.dtype(
    [
        ("rule", "u4"),  # hit counter of the rule that decided, plus 1; 0: none did
        ("made", "u4"),  # 1: a function made this packet
        ("room", "u4", (14,)),
    ],
    align=True,
)
assert MARKS_DTYPE.itemsize == 64

# bits of Word.WANTED: what stages of a program read, by the names of Stage.reads
WANTS_RULE = 1
WANTS_CLOCK = 2
WANTS = {"rule": WANTS_RULE, "clock": WANTS_CLOCK}


class Word(enum.IntEnum):
    """Words of `words`: uint64, private to the worker."""

    HOOK = 0  # that runs: INGRESS, FORWARD or EGRESS
    RECEIVED = 1  # packets of the burst, rows 0 .. RECEIVED - 1
    OUT = 2  # entries of out_packet and out_port
    WANTED = 3  # WANTS_* of the program that runs
    COARSE_NS = 4  # CLOCK_MONOTONIC of this round, some milliseconds coarse
    NOW_NS = 5  # the same, exact, where a stage wants "clock"
    SPARE = 6  # spare rows in use
    MADE = 7  # packets made and not sent yet
    TAKEN = 8  # packets of this burst that a function holds or handed to the control process
    WEIGHT = 9  # bursts that this one stands for in counts of cycles, 0: it is not timed
    SINCE = 10  # cycle counter when the stage at hand began, where WEIGHT is not 0
    HALF = 11  # half of the programs in force for this burst


WORDS = 16


class Service(enum.IntEnum):
    """Columns of `services: uint64[workers, SERVICE_WORDS]`, packets, in shared memory."""

    MADE = 0  # by functions
    HELD = 1  # kept by functions just now
    PUNTED = 2  # handed to the control process
    COPIES = 3  # beyond a packet's first, of floods


SERVICE_WORDS = 8

Burst = namedtuple(
    "Burst",
    [
        "number",  # int, of the worker
        "headers",  # uint8[ROWS, ROW_BYTES]
        "meta",  # META_DTYPE[ROWS]
        "marks",  # MARKS_DTYPE[ROWS]
        "packets",  # uint16[ROWS], rows of the packets at hand
        "out_packet",  # uint16[OUT_MAX], what `forward` decided: row
        "out_port",  # uint16[OUT_MAX], and egress port
        "copies",  # uint16[ROWS], egress ports that a packet goes to
        "made_packet",  # uint16[SPARE_ROWS], packets made: row
        "made_port",  # uint16[SPARE_ROWS], and the port they leave by
        "words",  # uint64[WORDS]
        "ports",  # PORT_DTYPE[PORTS_MAX], shared, read only
        "active_ports",  # uint16[1 + PORTS_MAX], shared: how many are up, then which
        "services",  # uint64[SERVICE_WORDS], shared: this worker's
        "drops",  # uint64[DROP_REASON_COUNT], shared: this worker's, of the frame
    ],
)


def make_burst(number, shared):
    """Allocate the burst of worker `number`; `shared` has the shared memory's arrays as attributes."""
    return Burst(
        number=number,
        headers=np.zeros((ROWS, ROW_BYTES), np.uint8),
        meta=np.zeros(ROWS, META_DTYPE),
        marks=np.zeros(ROWS, MARKS_DTYPE),
        packets=np.zeros(ROWS, np.uint16),
        out_packet=np.zeros(OUT_MAX, np.uint16),
        out_port=np.zeros(OUT_MAX, np.uint16),
        copies=np.zeros(ROWS, np.uint16),
        made_packet=np.zeros(SPARE_ROWS, np.uint16),
        made_port=np.zeros(SPARE_ROWS, np.uint16),
        words=np.zeros(WORDS, np.uint64),
        ports=shared.ports,
        active_ports=shared.active_ports,
        services=shared.services[number],
        drops=shared.drops[number],
    )
