"""Entries compiled side by side: as many processes as there are CPUs make what is not on disk.

One that does not compile leaves the others. When a process is killed the others go on, and whoever asks for
the address of what is missing compiles it. Two programs that compile the same share the work, by cache.py.
"""

import collections
import contextlib
import ctypes
import gc
import multiprocessing
import multiprocessing.connection
import os
import signal
from dataclasses import dataclass

from dpu_runtime.kernels.compile.mode import PYTHON_MODE

PR_SET_PDEATHSIG = 1  # linux/prctl.h
# the compiler's own end
CRASHES = (signal.SIGABRT, signal.SIGSEGV, signal.SIGILL, signal.SIGBUS, signal.SIGFPE)
# A compiler makes many objects and few circles: looking for them takes a tenth of its time by default.
_GC_THRESHOLDS = (20_000, 20, 100)

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Job:
    """A kernel or callback to be compiled for arguments of types `passed`; a callback has its own."""

    name: str  # for the progress line and for errors
    kernel: object
    passed: tuple = ()

    def is_done(self):
        """Whether there is machine code for it."""
        return PYTHON_MODE or self.kernel.has(self.passed)


def compile_all(jobs, progress=None):
    """Have the machine code of all jobs on disk; returns {name: text of the error} of those that failed.

    progress  called with (which, of how many, name) when one begins; never when nothing is to be compiled

    What a killed process left undone is no error.
    """
    missing = [job for job in jobs if not job.is_done()]
    waiting = collections.deque(enumerate(missing, 1))
    cpus = len(os.sched_getaffinity(0))
    errors, busy, idle = {}, {}, []  # busy: {pipe: (process, job)}
    try:
        while waiting or busy:
            while waiting and len(busy) < cpus:
                number, job = waiting.popleft()
                if progress is not None:
                    progress(number, len(missing), job.name)
                pipe, process = idle.pop() if idle else _start(missing)
                busy[pipe] = process, job
                with contextlib.suppress(BrokenPipeError):  # killed: it is seen below
                    pipe.send(number - 1)
            for pipe in multiprocessing.connection.wait(list(busy)):
                process, job = busy.pop(pipe)
                try:
                    error = pipe.recv()
                    idle.append((pipe, process))
                except (EOFError, ConnectionError):
                    error = _crash_of(process)
                if error is not None:
                    errors[job.name] = error
    finally:
        for process, _ in busy.values():  # an exception: the others end with this
            process.kill()
        for pipe, _ in idle:
            with contextlib.suppress(BrokenPipeError):
                pipe.send(None)
        for process in [process for process, _ in busy.values()] + [process for _, process in idle]:
            process.join()
    return errors


def _crash_of(process):
    """What is to be said of a process that ended; None when somebody killed it."""
    process.join()
    died_of = -process.exitcode
    return f"the compiler ended by {signal.Signals(died_of).name}" if died_of in CRASHES else None


def _start(jobs):
    """(pipe, process) that does jobs by their numbers, until it gets None."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, jobs, os.getpid()), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _serve(pipe, jobs, parent):
    """Do the jobs that come."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    while (number := pipe.recv()) is not None:
        error = None
        try:
            jobs[number].kernel.compile(jobs[number].passed)
        except Exception as caught:  # numba's own, and what its extensions raise
            error = f"{type(caught).__name__}: {caught}"
        pipe.send(error)
