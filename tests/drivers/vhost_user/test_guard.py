"""Guest memory that shrinks under a thread: zeroes, an event, and nobody else notices."""

import ctypes
import errno
import fcntl
import os
import select
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bench.peers.hugepages import PAGE_MB, hugepages
from dpu_runtime.drivers.vhost_user import guard as guard_file
from dpu_runtime.drivers.vhost_user.guard import PAGE_BYTES, MemoryGuard, page_bytes
from tests.conventions import ROOT
from tests.drivers.vhost_user import sigbus
from tests.drivers.vhost_user.sigbus import PAGES, SIZE, Churn, memory_file

pytestmark = pytest.mark.compiled

FILL = b"\xa5"
HUGEPAGE_BYTES = 2 << 20
MFD_HUGE_2MB = 21 << 26  # linux/memfd.h
F_ADD_SEALS = 1033  # linux/fcntl.h
F_SEAL_SHRINK = 0x2
F_SEAL_WRITE = 0x8


@pytest.fixture
def guard():
    """A guard of the test process."""
    made = MemoryGuard()
    made.install()
    yield made
    made.close()


@pytest.fixture
def files():
    """Memory files, filled, closed with the test: `files(size, flags)`."""
    made = []

    def make(size=SIZE, flags=0, fill=FILL):
        fd = memory_file(size, flags)
        made.append(fd)
        if fill and not flags:
            os.pwrite(fd, fill * size, 0)
        return fd

    yield make
    for fd in made:
        os.close(fd)


@pytest.fixture
def pages():
    """Four huge pages."""
    with hugepages(4 * PAGE_MB):
        yield


def has_event(guard, timeout_s=0.0):
    return bool(select.select([guard.event_fd], [], [], timeout_s)[0])


def octets(address, size=SIZE):
    return ctypes.string_at(address, size)


def test_memory_is_shared_with_the_file(guard, files):
    fd = files()
    address = guard.map(fd, 0, SIZE, 3)
    assert octets(address) == FILL * SIZE
    os.pwrite(fd, b"guest", 100)
    assert octets(address + 100, 5) == b"guest"
    ctypes.memmove(address + SIZE - 4, b"host", 4)
    assert os.pread(fd, 4, SIZE - 4) == b"host"
    assert not has_event(guard)
    assert guard.faulted() == set()


@pytest.mark.parametrize("offset", [1, 100, PAGE_BYTES - 1, PAGE_BYTES, 3 * PAGE_BYTES + 5])
def test_a_region_may_begin_anywhere(guard, files, offset):
    fd = files(fill=bytes(range(256)))
    address = guard.map(fd, offset, SIZE - offset, 3)
    assert octets(address, SIZE - offset) == os.pread(fd, SIZE - offset, offset)
    os.ftruncate(fd, 0)
    assert octets(address, SIZE - offset) == bytes(SIZE - offset)
    assert guard.faulted() == {3}


@pytest.mark.parametrize("kept", range(PAGES))
def test_a_read_from_python_gets_zeroes_behind_the_new_end(guard, files, kept):
    fd = files()
    address = guard.map(fd, 0, SIZE, 3)
    os.ftruncate(fd, kept * PAGE_BYTES)
    assert octets(address) == FILL * (kept * PAGE_BYTES) + bytes(SIZE - kept * PAGE_BYTES)
    assert has_event(guard)
    assert guard.faulted() == {3}
    assert not has_event(guard)
    os.pwrite(fd, b"back", SIZE - 4)
    assert octets(address + SIZE - 4, 4) == bytes(4), "what was lost once stays lost"


def test_only_what_lies_behind_the_fault_is_replaced(guard, files):
    fd = files()
    address = guard.map(fd, 0, SIZE, 3)
    os.ftruncate(fd, 2 * PAGE_BYTES)
    assert octets(address + 5 * PAGE_BYTES + 7, 1) == b"\0"
    os.ftruncate(fd, SIZE)
    os.pwrite(fd, b"grown", 4 * PAGE_BYTES)
    assert octets(address + 4 * PAGE_BYTES, 5) == b"grown"
    os.ftruncate(fd, 0)
    assert octets(address) == bytes(SIZE)


