"""Entry points: what the worker loop calls of a driver, by the address of its machine code.

Each driver is compiled by itself, from its entry points in drivers/entries.py down, and beside the worker
loop (kernels/compile/entry.py). `io`, the worker's `PortIo`, goes by reference.
"""

import enum
from functools import partial

import numpy as np

from dpu_runtime.drivers.port import Kind
from dpu_runtime.kernels.compile.entry import caller


class Op(enum.IntEnum):
    """Columns of `entries: uint64[len(Kind), len(Op)]`, addresses; 0: not there, or not loaded."""

    RX = 0  # (io, port, headers, meta, counters, drops) -> (packets, errno)
    DONE = 1  # (io, port)
    TX = 2  # (io, port, headers, meta, order, count, counters, drops)
    KICKED = 3  # (io, port, ring)
    ASK_KICKS = 4  # (io, port) -> whether a packet waits


ENTRIES = np.zeros((len(Kind), len(Op)), np.uint64)  # of this process
_passed = {}  # Op -> types of the arguments


def agree(op, passed):
    """Raise TypeError unless all entry points of kind `op`, and all calls of them, have the same types."""
    if _passed.setdefault(op, tuple(passed)) != tuple(passed):
        raise TypeError(f"{op.name}: {passed}, elsewhere {_passed[op]}")


def _caller(op, returned, n_args):
    return caller(returned, n_args, check=partial(agree, op))


call_rx = _caller(Op.RX, "UniTuple(int64, 2)", 6)
call_done = _caller(Op.DONE, "none", 2)
call_tx = _caller(Op.TX, "none", 8)
call_kicked = _caller(Op.KICKED, "none", 3)
call_ask_kicks = _caller(Op.ASK_KICKS, "boolean", 2)
