"""Entry points: what the worker loop calls of a driver, by the address of its machine code.

Each driver is compiled by itself, from its entry points in drivers/entries.py down, and beside the worker
loop. numba cannot cache a call through a function value, so a call takes an address; `io`, the worker's
`PortIo`, goes by reference.
"""

import enum

import numpy as np

from dpu_runtime.drivers.port import Kind
from dpu_runtime.kernels.compile.jit import PYTHON_MODE, primitive

if not PYTHON_MODE:
    from numba import types
    from numba.core.errors import TypingError


class Op(enum.IntEnum):
    """Columns of `entries: uint64[len(Kind), len(Op)]`, addresses; 0: not there, or not loaded."""

    RX = 0  # (io, port, headers, meta, counters, drops) -> (packets, errno)
    DONE = 1  # (io, port)
    TX = 2  # (io, port, headers, meta, order, count, counters, drops)
    KICKED = 3  # (io, port, ring)
    ASK_KICKS = 4  # (io, port) -> whether a packet waits


ENTRIES = np.zeros((len(Kind), len(Op)), np.uint64)  # of this process
called_with = {}  # Op -> types of the arguments that compiled code passes, for drivers/entries.py to check

_python_entries = []  # with the compiler off an address is 1 + an index of this


def python_address(function):
    """What stands for the address of a plain-Python entry point."""
    _python_entries.append(function)
    return len(_python_entries)


def _call(op, returned, *passed):
    """Signature and code of a call of entry points of kind `op` with arguments of types `passed`."""
    if called_with.setdefault(op, passed) != passed:
        raise TypingError(f"{op.name}: called with {passed}, elsewhere with {called_with[op]}")

    def codegen(context, builder, signature, values):
        function_type = context.call_conv.get_function_type(returned, passed)
        function = builder.inttoptr(values[0], function_type.as_pointer())
        status, value = context.call_conv.call_function(builder, function, returned, passed, values[1:])
        with builder.if_then(status.is_error, likely=False):
            context.call_conv.return_status_propagate(builder, status)
        return value

    return returned(types.uint64, *passed), codegen


def _py_call(address, *args):
    return _python_entries[int(address) - 1](*args)


@primitive(_py_call)
def call_rx(typingctx, address, io, port, headers, meta, counters, drops):
    """Receive a burst: (packets, errno)."""
    returned = types.UniTuple(types.int64, 2)
    return _call(Op.RX, returned, io, port, headers, meta, counters, drops)


@primitive(_py_call)
def call_done(typingctx, address, io, port):
    """Give back what the last burst lay in."""
    return _call(Op.DONE, types.none, io, port)


@primitive(_py_call)
def call_tx(typingctx, address, io, port, headers, meta, order, count, counters, drops):
    """Send packets `order[:count]`."""
    return _call(Op.TX, types.none, io, port, headers, meta, order, count, counters, drops)


@primitive(_py_call)
def call_kicked(typingctx, address, io, port, ring):
    """A kick came on a ring of the port."""
    return _call(Op.KICKED, types.none, io, port, ring)


@primitive(_py_call)
def call_ask_kicks(typingctx, address, io, port):
    """Ask for a kick on every ring of the port: whether a packet waits already."""
    return _call(Op.ASK_KICKS, types.boolean, io, port)