def test_a_region_larger_than_the_machine_is_replaced(guard, files):
    size = 1 << 41
    fd = files(size, fill=None)
    address = guard.map(fd, 0, size, 3)
    os.ftruncate(fd, 0)
    assert octets(address, 8) == bytes(8)
    assert octets(address + size - 8, 8) == bytes(8)
    assert guard.faulted() == {3}


def test_a_worker_goes_on_and_the_other_port_s_memory_is_untouched(guard, files):
    victim, other = files(), files()
    cut, whole = guard.map(victim, 0, SIZE, 3), guard.map(other, 0, SIZE, 4)
    workers = [Churn(cut, SIZE, 8), Churn(whole, SIZE // 2, 8)]
    os.ftruncate(victim, 2 * PAGE_BYTES)
    assert has_event(guard, 10.0)
    assert guard.faulted() == {3}
    for worker in workers:
        worker.wait(100)
        worker.stop()
    assert octets(cut, 2 * PAGE_BYTES) == os.pread(victim, SIZE, 0)
    assert octets(cut + 2 * PAGE_BYTES, 8) != bytes(8), "what the worker writes to zeroes stays"
    assert octets(whole) == os.pread(other, SIZE, 0)
    assert octets(whole + SIZE // 2, SIZE // 2) == FILL * (SIZE // 2)
    guard.unmap(cut)
    assert guard.faulted() == set()


def test_workers_that_meet_the_same_end(guard, files):
    for _ in range(50):
        fd = files()
        address = guard.map(fd, 0, SIZE, 3)
        workers = [Churn(address, SIZE, 8) for _ in range(3)]
        os.ftruncate(fd, 0)
        for worker in workers:
            worker.wait(2)
            worker.stop()
        assert guard.faulted() == {3}
        guard.unmap(address)


def test_ranges_come_and_go_while_a_worker_faults(guard, files):
    """The row that the handler looks for is behind rows that change all the time."""
    passing = files()
    first = [guard.map(passing, 0, PAGE_BYTES, 100 + n) for n in range(20)]
    stop = threading.Event()

    def rearrange():
        while not stop.is_set():
            for n, address in enumerate(first):
                guard.unmap(address)
                first[n] = guard.map(passing, n % 3 * PAGE_BYTES, (1 + n % 5) * PAGE_BYTES, 100 + n)

    victim = files()
    address = guard.map(victim, 0, SIZE, 3)
    thread = threading.Thread(target=rearrange)
    thread.start()
    worker = Churn(address, SIZE)
    try:
        for _ in range(200):
            os.ftruncate(victim, 0)
            worker.wait(2)
            assert guard.faulted() == {3}
            # The file again, at the same place.
            os.ftruncate(victim, SIZE)
            guard_file._mmap(address, SIZE, guard_file.MAP_SHARED | guard_file.MAP_FIXED, victim, 0)
    finally:
        worker.stop()
        stop.set()
        thread.join()
    assert octets(first[0], 1) == FILL


def test_the_error_number_of_the_worker_is_its_own(guard, files):
    fd = files()
    address = guard.map(fd, 0, SIZE, 3)
    os.ftruncate(fd, 0)
    os.eventfd_write(guard.event_fd, 2**64 - 2)  # full: the handler's own write fails
    libc = ctypes.CDLL(None)
    libc.__errno_location.restype = ctypes.POINTER(ctypes.c_int)
    here = libc.__errno_location()
    here[0] = errno.EXDEV
    ctypes.memmove(address, b"x", 1)
    assert here[0] == errno.EXDEV
    assert guard.faulted() == {3}


@pytest.mark.root
@pytest.mark.usefixtures("pages")
def test_hugepages_are_replaced_whole(guard, files):
    size = 3 * HUGEPAGE_BYTES
    fd = files(size, os.MFD_HUGETLB | MFD_HUGE_2MB)
    assert page_bytes(fd) == HUGEPAGE_BYTES
    offset = 0xC0000  # where QEMU cuts a PC's memory
    address = guard.map(fd, offset, size - offset - 4096, 3)
    base = address - offset
    ctypes.memset(base, 0xA5, size)
    worker = Churn(address, size - offset - 4096, 65536)
    os.ftruncate(fd, HUGEPAGE_BYTES)
    assert has_event(guard, 10.0)
    worker.wait(2)
    worker.stop()
    assert guard.faulted() == {3}
    assert octets(base, offset) == FILL * offset
    assert octets(base + HUGEPAGE_BYTES + 8, 8) == bytes(8)
    assert octets(base + size - 8, 8) == bytes(8)
    guard.unmap(address)
    assert f"{base:x}-" not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, SIZE + 1), (1, SIZE), (SIZE, 1), (-1, 5), (0, 0), (0, -1), (2**64, 1), (0, 2**64), (2**63, 2**63)],
)
def test_a_region_outside_its_file_is_refused(guard, files, offset, size):
    fd = files()
    with pytest.raises(ValueError, match=f"{size} octets at offset {offset} .* file of {SIZE} octets"):
        guard.map(fd, offset, size, 3)


