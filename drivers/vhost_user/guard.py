"""Guest memory that outlives its file: a handler for SIGBUS puts zeroes where the file was cut off.

Spec: mmap(2), sigaction(2) (`si_addr`, BUS_ADRERR), eventfd(2).
In:   files that a guest shares. Whoever holds one may shrink it (unless F_SEAL_SHRINK is set), or punch a
      hole while no hugepage is left; the next access beyond its end is a SIGBUS on the accessing thread.
Out:  zeroes from the faulting page to the end of the region, an event, the port's number. Any other SIGBUS
      goes where it went before, and the process dies of it.
Not:  system calls on such memory: they fail with EFAULT, without a signal. Memory errors of the hardware.

A signal handler gets no argument of ours, and compiled code that refers to an array cannot be cached, so
the table of regions lies at an address that both halves know.
"""

import contextlib
import ctypes
import heapq
import os
import signal

import numpy as np

from dpu_runtime.drivers.linux.libc import errno, mmap, raise_signal, set_errno, sigaction, write
from dpu_runtime.drivers.vhost_user.layout import REGIONS_MAX
from dpu_runtime.kernels.compile.jit import callback, helper
from dpu_runtime.kernels.layout import PORTS_MAX
from dpu_runtime.kernels.octets.memory import load_acquire_u64, load_u32, load_u64, store_u64

PROT_READ_WRITE = 0x3  # asm-generic/mman-common.h
MAP_SHARED = 0x01
MAP_PRIVATE = 0x02
MAP_FIXED = 0x10
MAP_ANONYMOUS = 0x20
MAP_NORESERVE = 0x4000
MAP_FIXED_NOREPLACE = 0x100000
# A region may be larger than the machine: no memory is set aside for zeroes that nobody touches.
MAP_ZEROES = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
MAP_FAILED = 0xFFFF_FFFF_FFFF_FFFF

SIGBUS = 7  # asm/signal.h
BUS_ADRERR = 2  # asm-generic/siginfo.h: no memory at this address
SI_CODE_OFFSET = np.uint64(8)  # octets into siginfo_t
SI_ADDR_OFFSET = np.uint64(16)
SA_SIGINFO = 0x4
SIGACTION_BYTES = 152  # glibc's struct sigaction on x86-64

HUGETLBFS_MAGIC = 0x958458F6  # linux/magic.h
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

# The table: a page for its head, then uint64[RANGES_MAX, RANGE_WORDS]. Linux places nothing there by itself.
TABLE_ADDRESS = 0x2000_0000_0000
USED = 0  # word: rows that may be in use
EVENT_FD = 1  # word
ONE = 2  # word: what is written to the eventfd
PREVIOUS_OFFSET = 64  # octets: the struct sigaction that was in force before
HEAD_BYTES = 4096
# A row's words. Size is written last and cleared first: 0 is an empty row.
SIZE = 0  # octets
START = 1  # address, a multiple of PAGE
PAGE = 2  # octets, of the file's pages
FAULT = 3  # 1: (a part of) it is zeroes now
PORT = 4
RANGE_WORDS = 8
# The dirty log and the in-flight buffer are shared as well; a new memory table comes before the old one goes.
RANGES_MAX = PORTS_MAX * 2 * (REGIONS_MAX + 2)
TABLE_BYTES = HEAD_BYTES + RANGES_MAX * RANGE_WORDS * 8


@helper
def _word(addr, index):
    return load_acquire_u64(addr + np.uint64(8 * index))


@helper
def find_range(table, addr):
    """Look for the range of `table` that `addr` lies in, while another thread adds and removes ranges.

    Returns (address of its row, first address of the page, end of the range); the row is 0: in none.
    """
    for i in range(np.int64(_word(table, USED))):
        row = table + np.uint64(HEAD_BYTES + i * RANGE_WORDS * 8)
        size, start, page = _word(row, SIZE), _word(row, START), _word(row, PAGE)
        # The size again: the row may have been given to another range in between.
        if addr - start < size and _word(row, SIZE) == size:
            return row, addr & ~(page - np.uint64(1)), start + size
    return np.uint64(0), np.uint64(0), np.uint64(0)


@helper
def _replace(info):
    """Put zeroes where the access failed; False when it was not a guarded one, or that fails too."""
    table = np.uint64(TABLE_ADDRESS)
    if load_u32(info + SI_CODE_OFFSET) != BUS_ADRERR:
        return False
    row, first, end = find_range(table, load_u64(info + SI_ADDR_OFFSET))
    if row == 0:
        return False
    flags = np.int32(MAP_ZEROES | MAP_FIXED)
    if mmap(first, end - first, np.int32(PROT_READ_WRITE), flags, np.int32(-1), np.int64(0)) != first:
        return False
    store_u64(row + np.uint64(8 * FAULT), np.uint64(1))
    write(np.int32(_word(table, EVENT_FD)), table + np.uint64(8 * ONE), np.uint64(8))
    return True


@callback("void(i4, u8, u8)")
def on_sigbus(number, info, context):
    """Handle SIGBUS on the thread that met it: only calls that are safe there (signal-safety(7))."""
    saved = errno()
    if not _replace(info):
        # The access is made once more and fails again. A signal that somebody sent is sent once more.
        sigaction(np.int32(SIGBUS), np.uint64(TABLE_ADDRESS + PREVIOUS_OFFSET), np.uint64(0))
        if np.int32(load_u32(info + SI_CODE_OFFSET)) <= 0:
            raise_signal(np.int32(SIGBUS))
    set_errno(saved)


