"""Packet keys made, compared and hashed: all KEY_WORDS words of one at once, as a vector.

In:   addresses of keys, and of masks or rules' rows (acl_layout.py).   Out: keys, whether they match, hashes.

LLVM makes no vector of a loop over the words, as their sum of differences is only asked whether it is 0. Its
generic vectors are one instruction with AVX-512, and two or four where registers are narrower.
"""

import numpy as np

from dpu_runtime.kernels.acl.layout import KEY_WORDS, L2, L4, MULTIPLIERS
from dpu_runtime.kernels.compile.jit import PYTHON_MODE, primitive
from dpu_runtime.kernels.octets.memory import words_at

if not PYTHON_MODE:
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils

    _I32, _I64 = ir.IntType(32), ir.IntType(64)
    _WORDS = ir.VectorType(_I64, KEY_WORDS)
    _PARTS = ir.VectorType(ir.IntType(16), 4 * KEY_WORDS)
    _BITS = ir.IntType(KEY_WORDS)
    _MULTIPLIERS = ir.Constant(_WORDS, [int(word) for word in MULTIPLIERS])

KEY_BYTES = np.uint64(8 * KEY_WORDS)


def _py_words(addr):
    return words_at(addr, 2 * KEY_WORDS).view(np.uint64)


def _py_same_key(a, b):
    return bool((_py_words(a) == _py_words(b)).all())


def _py_takes_key(row, key, spans):
    first, mask = _py_words(row), _py_words(np.uint64(row) + KEY_BYTES)
    above = (_py_words(key) & mask).view(np.uint16) - first.view(np.uint16)
    allowed = np.zeros(KEY_WORDS, np.uint64)
    allowed[L4] = spans
    return bool((above <= allowed.view(np.uint16)).all())


def _py_hash_words(key, mask):
    return ((_py_words(key) & _py_words(mask)) * MULTIPLIERS).sum(dtype=np.uint64)


def _py_put_key(target, line, l4, l2, used):
    words = _py_words(line).copy()
    words[L4], words[L2] = l4, l2
    _py_words(target)[:] = words & _py_words(used)
    return _py_hash_words(target, used)


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
def takes_key(typingctx, row, key, spans):
    """Whether the rule whose row is at one address takes the key at another; `spans` are its ports'.

    Each 16 bits of the key, under the mask, are the row's, or behind them by no more than the spans allow.
    """

    def codegen(context, builder, signature, args):
        row, key, spans = args
        first, mask = _load(builder, row), _load(builder, row, 8 * KEY_WORDS)
        allowed = builder.insert_element(ir.Constant(_WORDS, [0] * KEY_WORDS), spans, _I32(L4))
        masked = builder.and_(_load(builder, key), mask)
        above, allowed, first = (builder.bitcast(words, _PARTS) for words in (masked, allowed, first))
        above = builder.sub(above, first)
        too_far = builder.call(
            cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(_PARTS, [_PARTS, _PARTS]),
                f"llvm.usub.sat.v{4 * KEY_WORDS}i16",
            ),
            [above, allowed],
        )
        return _is_zero(builder, builder.bitcast(too_far, _WORDS))

    return types.boolean(types.uint64, types.uint64, types.uint64), codegen


def _hash(builder, words):
    products = builder.mul(words, _MULTIPLIERS)
    add = ir.FunctionType(_I64, [_WORDS])
    name = f"llvm.vector.reduce.add.v{KEY_WORDS}i64"
    return builder.call(cgutils.get_or_insert_function(builder.module, add, name), [products])


@primitive(_py_hash_words)
def hash_words(typingctx, key, mask):
    """Multiply-shift hash of the key at an address under the mask at another; good in its upper bits."""

    def codegen(context, builder, signature, args):
        key, mask = (_load(builder, addr) for addr in args)
        return _hash(builder, builder.and_(key, mask))

    return types.uint64(types.uint64, types.uint64), codegen


@primitive(_py_put_key)
def put_key(typingctx, target, line, l4, l2, used):
    """Store the words at `line`, L4 and L2 given apart, under the mask at `used` as the key at `target`.

    Returns its hash: hash_words under a full mask, out of registers.
    """

    def codegen(context, builder, signature, args):
        target, line, l4, l2, used = args
        words = builder.insert_element(_load(builder, line), l4, _I32(L4))
        words = builder.insert_element(words, l2, _I32(L2))
        words = builder.and_(words, _load(builder, used))
        builder.store(words, builder.inttoptr(target, _WORDS.as_pointer()), align=8)
        return _hash(builder, words)

    return types.uint64(*[types.uint64] * 5), codegen
