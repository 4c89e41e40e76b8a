"""Which octets of two places in memory differ, 64 at a time, for gro_match.py.

In:   memory by address.   Out: a bit an octet.
"""

import ctypes

import numpy as np

from dpu_runtime.kernels.compile.jit import PYTHON_MODE, primitive

if not PYTHON_MODE:
    from llvmlite import ir
    from numba import types

COMPARED_BYTES = 64  # octets, as many as a word has bits


def _py_differing_octets(addr_a, addr_b):
    a, b = (ctypes.string_at(int(addr), COMPARED_BYTES) for addr in (addr_a, addr_b))
    return np.uint64(sum((a[k] != b[k]) << k for k in range(COMPARED_BYTES)))


@primitive(_py_differing_octets)
def differing_octets(typingctx, addr_a, addr_b):
    """Which of the COMPARED_BYTES octets at two addresses differ: bit k for octet k, uint64."""

    def codegen(context, builder, signature, args):
        octets = ir.VectorType(ir.IntType(8), COMPARED_BYTES).as_pointer()
        a, b = (builder.load(builder.inttoptr(addr, octets), align=1) for addr in args)
        return builder.bitcast(builder.icmp_unsigned("!=", a, b), ir.IntType(COMPARED_BYTES))

    return types.uint64(types.uint64, types.uint64), codegen
