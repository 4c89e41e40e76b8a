"""Sum of a range of memory in vectors of 64 octets, for checksum.py.

In:   memory by address.   Out: a sum that is still to be folded.
Not:  processors without AVX-512BW, which loads a vector's part without touching what is behind it; they sum
      32-bit words, which LLVM turns into vectors of their size.

Words that are widened to 64 bits cost a shuffle each, of which Intel's processors do one a cycle, and what
is left behind the last vector costs a loop. Here 64-bit lanes are loaded as they lie and their halves are
added apart, and the rest is one more vector, loaded under a mask.
"""

import ctypes

import numpy as np

from dpu_runtime.kernels.compile.jit import PYTHON_MODE, has_instructions, primitive

if not PYTHON_MODE:
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils

    _I64 = ir.IntType(64)
    _LANES = ir.VectorType(_I64, 8)
    _OCTETS = ir.VectorType(ir.IntType(8), 64)
    _MASK = ir.VectorType(ir.IntType(1), 64)

BLOCK_BYTES = 64
_BLOCK_BITS = 6  # of a length, in front of which the blocks are counted
HAS_WIDE_SUM = has_instructions("avx512bw")


def _py_sum_octets(addr, length):
    data = ctypes.string_at(int(addr), int(length))
    words = np.frombuffer(data + bytes(-len(data) % 4), "<u4")
    return np.uint64(words.sum(dtype=np.uint64))


def _intrinsic(builder, name, result, arguments):
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def _front_of_block(builder, addr, count):
    """The first `count` octets, 0..63, of the block at `addr`, and zeros behind; no other octet is read."""
    one = ir.Constant(_I64, 1)
    mask = builder.bitcast(builder.sub(builder.shl(one, count), one), _MASK)
    pointer, alignment = _OCTETS.as_pointer(), ir.IntType(32)
    load = _intrinsic(builder, "llvm.masked.load.v64i8.p0", _OCTETS, [pointer, alignment, _MASK, _OCTETS])
    nothing = ir.Constant(_OCTETS, [0] * BLOCK_BYTES)
    octets = builder.call(load, [builder.inttoptr(addr, pointer), ir.Constant(alignment, 1), mask, nothing])
    return builder.bitcast(octets, _LANES)


@primitive(_py_sum_octets)
def sum_octets(typingctx, addr, length):
    """Sum of `length` octets at `addr` as little-endian 32-bit words, uint64; zeros fill up the last one."""

    def codegen(context, builder, signature, args):
        addr, length = args
        low_half, half_bits = ir.Constant(_LANES, [0xFFFFFFFF] * 8), ir.Constant(_LANES, [32] * 8)
        zero = ir.Constant(_LANES, [0] * 8)
        low, high = (cgutils.alloca_once_value(builder, zero) for _ in range(2))

        def add(block):
            builder.store(builder.add(builder.load(low), builder.and_(block, low_half)), low)
            builder.store(builder.add(builder.load(high), builder.lshr(block, half_bits)), high)

        shift = ir.Constant(_I64, _BLOCK_BITS)
        blocks = builder.lshr(length, shift)
        with cgutils.for_range(builder, blocks) as loop:
            at = builder.add(addr, builder.shl(loop.index, shift))
            add(builder.load(builder.inttoptr(at, _LANES.as_pointer()), align=1))
        rest = builder.and_(length, ir.Constant(_I64, BLOCK_BYTES - 1))
        add(_front_of_block(builder, builder.add(addr, builder.shl(blocks, shift)), rest))
        add_lanes = _intrinsic(builder, "llvm.vector.reduce.add.v8i64", _I64, [_LANES])
        return builder.call(add_lanes, [builder.add(builder.load(low), builder.load(high))])

    return types.uint64(types.uint64, types.uint64), codegen