def test_files_that_cannot_be_memory_are_refused(guard, tmp_path, files):
    ours, theirs = os.pipe()
    with pytest.raises(ValueError, match="file of 0 octets"):
        guard.map(ours, 0, SIZE, 3)
    os.close(ours)
    os.close(theirs)
    (tmp_path / "file").write_bytes(bytes(SIZE))
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    with pytest.raises(PermissionError, match="mmap"):
        guard.map(fd, 0, SIZE, 3)
    os.close(fd)
    sealed = files()
    fcntl.fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE)
    with pytest.raises(PermissionError, match="mmap"):
        guard.map(sealed, 0, SIZE, 3)
    assert guard.map(files(), 0, SIZE, 3)
    assert guard._head[guard_file.USED] == 1, "what was refused took no row"


def test_a_file_that_cannot_shrink_is_mapped_too(guard, files):
    fd = files()
    fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK)
    address = guard.map(fd, 0, SIZE, 3)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    assert octets(address) == FILL * SIZE


def test_a_full_table_refuses(guard, files, monkeypatch):
    monkeypatch.setattr(guard_file, "RANGES_MAX", 3)
    fd = files()
    mapped = [guard.map(fd, 0, SIZE, n) for n in range(3)]
    with pytest.raises(OSError, match="no more can be guarded"):
        guard.map(fd, 0, SIZE, 3)
    guard.unmap(mapped[1])
    guard.map(fd, 0, SIZE, 7)
    os.ftruncate(fd, 0)
    for address in guard._mapped:
        octets(address)
    assert guard.faulted() == {0, 2, 7}


def test_one_guard_a_process(guard):
    second = MemoryGuard()
    with pytest.raises(FileExistsError, match="has a memory guard already"):
        second.install()
    second.close()


def test_a_closed_guard_leaves_nothing():
    made = MemoryGuard()
    descriptors = os.listdir("/proc/self/fd")
    made.install()
    fd = memory_file(SIZE)
    address = made.map(fd, 0, SIZE, 3)
    os.close(fd)
    made.close()
    made.close()
    assert os.listdir("/proc/self/fd") == descriptors
    maps = Path("/proc/self/maps").read_text()
    assert f"{guard_file.TABLE_ADDRESS:x}-" not in maps
    assert "memfd:guest" not in maps, hex(address)
    made.install()
    made.close()


def run(program):
    """Run a program of sigbus.py."""
    command = [sys.executable, "-m", "tests.drivers.vhost_user.sigbus", program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_a_process_with_faulthandler_goes_on():
    done = run("guarded")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("program", [program.__name__ for program in sigbus.DYING])
def test_a_process_dies_of_any_other_sigbus(program):
    done = run(program)
    assert done.returncode == -7, done.stderr
    assert ("Bus error" in done.stderr) == (program == "faulthandler_first"), done.stderr
