"""Marks in compiled code between which callgrind counts instructions; without valgrind they do nothing.

Spec: valgrind/callgrind.h, CALLGRIND_DUMP_STATS: write what was counted since the last dump to a file of
      its own and begin at 0; valgrind/valgrind.h, the amd64 instructions of a client request.
"""

from dpu_runtime.kernels.compile.jit import PYTHON_MODE, kernel, primitive

if not PYTHON_MODE:
    from llvmlite import binding, ir
    from numba import types

    binding.initialize_native_asmparser()  # which numba does without
    _I64 = ir.IntType(64)

_TOOL = ord("C") << 24 | ord("T") << 16  # VG_USERREQ_TOOL_BASE
DUMP_STATS, START_INSTRUMENTATION, STOP_INSTRUMENTATION = _TOOL, _TOOL + 4, _TOOL + 5
REQUEST_WORDS = 6  # the request and five arguments
# rotates by 128 bits in all: rdi is as it was
_REQUEST = "rolq $$3, %rdi; rolq $$13, %rdi; rolq $$61, %rdi; rolq $$51, %rdi; xchgq %rbx, %rbx"


def _py_request(number):
    return 0


@primitive(_py_request)
def request(typingctx, number):
    """Make a client request without arguments; returns what valgrind answers, 0 without it."""

    def codegen(context, builder, signature, args):
        words = builder.alloca(ir.ArrayType(_I64, REQUEST_WORDS))
        builder.store(ir.Constant(words.type.pointee, None), words)
        first = builder.bitcast(words, _I64.as_pointer())
        builder.store(args[0], first)
        function = ir.FunctionType(_I64, [_I64, _I64])
        asked = [builder.ptrtoint(words, _I64), _I64(0)]
        constraints = "={rdx},{rax},{rdx},~{cc},~{memory}"
        return builder.asm(function, _REQUEST, constraints, asked, side_effect=True)

    return types.uint64(types.uint64), codegen


@kernel
def ask(number):
    """`request`, to be called from Python."""
    return request(number)
