"""Memory outside arrays: addresses, unaligned words, copies, atomics, the cycle counter.

Payload stays where a driver received it, so kernels reach it by address. Every function here has
a plain-Python stand-in with the same result, so kernels run with the compiler off.
Addresses and sizes are uint64; the caller has checked the range.
"""

import ctypes
import time

import numpy as np

from dpu_runtime.kernels.compile.jit import PYTHON_MODE, primitive

if not PYTHON_MODE:
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.np.arrayobj import populate_array

    _I8 = ir.IntType(8)
    _I64 = ir.IntType(64)

    def _is_array(value):
        return isinstance(value, types.Array)


def _py_address_of(array):
    return np.uint64(array.ctypes.data)


@primitive(_py_address_of)
def address_of(typingctx, array):
    """Address of the first element of `array`, uint64."""
    if not _is_array(array):
        return None

    def codegen(context, builder, signature, args):
        value = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.ptrtoint(value.data, _I64)

    return types.uint64(array), codegen


def _loader(bits, dtype, ctype):
    def python(addr):
        return dtype(ctype.from_address(int(addr)).value)

    @primitive(python)
    def load(typingctx, addr):
        def codegen(context, builder, signature, args):
            pointer = builder.inttoptr(args[0], ir.IntType(bits).as_pointer())
            return builder.load(pointer, align=1)

        return getattr(types, f"uint{bits}")(types.uint64), codegen

    return load


load_u8 = _loader(8, np.uint8, ctypes.c_uint8)
load_u16 = _loader(16, np.uint16, ctypes.c_uint16)
load_u32 = _loader(32, np.uint32, ctypes.c_uint32)
load_u64 = _loader(64, np.uint64, ctypes.c_uint64)


def _storer(bits, ctype):
    def python(addr, value):
        ctype.from_address(int(addr)).value = int(value)

    @primitive(python)
    def store(typingctx, addr, value):
        def codegen(context, builder, signature, args):
            pointer = builder.inttoptr(args[0], ir.IntType(bits).as_pointer())
            word = builder.trunc(args[1], ir.IntType(bits)) if bits < 64 else args[1]
            builder.store(word, pointer, align=1)
            return context.get_dummy_value()

        return types.void(types.uint64, types.uint64), codegen

    return store


store_u8 = _storer(8, ctypes.c_uint8)
store_u16 = _storer(16, ctypes.c_uint16)
store_u32 = _storer(32, ctypes.c_uint32)
store_u64 = _storer(64, ctypes.c_uint64)


def _py_words_at(addr, count):
    if not count:
        return np.empty(0, np.uint32)
    return np.frombuffer((ctypes.c_uint32 * int(count)).from_address(int(addr)), np.uint32)


@primitive(_py_words_at)
def words_at(typingctx, addr, count):
    """View of `count` 32-bit words at any address, a uint32 array that owns nothing.

    A loop over it vectorises. One over load_u32 does not: LLVM cannot step an integer cast to a pointer.
    """
    array_type = types.Array(types.uint32, 1, "C", aligned=False)

    def codegen(context, builder, signature, args):
        array = context.make_array(array_type)(context, builder)
        data = builder.inttoptr(args[0], array.data.type)
        itemsize = ir.Constant(_I64, 4)
        populate_array(array, data=data, shape=[args[1]], strides=[itemsize], itemsize=itemsize, meminfo=None)
        return array._getvalue()

    return array_type(types.uint64, types.uint64), codegen


def _py_copy(target, source, size):
    ctypes.memmove(int(target), int(source), int(size))


@primitive(_py_copy)
def copy_memory(typingctx, target, source, size):
    """memcpy `size` octets; the two do not overlap."""

    def codegen(context, builder, signature, args):
        pointer = _I8.as_pointer()
        function = builder.module.declare_intrinsic("llvm.memcpy", [pointer, pointer, _I64])
        volatile = ir.Constant(ir.IntType(1), 0)
        target_ptr, source_ptr = (builder.inttoptr(a, pointer) for a in args[:2])
        builder.call(function, [target_ptr, source_ptr, args[2], volatile])
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.uint64), codegen


COPY_SHORT_MAX = 128  # octets


