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

from dpu_runtime.kernels.layout import (
    BATCH_SIZE,
    FRAME_BYTES_MAX,
    META_DTYPE,
    PER_WORKER,
    PORTS_MAX,
    ROW_BYTES,
)

SPARE_ROWS = BATCH_SIZE
ROWS = BATCH_SIZE + SPARE_ROWS
OUT_MAX = PORTS_MAX + BATCH_SIZE  # entries of the list that `forward` fills: the widest flood and a burst
INGRESS, FORWARD, EGRESS = range(3)  # hooks, by number
MADE = 3  # and the stages of egress that packets pass which functions made, or held until now
PROGRAM_COUNT = 4  # programs of a port

# What stages say to each other of a packet: a cache line, written only where a stage of the program reads it.
MARKS_DTYPE = np.dtype(
    [
        ("rule", "u4"),  # hit counter of the rule that decided, plus 1; 0: none did
        ("room", "u4", (15,)),
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
    FREED = 12  # entries of pool.freed
    GONE = 13  # entries of `gone`


WORDS = 16
HOLD_MAX = 256  # packets that a worker can hold, for all functions
HOLD_BYTES = (FRAME_BYTES_MAX + 64) // 64 * 64  # octets of a payload

# A ring to the control process a worker, in shared memory. A slot: PUNT_DTYPE, then octets of the frame.
PUNT_SLOTS = 512
PUNT_BYTES = 2048
PUNT_DTYPE = np.dtype(
    [
        ("frame_len", "u4"),  # octets of the frame
        ("octets", "u4"),  # that are here
        ("in_port", "u2"),
        ("function", "u2"),  # State.number
        ("tag", "u4"),  # what the function says of it
    ]
)
PUNT_HEAD, PUNT_TAIL = 0, 8  # words of `punt_words`, a cache line each: slots written, and read
PUNT_LAYOUT = {
    "punt_words": ("u8", (PER_WORKER, 16)),
    "punt_slots": ("u1", (PER_WORKER, PUNT_SLOTS, PUNT_BYTES)),
}


class Service(enum.IntEnum):
    """Columns of `services: uint64[workers, SERVICE_WORDS]`, packets, in shared memory."""

    MADE = 0  # by functions
    HELD = 1  # kept by functions just now
    PUNTED = 2  # handed to the control process
    COPIES = 3  # beyond a packet's first, of floods


SERVICE_WORDS = 8

# Packets that functions hold, copied out of the memory they came in.
Pool = namedtuple(
    "Pool",
    [
        "headers",  # uint8[HOLD_MAX, ROW_BYTES]
        "meta",  # META_DTYPE[HOLD_MAX]
        "payloads",  # uint8[HOLD_MAX, HOLD_BYTES], touched when it is used first
        "free",  # uint16[1 + HOLD_MAX], how many places are free, then which
        "freed",  # uint16[HOLD_MAX], places whose packet is on its way out
    ],
)

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
        "gone",  # uint16[ROWS], rows that stages of this program dropped, where one wants "rule"
        "copies",  # uint16[ROWS], egress ports that a packet goes to
        "made_packet",  # uint16[SPARE_ROWS], packets made: row
        "made_port",  # uint16[SPARE_ROWS], and the port they leave by
        "words",  # uint64[WORDS]
        "pool",  # Pool
        "punt_words",  # uint64[16], shared: this worker's ring
        "punt_slots",  # uint8[PUNT_SLOTS, PUNT_BYTES]
        "ports",  # PORT_DTYPE[PORTS_MAX], shared, read only
        "active_ports",  # uint16[1 + PORTS_MAX], shared: how many are up, then which
        "services",  # uint64[SERVICE_WORDS], shared: this worker's
        "drops",  # uint64[DROP_REASON_COUNT], shared: this worker's, of the frame
    ],
)


def make_pool():
    """Allocate a worker's pool; memory of payloads is taken when they come."""
    return Pool(
        headers=np.zeros((HOLD_MAX, ROW_BYTES), np.uint8),
        meta=np.zeros(HOLD_MAX, META_DTYPE),
        payloads=np.zeros((HOLD_MAX, HOLD_BYTES), np.uint8),
        free=np.array([HOLD_MAX, *range(HOLD_MAX)], np.uint16),
        freed=np.zeros(HOLD_MAX, np.uint16),
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
        gone=np.zeros(ROWS, np.uint16),
        copies=np.zeros(ROWS, np.uint16),
        made_packet=np.zeros(SPARE_ROWS, np.uint16),
        made_port=np.zeros(SPARE_ROWS, np.uint16),
        words=np.zeros(WORDS, np.uint64),
        pool=make_pool(),
        punt_words=shared.punt_words[number],
        punt_slots=shared.punt_slots[number],
        ports=shared.ports,
        active_ports=shared.active_ports,
        services=shared.services[number],
        drops=shared.drops[number],
    )
