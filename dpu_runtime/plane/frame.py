"""The private memory of one worker that is no burst: programs, and scratch space for egress.

Allocated once; nothing in the loop allocates. Not: anything of numba.
"""

from collections import namedtuple

import numpy as np

from dpu_runtime.kernels.burst import OUT_MAX, PROGRAM_COUNT, ROWS, make_burst
from dpu_runtime.kernels.layout import BATCH_SIZE, META_DTYPE, PORTS_MAX, ROW_BYTES
from dpu_runtime.kernels.offload.gro import GRO_DTYPE, GRO_IOV_MAX
from dpu_runtime.kernels.offload.segment import GSO_IOV_MAX

# A program: uint64[PROGRAM_WORDS]: how many stages, what they want (WANTS_*), then three words for each
STAGES_MAX = 20  # of a port and hook
STAGE_AT, STAGE_WORDS = 2, 3
ENTRY, STATE, COUNTERS = range(STAGE_WORDS)  # addresses: machine code, State, uint64[2] of packets and cycles
PROGRAM_WORDS = 64
assert STAGE_AT + STAGES_MAX * STAGE_WORDS <= PROGRAM_WORDS

TASKS_MAX = 32
TASK_WORDS = 4  # of a task: ENTRY, STATE, and then
EVERY_NS = 2

FRONT, FRONT_STATE, BACK, BACK_STATE = range(4)  # words of `entries`

Frame = namedtuple(
    "Frame",
    [
        "entries",  # uint64[4], addresses of what is fused: kernels of front.py and back.py, and of this
        "programs",  # uint64[2, PORTS_MAX, PROGRAM_COUNT, PROGRAM_WORDS], two halves
        "programs_version",  # uint64[1], its lowest bit names the half in force
        "tasks",  # uint64[2, TASKS_MAX, TASK_WORDS], two halves as `programs`
        "tasks_due",  # uint64[1 + TASKS_MAX], how many there are, then when each is due, coarse ns
        "clock",  # uint64[2], timespec
        "io",  # drivers/io.py, what it lends the drivers
        # shared memory, this worker's
        "port_counters",  # uint64[PORTS_MAX, PORT_COUNTER_COUNT]
        "kernel_counters",  # uint64[STAGE_COUNT, 2]
        # the copies of a burst by egress port
        "next_copy",  # int32[OUT_MAX], linked list of one port's copies, -1: last
        "first_copy",  # int32[PORTS_MAX]
        "last_copy",  # int32[PORTS_MAX]
        "egress_ports",  # uint16[PORTS_MAX], ports with a copy, in order of appearance
        "rest",  # uint16[ROWS], packets at hand while others are sent
        # offloads
        "segments",  # Burst of BATCH_SIZE rows, software GSO's output: packets are rows 0, 1, 2, ...
        "segment_iov",  # uint64[GSO_IOV_MAX, 2], struct iovec[]: payloads of segments in pieces
        "gro_iov",  # uint64[GRO_IOV_MAX, 2], struct iovec[]: payloads of merged packets
        "gro_flows",  # GRO_DTYPE[BATCH_SIZE], scratch
    ],
)


def make_frame(number, shared, io):
    """Allocate the frame of worker `number`; `shared` has the shared memory's arrays as attributes."""
    return Frame(
        entries=np.zeros(4, np.uint64),
        programs=np.zeros((2, PORTS_MAX, PROGRAM_COUNT, PROGRAM_WORDS), np.uint64),
        programs_version=np.zeros(1, np.uint64),
        tasks=np.zeros((2, TASKS_MAX, TASK_WORDS), np.uint64),
        tasks_due=np.zeros(1 + TASKS_MAX, np.uint64),
        clock=np.zeros(2, np.uint64),
        io=io,
        port_counters=shared.port_counters[number],
        kernel_counters=shared.kernel_counters[number],
        next_copy=np.zeros(OUT_MAX, np.int32),
        first_copy=np.full(PORTS_MAX, -1, np.int32),
        last_copy=np.zeros(PORTS_MAX, np.int32),
        egress_ports=np.zeros(PORTS_MAX, np.uint16),
        rest=np.zeros(ROWS, np.uint16),
        segments=_segments(number, shared),
        segment_iov=np.zeros((GSO_IOV_MAX, 2), np.uint64),
        gro_iov=np.zeros((GRO_IOV_MAX, 2), np.uint64),
        gro_flows=np.zeros(BATCH_SIZE, GRO_DTYPE),
    )


def _segments(number, shared):
    """A burst for software GSO, with no more rows than drivers send at once."""
    return make_burst(number, shared)._replace(
        headers=np.zeros((BATCH_SIZE, ROW_BYTES), np.uint8),
        meta=np.zeros(BATCH_SIZE, META_DTYPE),
        packets=np.arange(BATCH_SIZE, dtype=np.uint16),
    )