@primitive(_py_copy)
def copy_short(typingctx, target, source, size):
    """memcpy `size` octets, without a call when they are 16 to COPY_SHORT_MAX; the two do not overlap.

    Two moves of half of it or more, which may overlap each other, do for any size in between.
    """

    def codegen(context, builder, signature, args):
        target_int, source_int, size_int = args
        pointer = _I8.as_pointer()
        done = builder.append_basic_block("copy.done")

        def both_ends(width):
            vector = ir.VectorType(_I8, width).as_pointer()
            last = builder.sub(size_int, ir.Constant(_I64, width))
            pairs = [(source_int, target_int), (builder.add(source_int, last), builder.add(target_int, last))]
            values = [builder.load(builder.inttoptr(at, vector), align=1) for at, _ in pairs]
            for value, (_, to) in zip(values, pairs, strict=True):
                builder.store(value, builder.inttoptr(to, vector), align=1)

        for width in (64, 32, 16):
            at_least = builder.icmp_unsigned(">=", size_int, ir.Constant(_I64, width))
            at_most = builder.icmp_unsigned("<=", size_int, ir.Constant(_I64, 2 * width))
            short, longer = (builder.append_basic_block(f"copy.{name}{width}") for name in ("to", "not"))
            builder.cbranch(builder.and_(at_least, at_most), short, longer)
            builder.position_at_end(short)
            both_ends(width)
            builder.branch(done)
            builder.position_at_end(longer)
        function = builder.module.declare_intrinsic("llvm.memcpy", [pointer, pointer, _I64])
        ends = [builder.inttoptr(at, pointer) for at in (target_int, source_int)]
        builder.call(function, [*ends, size_int, ir.Constant(ir.IntType(1), 0)])
        builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.uint64), codegen


def _element_pointer(context, builder, signature, args):
    array_type = signature.args[0]
    array = context.make_array(array_type)(context, builder, args[0])
    index = context.cast(builder, args[1], signature.args[1], types.intp)
    return cgutils.get_item_pointer(context, builder, array_type, array, [index], wraparound=False)


def _py_load_acquire(array, index):
    return array[index]


@primitive(_py_load_acquire)
def load_acquire(typingctx, array, index):
    """Atomic acquire load of `array[index]`; 1-D array of integers of 8 octets at most."""
    if not _is_array(array):
        return None

    def codegen(context, builder, signature, args):
        pointer = _element_pointer(context, builder, signature, args)
        return builder.load_atomic(pointer, "acquire", signature.return_type.bitwidth // 8)

    return array.dtype(array, index), codegen


@primitive(load_u64)
def load_acquire_u64(typingctx, addr):
    """Atomic acquire load of the 64-bit word at `addr`, a multiple of 8."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(builder.inttoptr(args[0], _I64.as_pointer()), "acquire", 8)

    return types.uint64(types.uint64), codegen


def _py_store_release(array, index, value):
    array[index] = value


@primitive(_py_store_release)
def store_release(typingctx, array, index, value):
    """Atomic release store of `value` to `array[index]`; 1-D array of integers."""
    if not _is_array(array):
        return None

    def codegen(context, builder, signature, args):
        pointer = _element_pointer(context, builder, signature, args)
        word = context.cast(builder, args[2], signature.args[2], signature.args[0].dtype)
        builder.store_atomic(word, pointer, "release", signature.args[0].dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, index, value), codegen


def _py_or_u8(addr, value):
    ctypes.c_uint8.from_address(int(addr)).value |= int(value)


@primitive(_py_or_u8)
def or_u8(typingctx, addr, value):
    """Atomically set the bits of `value` in the octet at `addr`: a full barrier."""

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], _I8.as_pointer())
        builder.atomic_rmw("or", pointer, builder.trunc(args[1], _I8), "seq_cst")
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64), codegen


def _py_compare_exchange(array, index, expected, desired):
    if array[index] != expected:
        return False
    array[index] = desired
    return True


@primitive(_py_compare_exchange)
def compare_exchange(typingctx, array, index, expected, desired):
    """Atomically put `desired` where `expected` was; True when it was there. 1-D array."""
    if not _is_array(array):
        return None

    def codegen(context, builder, signature, args):
        pointer = _element_pointer(context, builder, signature, args)
        dtype = signature.args[0].dtype
        old = context.cast(builder, args[2], signature.args[2], dtype)
        new = context.cast(builder, args[3], signature.args[3], dtype)
        result = builder.cmpxchg(pointer, old, new, "acq_rel", "acquire")
        return builder.extract_value(result, 1)

    return types.boolean(array, index, expected, desired), codegen


def _py_cycles():
    return np.uint64(time.perf_counter_ns())


@primitive(_py_cycles)
def cycles(typingctx):
    """Time-stamp counter, uint64 cycles at the constant TSC rate."""

    def codegen(context, builder, signature, args):
        function = builder.module.declare_intrinsic("llvm.readcyclecounter", fnty=ir.FunctionType(_I64, []))
        return builder.call(function, [])

    return types.uint64(), codegen


def _py_prefetch(addr):
    pass


def _prefetcher(write):
    @primitive(_py_prefetch)
    def prefetch(typingctx, addr):
        def codegen(context, builder, signature, args):
            pointer = _I8.as_pointer()
            i32 = ir.IntType(32)
            function_type = ir.FunctionType(ir.VoidType(), [pointer, i32, i32, i32])
            function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0i8")
            args_ir = [builder.inttoptr(args[0], pointer)] + [ir.Constant(i32, v) for v in (write, 3, 1)]
            builder.call(function, args_ir)
            return context.get_dummy_value()

        return types.void(types.uint64), codegen

    return prefetch


prefetch = _prefetcher(0)  # ask for the cache line at an address, to read; never faults
prefetch_write = _prefetcher(1)  # the same, to write
