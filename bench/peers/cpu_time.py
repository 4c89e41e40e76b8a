"""Who else had the CPUs during a measurement, and what to do about it."""

import contextlib
import os
from pathlib import Path

STOLEN_PERCENT_MAX = 5.0  # of the time of both CPUs
TRIES_MAX = 3
STARVED_MAX = 5  # samples in which nothing arrived, for want of a CPU
NS_PER_SECOND = 1e9
NICE_FIRST = -20


def waited_seconds(pids):
    """Time that threads of these processes were ready but had no CPU: second number of schedstat, proc(5)."""
    waited_ns = 0
    for path in [path for pid in pids for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
            waited_ns += int(path.read_text().split()[1])
    return waited_ns / NS_PER_SECOND


def raise_priority(pids):
    """Have the threads of these processes run before all others: the highest nice value, sched(7)."""
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(task.name), NICE_FIRST)
        group = Path(f"/proc/{pid}/autogroup")  # each has a session, whose nice value is what counts
        if group.exists():
            group.write_text(str(NICE_FIRST))


def undisturbed(measure):
    """The first sample with both cores to itself, else the best of TRIES_MAX.

    measure  function without arguments that returns a sample, with its `stolen_percent` and whether anything
             `arrived`; one that got no CPU, and nothing with it, does not count
    """
    best, starved, tries = None, 0, 0
    while tries < TRIES_MAX:
        sample = measure()
        if not sample.arrived and sample.stolen_percent > STOLEN_PERCENT_MAX and starved < STARVED_MAX:
            starved += 1
            continue
        tries += 1
        if best is None or sample.stolen_percent < best.stolen_percent:
            best = sample
        if best.stolen_percent <= STOLEN_PERCENT_MAX:
            break
    return best
