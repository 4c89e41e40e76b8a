"""System calls of some threads, counted and timed by the kernel: two BPF programs on its raw tracepoints.

Spec: linux/bpf.h, RFC 9669 (instruction set), include/trace/events/syscalls.h (sys_enter, sys_exit).
In:   thread IDs. Out: how often each called what, and how long it was inside.
Not:  who asks (profile.py).

One map, thread ID -> a row of 64-bit words: when the call under way began, in ns, its number, and for
each number how many calls have ended and the ns in them. Only its thread writes a row. While the
programs are attached every system call of the host takes some 300 ns more; they go with the descriptors.
"""

import contextlib
import ctypes
import os
import struct
import time

import numpy as np

from dpu_runtime.drivers.linux.bpf import attributes, bpf

BPF_MAP_CREATE, BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM = 0, 1, 2  # enum bpf_cmd
BPF_PROG_LOAD, BPF_RAW_TRACEPOINT_OPEN = 5, 17
BPF_MAP_TYPE_HASH = 1
BPF_PROG_TYPE_RAW_TRACEPOINT = 17
BPF_PSEUDO_MAP_FD = 1
FUNC_LOOKUP, FUNC_KTIME_NS, FUNC_PID_TGID = 1, 5, 14  # enum bpf_func_id

NUMBERS_MAX = 512  # system call numbers below it are counted
HEAD_WORDS = 2  # of a row: when the call under way began, its number
ROW_BYTES = 8 * (HEAD_WORDS + 2 * NUMBERS_MAX)
FIRST_PID_NAMESPACE = 0xEFFFFFFC  # inode, linux/proc_ns.h PROC_PID_INIT_INO

# arch/x86/entry/syscalls/syscall_64.tbl, asm-generic/unistd.h; only what a worker may call
# fmt: off
NAMES = {
    "x86_64": {
        0: "read", 1: "write", 7: "poll", 9: "mmap", 11: "munmap", 13: "rt_sigaction", 14: "rt_sigprocmask",
        15: "rt_sigreturn", 19: "readv", 20: "writev", 24: "sched_yield", 28: "madvise", 44: "sendto",
        45: "recvfrom", 46: "sendmsg", 47: "recvmsg", 51: "getsockname", 55: "getsockopt", 202: "futex",
        228: "clock_gettime", 232: "epoll_wait", 233: "epoll_ctl", 271: "ppoll", 281: "epoll_pwait",
    },
    "aarch64": {
        21: "epoll_ctl", 22: "epoll_pwait", 63: "read", 64: "write", 65: "readv", 66: "writev", 73: "ppoll",
        98: "futex", 113: "clock_gettime", 124: "sched_yield", 134: "rt_sigaction", 204: "getsockname",
        206: "sendto", 207: "recvfrom", 209: "getsockopt", 211: "sendmsg", 212: "recvmsg", 222: "mmap",
    },
}.get(os.uname().machine, {})
# fmt: on

_OWN_ROW = (  # r6 = the context, r7 = the row of this thread; a thread without one is left alone
    (0xBF, 6, 1, 0, 0),  # r6 = r1
    (0x85, 0, 0, 0, FUNC_PID_TGID),
    (0x63, 10, 0, -4, 0),  # *(u32 *)(r10 - 4) = r0, the thread's ID
    (0x18, 1, BPF_PSEUDO_MAP_FD, 0, "map"),
    (0x00, 0, 0, 0, 0),
    (0xBF, 2, 10, 0, 0),  # r2 = r10
    (0x07, 2, 0, 0, -4),  # r2 -= 4
    (0x85, 0, 0, 0, FUNC_LOOKUP),
    (0x15, 0, 0, "end", 0),  # if r0 == 0 goto end
    (0xBF, 7, 0, 0, 0),  # r7 = r0
)
_END = ((0xB7, 0, 0, 0, 0), (0x95, 0, 0, 0, 0))  # r0 = 0, exit
_ENTER = (
    *_OWN_ROW,
    (0x79, 8, 6, 8, 0),  # r8 = the second argument of sys_enter, its number
    (0x7B, 7, 8, 8, 0),  # row[1] = r8
    (0x85, 0, 0, 0, FUNC_KTIME_NS),
    (0x7B, 7, 0, 0, 0),  # row[0] = r0
    *_END,
)
_EXIT = (
    *_OWN_ROW,
    (0x79, 8, 7, 0, 0),  # r8 = row[0]
    (0x15, 8, 0, "end", 0),  # it was entered before the programs were attached
    (0x79, 9, 7, 8, 0),  # r9 = row[1]
    (0x85, 0, 0, 0, FUNC_KTIME_NS),
    (0x1F, 0, 8, 0, 0),  # r0 -= r8
    (0xB7, 1, 0, 0, 0),
    (0x7B, 7, 1, 0, 0),  # row[0] = 0
    (0x25, 9, 0, "end", NUMBERS_MAX - 1),  # if r9 > that goto end
    (0x67, 9, 0, 0, 4),  # r9 <<= 4, two words a number
    (0x0F, 7, 9, 0, 0),  # r7 += r9
    (0x79, 1, 7, 8 * HEAD_WORDS, 0),
    (0x07, 1, 0, 0, 1),
    (0x7B, 7, 1, 8 * HEAD_WORDS, 0),  # calls += 1
    (0x79, 1, 7, 8 * HEAD_WORDS + 8, 0),
    (0x0F, 1, 0, 0, 0),
    (0x7B, 7, 1, 8 * HEAD_WORDS + 8, 0),  # ns += r0
    *_END,
)
_LOG_BYTES = 64 << 10