class _Sigaction(ctypes.Structure):
    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint8 * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


assert ctypes.sizeof(_Sigaction) == SIGACTION_BYTES

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_uint64
_libc.mmap.argtypes = (
    ctypes.c_uint64,
    ctypes.c_uint64,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
)
_libc.munmap.argtypes = (ctypes.c_uint64, ctypes.c_uint64)
_libc.sigaction.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


def _mmap(address, size, flags, fd, offset):
    got = _libc.mmap(address, size, PROT_READ_WRITE, flags, fd, offset)
    if got == MAP_FAILED:
        errno_ = ctypes.get_errno()
        raise OSError(errno_, f"mmap: {os.strerror(errno_)}")
    return got


def page_bytes(fd):
    """Size of the pages of the file `fd`: what a mapping of it can be cut at."""
    words = (ctypes.c_long * 32)()  # struct statfs: f_type, f_bsize, ...
    if _libc.fstatfs(fd, words) != 0:
        errno_ = ctypes.get_errno()
        raise OSError(errno_, f"fstatfs: {os.strerror(errno_)}")
    return words[1] if words[0] == HUGETLBFS_MAGIC else PAGE_BYTES


class MemoryGuard:
    """The guarded memory of a process: one of it, called from one thread; any thread may access the memory.

    event_fd   eventfd, non-blocking: readable when memory was replaced, see `faulted`
    """

    def __init__(self):
        self.event_fd = -1
        self._head = None
        self._rows = None
        self._free = []  # heap of rows below USED
        self._mapped = {}  # address -> (row, first address of the mapping, its size)

    def install(self):
        """Handle SIGBUS from now on. Makes or loads machine code, as a kernel does.

        What handles it now (faulthandler) goes on to do so for memory that is not guarded; it must not be
        installed later. Raises OSError: EEXIST if there is a guard already.
        """
        handler = on_sigbus.address
        try:
            _mmap(TABLE_ADDRESS, TABLE_BYTES, MAP_ZEROES | MAP_FIXED_NOREPLACE, -1, 0)
        except FileExistsError as error:
            raise OSError(error.errno, "the process has a memory guard already") from None
        self._head = np.frombuffer(
            (ctypes.c_uint64 * (HEAD_BYTES // 8)).from_address(TABLE_ADDRESS), np.uint64
        )
        words = (ctypes.c_uint64 * (RANGES_MAX * RANGE_WORDS)).from_address(TABLE_ADDRESS + HEAD_BYTES)
        self._rows = np.frombuffer(words, np.uint64).reshape(RANGES_MAX, RANGE_WORDS)
        self.event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._head[EVENT_FD] = self.event_fd
        self._head[ONE] = 1
        action = _Sigaction(handler=handler, flags=SA_SIGINFO)
        _libc.sigaction(SIGBUS, ctypes.byref(action), TABLE_ADDRESS + PREVIOUS_OFFSET)
        if callable(signal.getsignal(SIGBUS)):
            # Python would only note the signal, and the access would fail for ever.
            ctypes.memset(TABLE_ADDRESS + PREVIOUS_OFFSET, 0, SIGACTION_BYTES)

    def close(self):
        """Unmap all memory and handle SIGBUS as before; twice is allowed."""
        if self.event_fd < 0:
            return
        for address in list(self._mapped):
            self.unmap(address)
        _libc.sigaction(SIGBUS, TABLE_ADDRESS + PREVIOUS_OFFSET, None)
        self._head = self._rows = None
        self._free = []
        _libc.munmap(TABLE_ADDRESS, TABLE_BYTES)
        os.close(self.event_fd)
        self.event_fd = -1

    def map(self, fd, offset, size, port):
        """Map `size` octets at `offset` of a guest's memory file, shared and guarded; returns the address.

        Raises ValueError: they do not lie in the file. OSError: the file cannot be mapped for writing, or the
        table is full.
        """
        file_size = os.fstat(fd).st_size
        if offset < 0 or size <= 0 or offset + size > file_size:
            text = f"{size} octets at offset {offset} do not lie in the memory file of {file_size} octets"
            raise ValueError(text)
        page = page_bytes(fd)
        before = offset % page
        length = -(-(before + size) // page) * page
        row = self._take_row()
        try:
            base = _mmap(0, length, MAP_SHARED | MAP_NORESERVE, fd, offset - before)
        except OSError:
            heapq.heappush(self._free, row)
            raise
        words = self._rows[row]
        words[START], words[PAGE], words[FAULT], words[PORT] = base, page, 0, port
        words[SIZE] = length
        self._mapped[base + before] = row, base, length
        return base + before

    def _take_row(self):
        if self._free:
            return heapq.heappop(self._free)
        row = int(self._head[USED])
        if row == RANGES_MAX:
            raise OSError(f"{RANGES_MAX} regions of guest memory are mapped: no more can be guarded")
        self._head[USED] = row + 1
        return row

    def unmap(self, address):
        """Give up what `map` returned, when no worker accesses it any more."""
        row, base, length = self._mapped.pop(address)
        self._rows[row, SIZE] = 0
        _libc.munmap(base, length)
        heapq.heappush(self._free, row)

    def faulted(self):
        """Clear `event_fd`; returns the ports with memory that was replaced and is still mapped."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.event_fd)
        rows = self._rows[: int(self._head[USED])]
        return {int(port) for port in rows[(rows[:, SIZE] != 0) & (rows[:, FAULT] != 0), PORT]}
