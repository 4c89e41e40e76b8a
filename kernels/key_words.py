"""Comparisons of packet keys: all KEY_WORDS words of one at once, as a vector.

In:   addresses of keys, and of rules' rows (acl_layout.py).   Out: whether they are equal.

LLVM makes no vector of a loop over the words, as their sum of differences is only asked whether it is 0. Its
generic vectors are one instruction with AVX-512, and two or four where registers are narrower.
"""

import numpy as np

from kernels.acl_layout import KEY_WORDS
from kernels.jit import PYTHON_MODE, primitive
from kernels.memory import words_at

if not PYTHON_MODE:
    from llvmlite import ir
    from numba import types

    _I64 = ir.IntType(64)
    _WORDS = ir.VectorType(_I64, KEY_WORDS)
    _BITS = ir.IntType(KEY_WORDS)

KEY_BYTES = np.uint64(8 * KEY_WORDS)


def _py_words(addr):
    return words_at(addr, 2 * KEY_WORDS).view(np.uint64)


def _py_same_key(a, b):
    return bool((_py_words(a) == _py_words(b)).all())


def _py_takes_key(row, key):
    value, mask = _py_words(row), _py_words(np.uint64(row) + KEY_BYTES)
    return bool(((value ^ _py_words(key)) & mask == 0).all())


def _load(builder, addr, octets=0):
    at = builder.add(addr, ir.Constant(_I64, octets))
    return builder.load(builder.inttoptr(at, _WORDS.as_pointer()), align=8)


def _is_zero(builder, words):
    """Whether all words of a vector are 0."""
    differing = builder.icmp_unsigned("!=", words, ir.Constant(_WORDS, [0] * KEY_WORDS))
    return builder.icmp_unsigned("==", builder.bitcast(differing, _BITS), ir.Constant(_BITS, 0))


@primitive(_py_same_key)
def same_key(typingctx, a, b):
    """Whether the keys at two addresses are equal."""

    def codegen(context, builder, signature, args):
        a, b = (_load(builder, addr) for addr in args)
        return _is_zero(builder, builder.xor(a, b))

    return types.boolean(types.uint64, types.uint64), codegen


@primitive(_py_takes_key)
def takes_key(typingctx, row, key):
    """Whether the key at an address has the value of the rule's row at another, under its mask."""

    def codegen(context, builder, signature, args):
        row, key = args
        value, mask = _load(builder, row), _load(builder, row, 8 * KEY_WORDS)
        return _is_zero(builder, builder.and_(builder.xor(value, _load(builder, key)), mask))

    return types.boolean(types.uint64, types.uint64), codegen
