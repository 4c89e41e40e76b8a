"""System calls for compiled code.

The symbols are the C library's, which every Python process has loaded: numba resolves them by
name when machine code is loaded, from the cache too.
Errors: a result of -1 and `errno()`; nothing raises.
"""

import ctypes

import numpy as np
from numba import types

from dpu_runtime.kernels.compile.jit import PYTHON_MODE, helper
from dpu_runtime.kernels.octets.memory import load_u32, store_u32

EINTR = 4  # asm-generic/errno-base.h
EIO = 5
ENXIO = 6
EAGAIN = 11
ENOMEM = 12
ENODEV = 19
ENETDOWN = 100
ENOBUFS = 105

MSG_DONTWAIT = 0x40  # linux/socket.h
SOL_SOCKET = 1  # asm-generic/socket.h
SO_ERROR = 4

EPOLLIN = 0x1  # sys/epoll.h
EPOLL_CTL_ADD = 1
EPOLL_CTL_DEL = 2
EPOLL_EVENT_BYTES = 12  # struct epoll_event is packed on x86-64
CLOCK_MONOTONIC = 1  # linux/time.h
CLOCK_MONOTONIC_COARSE = 6


def _external(name, result, *args):
    return types.ExternalFunction(name, result(*args))


readv = _external("readv", types.int64, types.int32, types.uint64, types.int32)
writev = _external("writev", types.int64, types.int32, types.uint64, types.int32)
read = _external("read", types.int64, types.int32, types.uint64, types.uint64)
write = _external("write", types.int64, types.int32, types.uint64, types.uint64)
send = _external("send", types.int64, types.int32, types.uint64, types.uint64, types.int32)
recv = _external("recv", types.int64, types.int32, types.uint64, types.uint64, types.int32)
getsockname = _external("getsockname", types.int32, types.int32, types.uint64, types.uint64)
getsockopt = _external(
    "getsockopt", types.int32, types.int32, types.int32, types.int32, types.uint64, types.uint64
)
mmap = _external(
    "mmap", types.uint64, types.uint64, types.uint64, types.int32, types.int32, types.int32, types.int64
)
sigaction = _external("sigaction", types.int32, types.int32, types.uint64, types.uint64)
raise_signal = _external("raise", types.int32, types.int32)
epoll_wait = _external("epoll_wait", types.int32, types.int32, types.uint64, types.int32, types.int32)
epoll_ctl = _external("epoll_ctl", types.int32, types.int32, types.int32, types.int32, types.uint64)
sched_yield = _external("sched_yield", types.int32)
if PYTHON_MODE:

    def clock_gettime(clock, address):
        """The same for interpreted kernels: the one call that those make which have no device."""
        ctypes.CDLL(None).clock_gettime(int(clock), ctypes.c_void_p(int(address)))
else:
    clock_gettime = _external("clock_gettime", types.int32, types.int32, types.uint64)
_errno_location = _external("__errno_location", types.uint64)


@helper
def errno():
    """Error number of this thread's last failed call."""
    return load_u32(_errno_location())


@helper
def set_errno(value):
    """Put this thread's error number back, as a signal handler must."""
    store_u32(_errno_location(), np.uint64(value))
