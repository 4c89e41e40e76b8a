"""Compile policy: the only file that calls numba's compiler.

    @kernel    a function over a batch; compiled `nogil`, kept on disk; a part of a kernel that calls it
    @helper    a per-packet function that kernels call; LLVM inlines it
    @glue      a function that only calls others in order; put into its caller before types are inferred
    @primitive(python)   an LLVM-level intrinsic with a plain-Python stand-in
    @callback("void(i4, u8)")   a function that C calls, without the interpreter: `.address` is where

mode.py has the three modes. cache.py keeps machine code on disk, under a name that changes when any source it
comes from does: numba's own cache notices neither a changed helper in another file nor the mode.
"""

import functools

import numpy as np

from dpu_runtime.kernels.compile.mode import CHECKED_MODE, PYTHON_MODE


def has_instructions(*names):
    """Whether compiled code may use the instructions that LLVM knows by `names` (false off x86)."""
    if PYTHON_MODE:
        return False
    # what numba compiles for: this processor, unless the environment says otherwise
    features = numba.config.CPU_FEATURES
    if features is None:
        features = codegen.get_host_cpu_features()
    return {f"+{name}" for name in names} <= set(features.split(","))


KERNELS = []  # every kernel and callback of this process, compiled or not: what machine code there can be

if PYTHON_MODE:
    np.seterr(over="ignore")  # unsigned wrap-around is meant

    def kernel(function):
        """Leave `function` as it is: Python mode."""
        return function

    helper = glue = kernel

    def primitive(python):
        """Replace the intrinsic by its plain-Python stand-in."""
        return lambda _: python

    def callback(signature):
        """Leave the function as it is: C cannot call it."""
        return kernel

else:
    import numba
    from numba.core import codegen
    from numba.core.ccallback import CFunc
    from numba.core.registry import CPUDispatcher, cpu_target
    from numba.core.sigutils import normalize_signature
    from numba.extending import intrinsic

    from dpu_runtime.kernels.compile.cache import Entries
    from dpu_runtime.kernels.compile.helper_compiler import HelperCompiler, InnerCompiler

    _OPTIONS = {
        "nopython": True,
        "nogil": True,
        "error_model": "numpy",
        "boundscheck": CHECKED_MODE,
        # No reference counting: kernels do not allocate, and an atomic count for each row view
        # cost more than parsing the row. An allocation is a compile error.
        "_nrt": False,
    }

    # Compiled into others only: no entry points of its own.
    _INNER_OPTIONS = {**_OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    _HELPER_OPTIONS = {**_INNER_OPTIONS, "forceinline": True}

    class Kernel(CPUDispatcher):
        """A function with two faces.

        Called from Python, or asked for its address, it is compiled by itself, and that is kept on disk. For
        another compiled function that calls it, it is `inner`: a part of that one's machine code.
        """

        def __init__(self, function, inner=None):
            super().__init__(function, targetoptions=_OPTIONS)
            self.inner = inner or CPUDispatcher(
                function, targetoptions=_INNER_OPTIONS, pipeline_class=InnerCompiler
            )
            self._cache = Entries(function)

        @property
        def _numba_type_(self):
            return self.inner._numba_type_

        def compile(self, signature):
            """Have the machine code for the types of arguments: of this process, from disk, or made now."""
            if self.has(signature):
                return super().compile(signature)
            with self._cache.lock(signature, self.targetctx):
                return super().compile(signature)

        def has(self, signature):
            """Whether there is machine code for the types of arguments, here or on disk."""
            here = tuple(normalize_signature(signature)[0]) in self.overloads
            return here or self._cache.has(signature, self.targetctx)

    class Helper(CPUDispatcher):
        """A function that others are made of. Tests call it from Python: then it is a kernel."""

        @functools.cached_property
        def by_itself(self):
            """The other face, a Kernel."""
            return Kernel(self.py_func, self)

        def __call__(self, *args):  # noqa: D102
            return self.by_itself(*args)

    def kernel(function):
        """Compile `function` over a batch."""
        KERNELS.append(Kernel(function))
        return KERNELS[-1]

    def helper(function):
        """Compile `function` into the kernels that call it."""
        return Helper(function, targetoptions=_HELPER_OPTIONS, pipeline_class=HelperCompiler)

    def glue(function):
        """Put the source of `function` into its caller's."""
        return CPUDispatcher(function, targetoptions={**_OPTIONS, "inline": "always"})

    def primitive(python):
        """Make an intrinsic of the decorated typing function."""
        return intrinsic

    class Callback:
        """A function that C calls. Like a kernel it is compiled, or loaded, when it is first needed."""

        def __init__(self, function, signature):
            self.function = function
            self.signature = signature
            self._entries = Entries(function)
            KERNELS.append(self)

        @functools.cached_property
        def _compiled(self):
            options = {name: value for name, value in _OPTIONS.items() if name != "nogil"}
            made = CFunc(self.function, normalize_signature(self.signature), {}, options)
            made._cache = self._entries
            with self._entries.lock(made._sig, cpu_target.target_context):
                made.compile()
            return made

        def compile(self, _passed=()):
            """Have the machine code."""
            return self._compiled

        def has(self, _passed=()):
            """Whether there is machine code, here or on disk."""
            return "_compiled" in vars(self) or self._entries.has(self.signature, cpu_target.target_context)

        @property
        def address(self):
            """Address of the machine code, which lives as long as this object."""
            return self._compiled.address

    def callback(signature):
        """Compile a function for C to call, with numba's `signature`; no lock is taken to enter it."""
        return lambda function: Callback(function, signature)
