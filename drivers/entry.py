"""Entry points: what the worker loop calls of a driver, by the address of its machine code.

A driver marks them in its queue module:

    @entry(Op.TX)
    def null_tx(burst, io, port, first, end): ...

    burst  Burst, kernels/burst.py, lent
    io     state of the port's kind for this worker, io.py of its folder, lent

Each is compiled by itself, with what it calls, beside the worker loop (kernels/compile/entry.py).
"""

import enum

from dpu_runtime.kernels.compile.entry import entry_address, python_object, types_of
from dpu_runtime.kernels.compile.jit import PYTHON_MODE, kernel, primitive

if not PYTHON_MODE:
    from numba import types

    from dpu_runtime.kernels.compile.entry import call_entry


class Op(enum.IntEnum):
    """Columns of `entries: uint64[len(Kind), len(Op)]`, addresses; 0: not there, or not loaded."""

    RX = 0  # (burst, io, port) -> (packets, errno): receive into the rows of the burst
    DONE = 1  # (io, port): give back what the last burst lay in
    TX = 2  # (burst, io, port, first, end): send packets[first:end] of the burst
    KICKED = 3  # (io, port, ring): a kick came on a ring of the port
    ASK_KICKS = 4  # (io, port) -> bool: ask for a kick on every ring; whether a packet waits already


_entries = {}  # name of a module -> {Op: kernel}


def entry(op):
    """Mark and compile a function of a driver's queue module, with the arguments that `op` says."""

    def mark(function):
        compiled = _entries.setdefault(function.__module__, {})[op] = kernel(function)
        return compiled

    return mark


def entries_of(module):
    """{Op: kernel} of a driver's queue module."""
    return _entries[module.__name__]


def types_of_entry(op, burst, state):
    """numba's types of an entry point's arguments for a burst and a state, both lent."""
    return () if PYTHON_MODE else _form(op, *types_of(burst, state))[0]


def address_of_entry(op, function, burst, state):
    """Address of the machine code of an entry point for a burst and a state, both lent."""
    form = ((), None) if PYTHON_MODE else _form(op, *types_of(burst, state))
    return entry_address(function, *form)


def _form(op, burst, io):
    """Types of the arguments that an entry point takes, and of what it returns."""
    number, none = types.int64, types.none
    return {
        Op.RX: ((burst, io, number), types.UniTuple(number, 2)),
        Op.DONE: ((io, number), none),
        Op.TX: ((burst, io, number, number, number), none),
        Op.KICKED: ((io, number, number), none),
        Op.ASK_KICKS: ((io, number), types.boolean),
    }[op]


def _call(op, burst=None):
    passed, returned = _form(op, burst, types.uint64)
    return call_entry(op.name, returned, passed, burst)


def _py_call(address, io, *args):
    return python_object(address)(python_object(io), *args)


def _py_call_burst(address, burst, io, *args):
    return python_object(address)(burst, python_object(io), *args)


@primitive(_py_call_burst)
def call_rx(typingctx, address, burst, io, port):
    """Call an Op.RX."""
    return _call(Op.RX, burst)


@primitive(_py_call)
def call_done(typingctx, address, io, port):
    """Call an Op.DONE."""
    return _call(Op.DONE)


@primitive(_py_call_burst)
def call_tx(typingctx, address, burst, io, port, first, end):
    """Call an Op.TX."""
    return _call(Op.TX, burst)


@primitive(_py_call)
def call_kicked(typingctx, address, io, port, ring):
    """Call an Op.KICKED."""
    return _call(Op.KICKED)


@primitive(_py_call)
def call_ask_kicks(typingctx, address, io, port):
    """Call an Op.ASK_KICKS."""
    return _call(Op.ASK_KICKS)
