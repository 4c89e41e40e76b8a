"""Counters of the shared memory in the form of `dpu stats -j`.

Received + copies + segments + made = transmitted + dropped + merged + held + punted, which `balance` has.
Read under traffic they may differ by the packets in the workers' hands.
Drop reasons, stages and groups of counters are the frame's own and those that functions declare.
"""

import os

from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.function import HOOKS
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.plane.words import Control, FrameStage, WorkerWord
from dpu_runtime.registry import functions, order

FRONT, BACK = ("rx", "parse", "verify"), ("offload", "tx", "xconnect")  # stages of the frame


def read_stats(shared, live_ports, cpus):
    """Return all counters.

    live_ports  port name -> object with `index`, and `base`, which is what the counters began at
    cpus        CPU numbers of the workers
    """
    workers = len(cpus)
    ports = shared.port_counters[:workers].sum(axis=0)
    return {
        "ports": {
            name: {c.name.lower(): int(ports[live.index, c]) - live.base[c] for c in PortCounter}
            for name, live in live_ports.items()
        },
        "drops": {name: packets for name, packets in drop_counters(shared, workers).items() if packets},
        "kernels": {
            name: {"packets": packets, "cycles": cycles}
            for name, (packets, cycles) in stage_counters(shared, workers).items()
        },
        **_groups(shared, workers),
        "balance": shared.balance(workers),
        "workers": [_worker(shared, number, cpu) for number, cpu in enumerate(cpus)],
        "tsc_hz": int(shared.control[Control.TSC_HZ]),
    }


def _sums(array, workers):
    """Sums over the workers, as Python integers."""
    return array[:workers].sum(axis=0).tolist()


def drop_counters(shared, workers):
    """{reason: packets} of the frame and of all functions."""
    frame = _sums(shared.drops, workers)
    counted = {reason.name.lower(): frame[reason] for reason in Drop if reason != Drop.NONE}
    for function in functions():
        own = _sums(shared.of(function.name).drops, workers)
        counted |= zip(function.drops, own, strict=False)
    return counted


def stage_counters(shared, workers):
    """{stage: (packets, cycles)} of the frame and of all functions, in the order of the pipeline."""
    return {name: tuple(_sums(rows, workers)) for name, rows in stage_rows(shared).items()}


def stage_rows(shared):
    """{stage: uint64[workers, 2]}, its packets and cycles by worker, in the order of the pipeline."""
    frame = {stage.name.lower(): shared.kernel_counters[:, stage] for stage in FrameStage}
    own = {
        stage.name: shared.of(function.name).stages[:, row]
        for function in functions()
        for row, stage in enumerate(function.stages)
    }
    stages = order(functions())
    rows = {name: frame[name] for name in FRONT}
    rows |= {stage.name: own[stage.name] for hook in HOOKS for stage in stages[hook]}
    return rows | {name: frame[name] for name in BACK}


def _groups(shared, workers):
    """{group: {name: count}} of what functions show of their counters."""
    return {
        group: dict(zip(names, _sums(getattr(shared.of(function.name), group), workers), strict=True))
        for function in functions()
        for group, names in function.shown.items()
    }


def _worker(shared, number, cpu):
    state = shared.worker_state[number]
    hz = int(shared.control[Control.TSC_HZ]) or 1
    return {
        "cpu": cpu,
        "thread": int(state[WorkerWord.THREAD_ID]),
        "rounds": int(state[WorkerWord.ROUNDS]),
        "bursts": int(state[WorkerWord.BURSTS]),
        "packets": int(state[WorkerWord.PACKETS]),
        "sleeps": int(state[WorkerWord.SLEEPS]),
        "busy_s": round(int(state[WorkerWord.BUSY_CYCLES]) / hz, 3),
        "cpu_s": _cpu_seconds(int(state[WorkerWord.THREAD_ID])),
    }


def _cpu_seconds(thread):
    """CPU time of a thread, proc_pid_stat(5) fields 14 and 15; None when it is gone."""
    try:
        with open(f"/proc/{thread}/task/{thread}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