def _code(program, map_fd):
    """Machine code of a program: "map" and "end" are replaced."""
    end = len(program) - len(_END)
    return b"".join(
        struct.pack(
            "=BBhi",
            opcode,
            source << 4 | target,
            end - place - 1 if offset == "end" else offset,
            map_fd if immediate == "map" else immediate,
        )
        for place, (opcode, target, source, offset, immediate) in enumerate(program)
    )


def _open(*call, log=None):
    fd = bpf(*call, log)
    os.set_inheritable(fd, False)
    return fd


def _load(program, map_fd):
    code = ctypes.create_string_buffer(_code(program, map_fd))
    licence = ctypes.create_string_buffer(b"Dual BSD/GPL")
    log = ctypes.create_string_buffer(_LOG_BYTES)
    where = ctypes.addressof(code), ctypes.addressof(licence)
    fields = BPF_PROG_TYPE_RAW_TRACEPOINT, len(program), *where, 1, _LOG_BYTES, ctypes.addressof(log)
    return _open(BPF_PROG_LOAD, attributes("=IIQQIIQ", *fields), log=log)


class SyscallCounts:
    """Counts the system calls of `threads` until it is closed. Raises OSError where the kernel has it not.

    Threads are known by the numbers of the host; in a PID namespace of its own this process knows others.
    """

    def __init__(self, threads):
        if os.stat("/proc/self/ns/pid").st_ino != FIRST_PID_NAMESPACE:
            raise OSError(
                "the daemon is in a PID namespace, whose thread numbers the tracepoints do not have"
            )
        self._row = np.zeros(ROW_BYTES // 8, np.uint64)
        with contextlib.ExitStack() as stack:

            def hold(fd):
                stack.callback(os.close, fd)
                return fd

            shape = BPF_MAP_TYPE_HASH, 4, ROW_BYTES, max(len(threads), 1), 0
            self._map = hold(_open(BPF_MAP_CREATE, attributes("=IIIII", *shape)))
            for thread in threads:
                self._exchange(BPF_MAP_UPDATE_ELEM, thread)
            for name, program in ((b"sys_exit", _EXIT), (b"sys_enter", _ENTER)):
                text = ctypes.create_string_buffer(name)
                loaded = hold(_load(program, self._map))
                hold(_open(BPF_RAW_TRACEPOINT_OPEN, attributes("=QI", ctypes.addressof(text), loaded)))
            self._held = stack.pop_all()

    def _exchange(self, command, thread):
        key = ctypes.c_uint32(thread)
        bpf(command, attributes("=I4xQQQ", self._map, ctypes.addressof(key), self._row.ctypes.data, 0))

    def read(self, thread):
        """{name: (calls that ended, ns)} of a thread, the ns with those of a call under way."""
        self._exchange(BPF_MAP_LOOKUP_ELEM, thread)
        began, number = (int(word) for word in self._row[:HEAD_WORDS])
        sums = self._row[HEAD_WORDS:].reshape(NUMBERS_MAX, 2).copy()
        if began and number < NUMBERS_MAX:
            sums[number, 1] += np.uint64(max(time.clock_gettime_ns(time.CLOCK_MONOTONIC) - began, 0))
        called = sums[:, 1].nonzero()[0].tolist()
        return {NAMES.get(number, f"call {number}"): tuple(sums[number].tolist()) for number in called}

    def close(self):
        """Count no more; twice is allowed."""
        self._held.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
