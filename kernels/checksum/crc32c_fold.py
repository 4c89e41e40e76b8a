"""CRC32c of long ranges by folding: 64 octets an instruction, four of them at once.

Spec: Intel, "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction" (folding), with
      VPCLMULQDQ over 512-bit vectors.
In:   memory by address, whole blocks.   Out: the CRC register, as crc32c.py has it.
Not:  what is left behind the last block, processors without the instruction: crc32c.py.

A message is a polynomial, and its CRC a remainder. So 128 bits of it may be taken away in front if they are
added again D bits further on, multiplied by x**D modulo the polynomial: as two products, one for each
64-bit half. Four accumulators of four such lanes go over the message, FOLD_BYTES a step; then they are folded
into one that goes on by BLOCK_BYTES, and its lanes into one, whose CRC the CRC32 instruction takes.
"""

import ctypes

import numpy as np

from dpu_runtime.kernels.compile.jit import PYTHON_MODE, primitive

if not PYTHON_MODE:
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils

    _I64 = ir.IntType(64)
    _LANES = ir.VectorType(_I64, 8)

POLYNOMIAL = 0x82F63B78  # 0x1EDC6F41, bits reversed
BLOCK_BYTES = 64  # octets of a vector
ACCUMULATORS = 4
FOLD_BYTES = ACCUMULATORS * BLOCK_BYTES
LANE_BITS = 128


def times_x(crc):
    """Multiply by x modulo the polynomial; in reversed bits that is a step to the right."""
    return (crc >> 1) ^ (POLYNOMIAL if crc & 1 else 0)


def _x_to(exponent):
    """x**exponent modulo the polynomial, as the upper half of a reversed 64-bit word."""
    power = 1 << 31  # x**0
    for _ in range(exponent):
        power = times_x(power)
    return power << 32


def _factors(bits):
    """What the halves of a lane are multiplied by to move it `bits` on.

    The first half is 64 bits further from there. The carry-less product of two reversed words comes out
    one bit short, which is x**1.
    """
    return _x_to(bits + 64 - 1), _x_to(bits - 1)


def _py_crc32c_blocks(state, addr, blocks):
    crc = int(state)
    for octet in ctypes.string_at(int(addr), int(blocks) * BLOCK_BYTES):
        crc ^= octet
        for _ in range(8):
            crc = times_x(crc)
    return np.uint64(crc)


def _multiply(builder, a, b, halves):
    """Carry-less products of the low (0x00) or high (0x11) halves of each lane of two vectors."""
    kind = ir.FunctionType(_LANES, [_LANES, _LANES, ir.IntType(8)])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.pclmulqdq.512")
    return builder.call(function, [a, b, ir.Constant(ir.IntType(8), halves)])


def _moved(builder, vector, factors):
    """Each lane multiplied by its pair of `factors`, a list of eight words."""
    constant = ir.Constant(_LANES, factors)
    return builder.xor(_multiply(builder, vector, constant, 0x00), _multiply(builder, vector, constant, 0x11))


def _load(builder, addr, octets):
    at = builder.add(addr, ir.Constant(_I64, octets))
    return builder.load(builder.inttoptr(at, _LANES.as_pointer()), align=1)


def _word(builder, vector, number):
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), number))


def _crc_of_lanes(builder, vector):
    """CRC register of the four lanes of a vector, from a register of 0."""
    lanes = range(4)
    # all but the last are moved onto it; a factor of 0 takes the last one out
    factors = [word for lane in (384, 256, 128) for word in _factors(lane)]
    moved = _moved(builder, vector, [*factors, 0, 0])
    step = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_I64, [_I64, _I64]), "llvm.x86.sse42.crc32.64.64"
    )
    crc = ir.Constant(_I64, 0)
    for half in (0, 1):
        word = _word(builder, vector, 6 + half)
        for lane in lanes[:3]:
            word = builder.xor(word, _word(builder, moved, 2 * lane + half))
        crc = builder.call(step, [crc, word])
    return crc


def _with_state(builder, vector, state):
    """The CRC register added to the first four octets of the message."""
    zero = ir.Constant(ir.IntType(32), 0)
    first = builder.xor(builder.extract_element(vector, zero), state)
    return builder.insert_element(vector, first, zero)


@primitive(_py_crc32c_blocks)
def crc32c_blocks(typingctx, state, addr, blocks):
    """CRC register after `blocks` * BLOCK_BYTES octets at `addr`; ACCUMULATORS blocks or more."""

    def codegen(context, builder, signature, args):
        state, addr, blocks = args
        folds = builder.udiv(blocks, ir.Constant(_I64, ACCUMULATORS))
        places = [cgutils.alloca_once(builder, _LANES) for _ in range(ACCUMULATORS)]
        for k, place in enumerate(places):
            vector = _load(builder, addr, k * BLOCK_BYTES)
            builder.store(_with_state(builder, vector, state) if k == 0 else vector, place)
        far = [*_factors(8 * FOLD_BYTES)] * 4
        with cgutils.for_range(builder, folds, start=ir.Constant(_I64, 1)) as loop:
            at = builder.add(addr, builder.mul(loop.index, ir.Constant(_I64, FOLD_BYTES)))
            for k, place in enumerate(places):
                moved = _moved(builder, builder.load(place), far)
                builder.store(builder.xor(moved, _load(builder, at, k * BLOCK_BYTES)), place)
        near = [*_factors(8 * BLOCK_BYTES)] * 4
        last = builder.load(places[-1])
        for k, place in enumerate(places[:-1]):
            bits = 8 * BLOCK_BYTES * (ACCUMULATORS - 1 - k)
            last = builder.xor(last, _moved(builder, builder.load(place), [*_factors(bits)] * 4))
        builder.store(last, places[0])
        done = builder.mul(folds, ir.Constant(_I64, ACCUMULATORS))
        with cgutils.for_range(builder, blocks, start=done) as loop:
            at = builder.add(addr, builder.mul(loop.index, ir.Constant(_I64, BLOCK_BYTES)))
            moved = _moved(builder, builder.load(places[0]), near)
            builder.store(builder.xor(moved, _load(builder, at, 0)), places[0])
        return _crc_of_lanes(builder, builder.load(places[0]))

    return types.uint64(types.uint64, types.uint64, types.uint64), codegen
