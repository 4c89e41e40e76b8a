"""How drivers come to a worker: the state of each kind, and the addresses of its entry points.

A kind's folder has its name. There `io.py` makes the state, `queue.py` has the entry points.
"""

import importlib
import weakref

from dpu_runtime.drivers.entry import address_of_entry, entries_of, types_of_entry
from dpu_runtime.drivers.port import Kind
from dpu_runtime.kernels.compile.entry import lent_address
from dpu_runtime.kernels.compile.parallel import Job
from dpu_runtime.kernels.compile.reference import Lent

KINDS = tuple(kind for kind in Kind if kind != Kind.NONE)


def module_of(kind, name):
    """Module `name` of a driver: "io" or "queue"."""
    return importlib.import_module(f"dpu_runtime.drivers.{kind.name.lower()}.{name}")


def driver_jobs(io, burst, shared, kinds=KINDS):
    """What is to be compiled of these kinds; the arguments are load_drivers'."""
    return [
        Job(f"{kind.name.lower()} {op.name.lower()}", function, types_of_entry(op, burst, state))
        for kind, state in _make_states(io, shared, kinds).items()
        for op, function in entries_of(module_of(kind, "queue")).items()
    ]


def _make_states(io, shared, kinds):
    return {kind: Lent(module_of(kind, "io").make_state(io, shared)) for kind in kinds}


def load_drivers(io, burst, shared, kinds=KINDS):
    """Make the states of these kinds, and compile or load their entry points; write the addresses to `io`.

    io      PortIo of the worker   burst  its Burst, lent
    shared  the shared memory's arrays as attributes

    Returns {kind: state, lent}. They live as long as `io.states`.
    """
    states = _make_states(io, shared, kinds)
    for kind, state in states.items():
        for op, function in entries_of(module_of(kind, "queue")).items():
            io.entries[kind, op] = address_of_entry(op, function, burst, state)
        io.states[kind] = lent_address(state)
    weakref.finalize(io.states, dict.clear, dict(states)).atexit = False
    return states
