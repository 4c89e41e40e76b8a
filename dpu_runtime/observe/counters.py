"""Counters of the shared memory in the form of `dpu stats -j`.

Received + copies + segments = transmitted + dropped + merged; `balance` shows the six. Read under
traffic they may differ by the packets in the workers' hands.
"""

import os

from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.switch.mac_table import SWITCH_COUNTERS
from dpu_runtime.plane.words import Control, FrameStage, WorkerWord
from dpu_runtime.registry import functions


def read_stats(shared, slots, cpus):
    """Return all counters.

    slots   port name -> object with `index`, and `base`, which is what the counters began at
    cpus    CPU numbers of the workers
    """
    workers = len(cpus)
    ports = shared.port_counters[:workers].sum(axis=0)
    drops = shared.drops[:workers].sum(axis=0)
    switch = shared.of("switch").switch[:workers].sum(axis=0)
    return {
        "ports": {
            name: {c.name.lower(): int(ports[slot.index, c]) - slot.base[c] for c in PortCounter}
            for name, slot in slots.items()
        },
        "drops": {
            reason.name.lower(): int(drops[reason])
            for reason in Drop
            if reason != Drop.NONE and drops[reason]
        }
        | _function_drops(shared, workers),
        "kernels": {
            name: {"packets": int(packets), "cycles": int(spent)}
            for name, (packets, spent) in stage_counters(shared, workers).items()
        },
        "switch": dict(zip(SWITCH_COUNTERS, switch.tolist(), strict=True)),
        "balance": shared.balance(workers),
        "workers": [_worker(shared, number, cpu) for number, cpu in enumerate(cpus)],
        "tsc_hz": int(shared.control[Control.TSC_HZ]),
    }


def _function_drops(shared, workers):
    counted = {}
    for function in functions():
        totals = shared.of(function.name).drops[:workers].sum(axis=0).tolist()
        counted |= {name: packets for name, packets in zip(function.drops, totals, strict=False) if packets}
    return counted


def stage_counters(shared, workers):
    """{stage: (packets, cycles)} of the frame's stages and the functions', in the order of the pipeline."""
    rows = shared.kernel_counters[:workers].sum(axis=0).tolist()
    named = {stage.name.lower(): rows[stage] for stage in FrameStage}
    for function in functions():
        totals = shared.of(function.name).stages[:workers].sum(axis=0).tolist()
        named |= {stage.name: row for stage, row in zip(function.stages, totals, strict=False)}
    return named


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
