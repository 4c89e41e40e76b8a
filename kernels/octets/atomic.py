"""Atomic access by address: memory that another program changes meanwhile.

Every load happens once, in the order written: a value that was checked is the value that is used.
Not:  arrays (memory.py has their atomics).

With the compiler off these are plain accesses; Python's lock and x86 order them.
"""

import ctypes

import numpy as np

from dpu_runtime.kernels.compile.jit import PYTHON_MODE, primitive
from dpu_runtime.kernels.octets.memory import _loader, _storer

if not PYTHON_MODE:
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils


def _ordered_loader(bits, ordering, python):
    @primitive(python)
    def load(typingctx, addr):
        def codegen(context, builder, signature, args):
            pointer = builder.inttoptr(args[0], ir.IntType(bits).as_pointer())
            return builder.load_atomic(pointer, ordering, bits // 8)

        return getattr(types, f"uint{bits}")(types.uint64), codegen

    return load


def _ordered_storer(bits, ordering, python):
    @primitive(python)
    def store(typingctx, addr, value):
        def codegen(context, builder, signature, args):
            pointer = builder.inttoptr(args[0], ir.IntType(bits).as_pointer())
            word = builder.trunc(args[1], ir.IntType(bits)) if bits < 64 else args[1]
            builder.store_atomic(word, pointer, ordering, bits // 8)
            return context.get_dummy_value()

        return types.void(types.uint64, types.uint64), codegen

    return store


_python_load_u16 = _loader(16, np.uint16, ctypes.c_uint16)
_python_load_u32 = _loader(32, np.uint32, ctypes.c_uint32)
_python_load_u64 = _loader(64, np.uint64, ctypes.c_uint64)
_python_store_u16 = _storer(16, ctypes.c_uint16)
_python_store_u32 = _storer(32, ctypes.c_uint32)
_python_store_u64 = _storer(64, ctypes.c_uint64)

load_once_u16 = _ordered_loader(16, "monotonic", _python_load_u16)
load_once_u32 = _ordered_loader(32, "monotonic", _python_load_u32)
load_once_u64 = _ordered_loader(64, "monotonic", _python_load_u64)
load_acquire_u16 = _ordered_loader(16, "acquire", _python_load_u16)
load_acquire_u32 = _ordered_loader(32, "acquire", _python_load_u32)
store_release_u16 = _ordered_storer(16, "release", _python_store_u16)
store_release_u32 = _ordered_storer(32, "release", _python_store_u32)
store_release_u64 = _ordered_storer(64, "release", _python_store_u64)


def _py_fence():
    pass


def _fence(ordering):
    @primitive(_py_fence)
    def barrier(typingctx):
        def codegen(context, builder, signature, args):
            builder.fence(ordering)
            return context.get_dummy_value()

        return types.void(), codegen

    return barrier


fence = _fence("seq_cst")  # all that was written before, against all that is read after (a full barrier)
fence_release = _fence("release")  # what was read and written before, against what is written after


def _py_try_lock(addr):
    word = ctypes.c_uint32.from_address(int(addr))
    if word.value:
        return False
    word.value = 1
    return True


@primitive(_py_try_lock)
def try_lock(typingctx, addr):
    """Put 1 where 0 was in the 32-bit word at `addr`; True when it was 0."""

    def codegen(context, builder, signature, args):
        u32 = ir.IntType(32)
        pointer = builder.inttoptr(args[0], u32.as_pointer())
        result = builder.cmpxchg(pointer, ir.Constant(u32, 0), ir.Constant(u32, 1), "acq_rel", "acquire")
        return builder.extract_value(result, 1)

    return types.boolean(types.uint64), codegen


def _py_pause():
    pass


@primitive(_py_pause)
def pause(typingctx):
    """Tell the CPU that this is a loop of waiting: some tens of cycles in which it disturbs nobody."""

    def codegen(context, builder, signature, args):
        function_type = ir.FunctionType(ir.VoidType(), [])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.x86.sse2.pause")
        builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), codegen
