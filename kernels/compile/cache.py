"""Machine code on disk: a folder a module, named by what the code comes from, and a file an entry in it.

    FOLDER/dpu_runtime.kernels.parse.parse-0123456789abcdef/parse-92-0123456789abcdef.nbc

The folder's name has the hash of the module's import closure (closure.py), of the mode, and of the versions
of what makes machine code. A folder that nobody used for CACHE_DAYS_MAX goes. The file's name has the hash of
the types of the arguments and of the processor. A file is put in place whole, so many processes may write at
once; `lock` has only one of them do the work, unless that takes it LOCK_SECONDS_MAX.

Derived from numba.core.caching.Cache, whose inner workings are no promise: requirements.lock holds numba's
version.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import pickle
import shutil
import sys
import time
import uuid
import warnings
from pathlib import Path

import llvmlite
import numba
import numpy
from numba.core.compiler import CompileResult
from numba.core.errors import NumbaWarning
from numba.core.serialize import dumps
from numba.core.sigutils import normalize_signature

from dpu_runtime.kernels.compile.closure import closure_hash
from dpu_runtime.kernels.compile.mode import MODE

CACHE_DAYS_MAX = 30  # days without use
LOCK = "lock"  # file in a module's folder; an entry is an octet of it
LOCK_SECONDS_MAX = 60  # a process may be stopped, or get no CPU, while others wait for it
LOCK_POLL_SECONDS = 0.02
_NAME_MAX = 100  # characters of a function's name in that of a file

# numba's settings that machine code depends on; the processor it is for is in each entry's name
_OPTIONS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "ENABLE_AVX", "DISABLE_INTEL_SVML", "DEBUGINFO_DEFAULT")


def cache_base():
    """Folder of all machine code: DPU_CACHE_DIR, else /var/cache/dpu-runtime for root, else in ~/.cache."""
    if "DPU_CACHE_DIR" in os.environ:
        return Path(os.environ["DPU_CACHE_DIR"])
    if os.geteuid() == 0:
        return Path("/var/cache/dpu-runtime")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dpu-runtime"


def cache_folder(module, file):
    """Folder of the machine code of a module, by its name and its file as they are now."""
    return cache_base() / f"{module}-{_key(module, file, os.stat(file).st_mtime_ns)}"


@functools.cache
def _key(module, file, _changed):
    """Hash of what the machine code of a module comes from: 16 hex digits."""
    makers = [package.__version__ for package in (numba, llvmlite, numpy)]
    options = [getattr(numba.config, name, None) for name in _OPTIONS]
    text = repr((closure_hash(file, module), sys.version_info[:2], makers, options, MODE))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def remove_unused():
    """Remove machine code that nobody used for CACHE_DAYS_MAX."""
    oldest = time.time() - CACHE_DAYS_MAX * 24 * 3600
    for folder in cache_base().iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process is at it too
            if folder.is_dir() and folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _note_use(folder):
    """Say once a process that a folder is in use."""
    with contextlib.suppress(OSError):  # somebody else's, whom it serves as well
        os.utime(folder)


@functools.cache
def _warn(text):
    warnings.warn(text, NumbaWarning, stacklevel=2)


def _lock_octet(file, place):
    """Wait for an octet of a file. A record lock: a child that is forked meanwhile does not hold it too."""
    end = time.monotonic() + LOCK_SECONDS_MAX
    while time.monotonic() < end:
        try:
            return fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except (BlockingIOError, PermissionError):
            time.sleep(LOCK_POLL_SECONDS)
    return None


class Entries:
    """The machine code of one function on disk, for the types it was compiled for: numba's cache of it.

    A function without a file, of `exec`, has none.
    """

    def __init__(self, function):
        self._code = function.__code__
        self._cells = function.__closure__ or ()
        self._stem = f"{function.__qualname__.replace('<', '').replace('>', '')[-_NAME_MAX:]}"
        self._stem += f"-{self._code.co_firstlineno}"
        self.folder = None
        if os.path.isfile(self._code.co_filename):  # now: later on the file may be another
            self.folder = cache_folder(function.__module__, self._code.co_filename)

    @property
    def cache_path(self):
        """Where the entries lie, for numba."""
        return str(self.folder)

    def has(self, signature, target):
        """Whether there is machine code for a signature: types of the arguments, or numba's Signature."""
        return self.folder is not None and self._path(self._key(signature, target.codegen())).exists()

    @contextlib.contextmanager
    def lock(self, signature, target):
        """Be the only process that makes the machine code for a signature. A process that dies lets go."""
        with contextlib.ExitStack() as stack:
            if self.folder is not None:
                with contextlib.suppress(OSError):  # it cannot be written: it is made for this process only
                    self.folder.mkdir(parents=True, exist_ok=True)
                    file = stack.enter_context(open(self.folder / LOCK, "wb"))
                    place = int(self._path(self._key(signature, target.codegen())).stem[-8:], 16)
                    _lock_octet(file, place)
            yield

    def load_overload(self, signature, target):
        """The CompileResult for a signature, None if it is not on disk."""
        target.refresh()
        made = self.load(signature, target.codegen())
        return made and CompileResult._rebuild(target, *made)

    def load(self, signature, codegen):
        """What `save_overload` wrote for a signature, None if it is not on disk."""
        if self.folder is None:
            return None
        key = self._key(signature, codegen)
        try:
            with open(self._path(key), "rb") as file:
                if pickle.load(file) != key:
                    return None
                _note_use(self.folder)
                return pickle.load(file)
        except (OSError, EOFError, pickle.UnpicklingError):  # the host stopped while it was written
            return None
        except (ImportError, AttributeError):  # it names a module that cannot be imported here
            return None

    def save_overload(self, signature, made):
        """Keep a CompileResult."""
        if self.folder is None:
            return
        if made.library.has_dynamic_globals:
            _warn(f"{made.fndesc.qualname}: its machine code has addresses of this process, and is not kept")
            return
        key = self._key(signature, made.library.codegen)
        path = self._path(key)
        part = path.with_suffix(f".{uuid.uuid4().hex}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part.write_bytes(dumps(key) + dumps(made._reduce()))
            part.replace(path)
            _remove_unused_once()
        except OSError as error:
            _warn(f"machine code is not kept: {error}")
        finally:
            with contextlib.suppress(OSError):
                part.unlink()

    def _key(self, signature, codegen):
        cells = dumps(tuple(cell.cell_contents for cell in self._cells)) if self._cells else b""
        inner = hashlib.sha256(self._code.co_code + cells).hexdigest()
        return normalize_signature(signature)[0], codegen.magic_tuple(), inner

    def _path(self, key):
        digest = hashlib.sha256(repr((list(map(str, key[0])), *key[1:])).encode()).hexdigest()[:16]
        return self.folder / f"{self._stem}-{digest}.nbc"


_remove_unused_once = functools.cache(remove_unused)
