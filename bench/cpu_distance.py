"""How far apart the two CPUs are just now: what a cache line costs to go from one to the other and back.

The host of a virtual machine moves its CPUs every few seconds or minutes, without a word. Near ones share a
cache (L3), far ones do not, and packets that cross from one to the other pay for it. Ratios change with it,
as a peer does not move as many lines as ours.
"""

import functools
import os
from functools import partial

import numpy as np

from bench.limit_loops import line_loop
from bench.pinned import in_threads, pinned
from dpu_runtime.kernels.compile.jit import PYTHON_MODE
from dpu_runtime.plane.worker_thread import tsc_hz

CPUS = (0, 1)
NEAR, FAR, MIXED, UNKNOWN = "near", "far", "mixed", "unknown"
# AMD EPYC (Zen 5) of 2 CPUs, 204 probes in 8 minutes: 51 to 140 ns or 353 to 429, nothing between.
NEAR_NS_MAX = 200
TRIPS, BATCHES = 100, 101  # a batch is some 10 us: few of them lose their CPU, and the median does not mind
SECONDS_MAX = 1.0  # of waiting for the other thread
NS_PER_SECOND = 1e9
LINE_WORDS = 32  # of 64 bits: two pairs of lines, as CPUs fetch lines in pairs; the loop takes an aligned one


def distance(low_ns, high_ns):
    """NEAR or FAR, MIXED when the CPUs were moved meanwhile; of the lowest and highest of some probes."""
    if low_ns is None or high_ns is None:
        return UNKNOWN
    return NEAR if high_ns <= NEAR_NS_MAX else FAR if low_ns > NEAR_NS_MAX else MIXED


@functools.cache
def _tsc_hz():
    return tsc_hz()


def measure(cpus=CPUS):
    """Time of a cache line from one of `cpus` to the other and back, in ns; None: it cannot be measured."""
    if PYTHON_MODE or (os.cpu_count() or 1) <= max(cpus):
        return None
    line, ticks = np.zeros(LINE_WORDS, np.uint64), np.uint64(SECONDS_MAX * _tsc_hz())
    times = [np.zeros(BATCHES, np.uint64) for _ in cpus]
    done = in_threads(
        *(
            partial(pinned, cpu, line_loop, line, np.uint64(odd), ticks, of_one, TRIPS)
            for odd, (cpu, of_one) in enumerate(zip(cpus, times, strict=True))
        )
    )
    taken = times[0][: done[0]]
    return float(np.median(taken)) / TRIPS * NS_PER_SECOND / _tsc_hz() if len(taken) else None
