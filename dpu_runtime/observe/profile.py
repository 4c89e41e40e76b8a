"""Where the time of the workers goes, over some seconds: `dpu profile`.

In:   the cycle counters that workers keep anyway (shared.py, Stage), the scheduler's account of their
      threads, and their system calls, which are counted only meanwhile (syscall_counts.py).
Out:  by worker the share of each stage, of polling and of sleep, together all of the time; and how much of it
      others had the CPU. What a host cannot tell is a note, in words, and no figure.
Not:  what is inside a stage: `perf`, with the data plane's perf map (docs/profiling.md).

A stage's time is that from its begin to its end by the clock. Where others have the CPU in between, most
often in tx, which wakes the receiver, that is the stage's too. Sleep is what the scheduler had the thread
neither run nor wait; what is left is polling, rounds that found nothing.
"""

import asyncio
import os
import time
from dataclasses import dataclass

import numpy as np

from dpu_runtime.config.errors import ApplyError
from dpu_runtime.observe.counters import stage_rows
from dpu_runtime.observe.syscall_counts import SyscallCounts
from dpu_runtime.plane.words import Control, WorkerWord

SECONDS_MIN, SECONDS_MAX = 0.1, 60.0
NS_PER_SECOND = 1_000_000_000


@dataclass(frozen=True)
class _Moment:
    """What one look at all workers saw.

    stages     {stage: uint64[workers, 2]}, packets and cycles
    state      uint64[workers, WORKER_WORDS]
    scheduled  a worker each: (ns on the CPU, ns waiting for it), or None
    calls      a worker each: {name: (calls, ns)}, or None
    """

    at: float
    stages: dict
    state: np.ndarray
    scheduled: list
    calls: list


class Profiler:
    """Profiles of the workers behind `shared`, one at a time."""

    def __init__(self):
        self._ends = None  # time.monotonic() when the one that is taken is done; its client may be gone

    async def profile(self, shared, cpus, kicks, seconds):
        """One dict a worker after `seconds`. Raises ApplyError, with nothing left switched on.

        cpus   their CPUs, in the order of their numbers   kicks  their eventfds
        """
        if self._ends is not None:
            left = max(self._ends - time.monotonic(), 0)
            raise ApplyError(f"a profile is being taken already, for another {left:.1f} s")
        self._ends = time.monotonic() + seconds
        try:
            return await _profile(shared, cpus, kicks, seconds)
        finally:
            self._ends = None


async def _profile(shared, cpus, kicks, seconds):
    threads = [int(shared.worker_state[number, WorkerWord.THREAD_ID]) for number in range(len(cpus))]
    notes, counts = [], None
    try:
        counts = SyscallCounts(threads)
    except OSError as error:
        notes.append(f"system calls are not counted: {error.strerror or error}")
    try:
        for kick in kicks:  # a worker that sleeps is in a call whose begin was not seen
            os.eventfd_write(kick, 1)
        before = _look(shared, threads, counts)
        await asyncio.sleep(seconds)
        after = _look(shared, threads, counts)
    finally:
        if counts is not None:
            counts.close()
    if (after.state[:, WorkerWord.THREAD_ID] != threads).any():
        raise ApplyError("the data plane was replaced meanwhile; take the profile again")
    tsc_hz = int(shared.control[Control.TSC_HZ])
    workers = [_worker(number, cpu, before, after, tsc_hz) for number, cpu in enumerate(cpus)]
    return {"seconds": round(after.at - before.at, 3), "notes": notes, "workers": workers}


def _look(shared, threads, counts):
    count = len(threads)
    return _Moment(
        time.monotonic(),
        {name: rows[:count].copy() for name, rows in stage_rows(shared).items()},
        shared.worker_state[:count].copy(),
        [_scheduled(thread) for thread in threads],
        [None if counts is None else counts.read(thread) for thread in threads],
    )


def _scheduled(thread):
    """(ns on the CPU, ns waiting for it) of a thread, proc_pid_schedstat; None: not on this host."""
    try:
        with open(f"/proc/{thread}/task/{thread}/schedstat") as text:
            on_cpu, waiting = map(int, text.read().split()[:2])
    except OSError:
        return None
    return (on_cpu, waiting) if on_cpu else None


def _worker(number, cpu, before, after, tsc_hz):
    """The profile of one worker; shares are of all the time there was."""
    ns = (after.at - before.at) * NS_PER_SECOND
    cycles = ns * tsc_hz / NS_PER_SECOND
    stages = {
        name: (rows[number] - before.stages[name][number]).tolist() for name, rows in after.stages.items()
    }
    state = after.state[number] - before.state[number]
    packets = int(state[WorkerWord.PACKETS])
    spent = {name: _stage(*counts, packets, cycles) for name, counts in stages.items() if counts[1] > 0}
    made = {
        "number": number,
        "cpu": cpu,
        "thread": int(after.state[number, WorkerWord.THREAD_ID]),
        "packets": packets,
        "bursts": int(state[WorkerWord.BURSTS]),
        "stages": spent,
        "notes": [],
    }
    busy = sum(stage["share"] for stage in spent.values())
    made |= _idle(before.scheduled[number], after.scheduled[number], ns, busy, made["notes"])
    if after.calls[number] is not None:
        made["syscalls"] = _calls(before.calls[number], after.calls[number], ns)
    return made


def _stage(seen, cycles, packets, all_cycles):
    """A stage: its share, what it saw, its cycles by each of those and by each that the worker received."""
    return {
        "share": round(cycles / all_cycles, 5),
        "packets": seen,
        "cycles_per_packet": round(cycles / seen, 1) if seen else None,
        "cycles_per_received": round(cycles / packets, 1) if packets else None,
    }


def _idle(before, after, ns, busy, notes):
    """Shares of what is no stage."""
    left = max(1.0 - busy, 0.0)
    if before is None or after is None:
        notes.append("sleep is not told from polling: no /proc/PID/task/TID/schedstat (CONFIG_SCHED_INFO)")
        return {"polling_or_sleeping": round(left, 5)}
    on_cpu, waiting = (max(new - old, 0) / ns for old, new in zip(before, after, strict=True))
    sleeping = min(max(1.0 - on_cpu - waiting, 0.0), left)
    return {
        "polling": round(left - sleeping, 5),
        "sleeping": round(sleeping, 5),
        "waiting_for_cpu": round(waiting, 5),
    }


def _calls(before, after, ns):
    """System calls, the longest first: how many a second, and their share of the time."""
    changed = {
        name: [max(new - old, 0) for new, old in zip(sums, before.get(name, (0, 0)), strict=True)]
        for name, sums in after.items()
    }
    return {
        name: {
            "per_second": round(calls * NS_PER_SECOND / ns, 1),
            "share": round(inside / ns, 5),
            "us_mean": round(inside / calls / 1000, 2) if calls else None,
        }
        for name, (calls, inside) in sorted(changed.items(), key=lambda item: -item[1][1])
        if inside
    }
