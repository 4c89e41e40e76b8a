"""Words of the frame's arrays in shared memory, by name.

Not: anything of numba; kernels and the control process read them. plane/shared.py has the arrays.
"""

import enum


class Control(enum.IntEnum):
    """Words of `control`, read by every worker each round; written by the control side, if not said."""

    STOP = 0  # 1: workers return; by the data plane
    EPOCH = 1  # by the data plane, which alone increments it; workers copy it to SEEN_EPOCH between bursts
    IDLE_SPIN_US = 2  # how long a worker polls before it sleeps
    TSC_HZ = 5  # rate of the cycle counters; measured by the data plane
    NOTES_VERSION = 4  # its lowest bit names the half of `notes` in force


class WorkerWord(enum.IntEnum):
    """Words of a row of `worker_state`, written by that worker."""

    SEEN_EPOCH = 0
    ROUNDS = 1
    BURSTS = 2
    PACKETS = 3
    BUSY_CYCLES = 4
    SLEEPS = 5
    THREAD_ID = 6
    CPU = 7


class FrameStage(enum.IntEnum):
    """Rows of `kernel_counters`: what is no function's; a function's stages have rows in its own region."""

    RX = 0
    PARSE = 1
    VERIFY = 2
    OFFLOAD = 3
    TX = 4
    XCONNECT = 5  # instead of all the others
