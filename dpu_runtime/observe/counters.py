"""Counters of the shared memory in the form of `dpu stats -j`.

Received + copies + segments + made = transmitted + dropped + merged + held + punted, which `balance` shows.
Read under traffic they may differ by the packets in the workers' hands.
"""

import os

from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.switch.mac_table import SWITCH_COUNTERS
from dpu_runtime.plane.shared import Control, Stage, WorkerWord
from dpu_runtime.registry import functions


def read_stats(shared, slots, cpus):
    """Return all counters.

    slots   port name -> object with `index`, and `base`, which is what the counters began at
    cpus    CPU numbers of the workers
    """
    workers = len(cpus)
    ports = shared.port_counters[:workers].sum(axis=0)
    stages = shared.kernel_counters[:workers].sum(axis=0)
    switch = shared.of("switch").counts[:workers].sum(axis=0)
    return {
        "ports": {
            name: {c.name.lower(): int(ports[slot.index, c]) - slot.base[c] for c in PortCounter}
            for name, slot in slots.items()
        },
        "drops": _drops(shared),
        "kernels": {
            stage.name.lower(): {"packets": int(stages[stage, 0]), "cycles": int(stages[stage, 1])}
            for stage in Stage
        },
        "switch": dict(zip(SWITCH_COUNTERS, switch.tolist(), strict=True)),
        "balance": shared.balance(workers),
        "workers": [_worker(shared, number, cpu) for number, cpu in enumerate(cpus)],
        "tsc_hz": int(shared.control[Control.TSC_HZ]),
    }


def _drops(shared):
    """{reason: packets} of the frame and of every function, those that are not 0."""
    frame = shared.drops.sum(axis=0).tolist()
    counted = {reason.name.lower(): frame[reason] for reason in Drop if reason != Drop.NONE}
    for function in functions():
        columns = shared.of(function.name).drops.sum(axis=0).tolist()
        for name, packets in zip(function.drops, columns, strict=False):
            counted[name] = counted.get(name, 0) + packets
    return {name: packets for name, packets in counted.items() if packets}


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
