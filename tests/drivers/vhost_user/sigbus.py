"""Memory that is cut off under a thread of compiled code.

python -m tests.drivers.vhost_user.sigbus NAME     a program of DYING, or `guarded`
"""

import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time

import numpy as np

from dpu_runtime.drivers.vhost_user.guard import PAGE_BYTES, MemoryGuard
from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.octets.memory import load_acquire, load_u64, store_release, store_u64

MAP_SHARED = 0x01
PROT_READ_WRITE = 0x3
PAGES = 8
SIZE = PAGES * PAGE_BYTES
STOP = 0
ROUNDS = 1
OVERSEEN_S = 5.0  # an access beyond the end of a file fails at once


@kernel
def churn(start, size, step, words):
    """Read and write a word every `step` octets of `size` at `start`, until words[STOP]; counts rounds."""
    while load_acquire(words, STOP) == np.uint64(0):
        at = start
        while at < start + size:
            store_u64(at, load_u64(at) + np.uint64(1))
            at += step
        store_release(words, ROUNDS, words[ROUNDS] + np.uint64(1))


class Churn:
    """A thread in `churn` over a piece of memory."""

    def __init__(self, address, size, step=PAGE_BYTES):
        self.words = np.zeros(2, np.uint64)
        args = np.uint64(address), np.uint64(size), np.uint64(step), self.words
        self._thread = threading.Thread(target=churn, args=args, daemon=True)
        self._thread.start()
        self.wait(1)

    def wait(self, rounds):
        """Let it pass over the memory this many times more."""
        target = int(self.words[ROUNDS]) + rounds + 1  # the round at hand began before
        limit = time.monotonic() + 60.0  # the first one compiles
        while self.words[ROUNDS] < target:
            assert time.monotonic() < limit, "the thread does not go on"
            time.sleep(0.001)

    def stop(self):
        """End the loop."""
        self.words[STOP] = 1
        self._thread.join()


def memory_file(size, flags=0):
    """memfd of `size` octets, whose shrinking may be sealed later."""
    fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
    os.ftruncate(fd, size)
    return fd


def map_unguarded(fd, size):
    """Address of a shared mapping that no guard knows."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_uint64
    return libc.mmap(None, ctypes.c_size_t(size), PROT_READ_WRITE, MAP_SHARED, fd, ctypes.c_long(0))


def installed():
    """A guard with a region of its own, so that its table is not empty."""
    guard = MemoryGuard()
    guard.install()
    guard.map(memory_file(SIZE), 0, SIZE, 1)
    return guard


def cut_off(address, fd):
    """Cut a file off under a thread."""
    Churn(address, SIZE)
    os.ftruncate(fd, PAGE_BYTES)
    time.sleep(OVERSEEN_S)


def without_guard():
    """A worker meets memory that is gone, and nothing handles it."""
    fd = memory_file(SIZE)
    cut_off(map_unguarded(fd, SIZE), fd)


def unguarded():
    """The same beside a guard that does not know this memory."""
    guard = installed()
    without_guard()
    guard.close()


def unmapped():
    """The guard knew the memory, and has forgotten it; it lies at the same address again."""
    guard = installed()
    fd = memory_file(SIZE)
    known = guard.map(fd, 0, SIZE, 2)
    guard.unmap(known)
    address = map_unguarded(fd, SIZE)
    assert address == known
    cut_off(address, fd)


def faulthandler_first():
    """What handled SIGBUS before has its turn."""
    faulthandler.enable()
    unguarded()


def python_handler_first():
    """A handler in Python could not end the process: the access would be made for ever."""
    signal.signal(signal.SIGBUS, lambda *_: None)
    unguarded()


def sent():
    """A signal that was sent has no address, whatever its record says."""
    installed()
    os.kill(os.getpid(), signal.SIGBUS)
    time.sleep(OVERSEEN_S)


def closed():
    """A guard that was given up."""
    installed().close()
    without_guard()


def guarded():
    """Memory that is guarded, in a process that writes a traceback at any SIGBUS that reaches it."""
    faulthandler.enable()
    guard = installed()
    fd = memory_file(SIZE)
    worker = Churn(guard.map(fd, 0, SIZE, 2), SIZE)
    os.ftruncate(fd, PAGE_BYTES)
    worker.wait(2)
    worker.stop()
    assert guard.faulted() == {2}


DYING = (without_guard, unguarded, unmapped, faulthandler_first, python_handler_first, sent, closed)

if __name__ == "__main__":
    {program.__name__: program for program in (*DYING, guarded)}[sys.argv[1]]()
