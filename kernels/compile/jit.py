"""Compile policy: the only file that calls numba's compiler.

    @kernel    a function over a batch; compiled `nogil`, cached on disk
    @helper    a per-packet function that kernels call; LLVM inlines it
    @glue      a function that only calls others in order; put into its caller before types are inferred
    @primitive(python)   an LLVM-level intrinsic with a plain-Python stand-in
    @callback("void(i4, u8)")   a function that C calls, without the interpreter: `.address` is where

Three modes, chosen by numba's own environment variables and fixed for the process:
compiled; `NUMBA_BOUNDSCHECK=1` (every index is checked); `NUMBA_DISABLE_JIT=1` (plain Python).
`DPU_CALLABLE_HELPERS=1` makes helpers callable from Python too, for tests; it doubles compile time.

numba's cache notices neither a changed helper in another file nor the mode, so the cache folder's
name carries a hash of every compiled source and the mode. Kernels of _BESIDE have folders of their own, so
that a change there leaves what users run as it is.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import time
from pathlib import Path

import numpy as np

CACHE_DAYS_MAX = 30  # days without use
_PACKAGES = ("kernels", "drivers", "dpu_runtime")
_BESIDE = ("bench",)  # packages with kernels that call those of _PACKAGES
_ROOT = Path(__file__).resolve().parents[2]
# compiled in from files without code: constants, and the order of fields in tuples
_CONSTANTS = (
    "layout.py",
    "drivers/port.py",
    "/io.py",
    "dpu_runtime/plane/shared.py",
    "dpu_runtime/plane/batch.py",
)

PYTHON_MODE = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
CHECKED_MODE = os.environ.get("NUMBA_BOUNDSCHECK", "0") not in ("", "0")
CALLABLE_HELPERS = os.environ.get("DPU_CALLABLE_HELPERS", "0") not in ("", "0")
MODE = "python" if PYTHON_MODE else "checked" if CHECKED_MODE else "compiled"
if CALLABLE_HELPERS:
    MODE += "-callable"


@functools.cache
def source_hash(packages=_PACKAGES):
    """Hash of every Python source that compiled code of `packages` can come from: 16 hex digits."""
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted((_ROOT / package).rglob("*.py")):
            text = path.read_bytes()
            constants = path.as_posix().endswith(_CONSTANTS)
            if package == "kernels" or constants or b"dpu_runtime.kernels.compile.jit" in text:
                digest.update(path.name.encode() + b"\0" + text)
    return digest.hexdigest()[:16]


def cache_folder(module=""):
    """Folder of the machine code of exactly these sources in this mode.

    module  whose kernels it is for: of one of _BESIDE, the sources of that package count too

    Below DPU_CACHE_DIR, else /var/cache/dpu-runtime for root, else XDG_CACHE_HOME or ~/.cache.
    """
    if "DPU_CACHE_DIR" in os.environ:
        base = Path(os.environ["DPU_CACHE_DIR"])
    elif os.geteuid() == 0:
        base = Path("/var/cache/dpu-runtime")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dpu-runtime"
    beside = tuple(package for package in _BESIDE if module.startswith(f"{package}."))
    return base / f"{source_hash(_PACKAGES + beside)}-{MODE}"


@contextlib.contextmanager
def cache_lock():
    """Hold the cache while compiling: two processes that write the same entries can damage them.

    Machine code of other sources that was not used for CACHE_DAYS_MAX is removed.
    """
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.utime(folder)
        oldest = time.time() - CACHE_DAYS_MAX * 24 * 3600
        for other in folder.parent.iterdir():
            if other.is_dir() and other.stat().st_mtime < oldest:
                shutil.rmtree(other, ignore_errors=True)
        yield


def cache_is_empty():
    """Whether no kernel of these sources has been compiled yet."""
    return not any(cache_folder().rglob("*.nbi"))


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
    from numba.extending import intrinsic

    from dpu_runtime.kernels.compile.helper_compiler import HelperCompiler

    _OPTIONS = {
        "nogil": True,
        "cache": True,
        "error_model": "numpy",
        "boundscheck": CHECKED_MODE,
        # No reference counting: kernels do not allocate, and an atomic count for each row view
        # cost more than parsing the row. An allocation is a compile error.
        "_nrt": False,
    }

    _HELPER_OPTIONS = {**_OPTIONS, "forceinline": True}
    if not CALLABLE_HELPERS:
        # Compiled into kernels only: no entry points of their own, nothing to keep on disk.
        _HELPER_OPTIONS |= {"cache": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        _HELPER_OPTIONS["pipeline_class"] = HelperCompiler

    def _compiled(function, **options):
        numba.config.CACHE_DIR = str(cache_folder(function.__module__))  # read when it is decorated
        return numba.njit(**options)(function)

    def kernel(function):
        """Compile `function` over a batch."""
        KERNELS.append(_compiled(function, **_OPTIONS))
        return KERNELS[-1]

    def helper(function):
        """Compile `function` into the kernels that call it."""
        return _compiled(function, **_HELPER_OPTIONS)

    def glue(function):
        """Put the source of `function` into its caller's."""
        return _compiled(function, inline="always", **_OPTIONS)

    def primitive(python):
        """Make an intrinsic of the decorated typing function."""
        return intrinsic

    class Callback:
        """A function that C calls. Like a kernel it is compiled, or loaded, when it is first needed."""

        def __init__(self, function, signature):
            self.function = function
            self.signature = signature
            KERNELS.append(self)

        @functools.cached_property
        def _compiled(self):
            options = {name: value for name, value in _OPTIONS.items() if name != "nogil"}
            numba.config.CACHE_DIR = str(cache_folder(self.function.__module__))
            return numba.cfunc(self.signature, **options)(self.function)

        @property
        def address(self):
            """Address of the machine code, which lives as long as this object."""
            return self._compiled.address

    def callback(signature):
        """Compile a function for C to call, with numba's `signature`; no lock is taken to enter it."""
        return lambda function: Callback(function, signature)
