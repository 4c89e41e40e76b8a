"""Atomic access by address: the compiled form and its plain-Python stand-in do the same."""

import threading

import numpy as np
import pytest

from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.octets import atomic
from dpu_runtime.kernels.octets.memory import load_u64, store_u64
from tests.kernels.batches import FILL

WORDS = np.array([0x0102030405060708, 0xFEDCBA9876543210, 0], np.uint64)
ADDRESS = int(WORDS.ctypes.data)
MESSAGES = 20_000


@kernel
def load_all(addr, out):
    out[0] = atomic.load_once_u16(addr)
    out[1] = atomic.load_once_u32(addr)
    out[2] = atomic.load_once_u64(addr)
    out[3] = atomic.load_acquire_u16(addr)
    out[4] = atomic.load_acquire_u32(addr)


@kernel
def store_one(bits, addr, value):
    if bits == 16:
        atomic.store_release_u16(addr, value)
    elif bits == 32:
        atomic.store_release_u32(addr, value)
    else:
        atomic.store_release_u64(addr, value)


@kernel
def fences(addr, value):
    store_u64(addr, value)
    atomic.fence_release()
    atomic.fence()
    return load_u64(addr)


@kernel
def try_lock(addr):
    return atomic.try_lock(addr)


@kernel
def unlock(addr):
    atomic.store_release_u32(addr, np.uint64(0))


@kernel
def add_locked(lock, addr, times):
    """Add 1 under the lock; a lost update is a lock that two had."""
    for _ in range(times):
        while not atomic.try_lock(lock):
            pass
        store_u64(addr, load_u64(addr) + np.uint64(1))
        atomic.store_release_u32(lock, np.uint64(0))


@kernel
def send(index, slots, count):
    for k in range(count):
        store_u64(slots + np.uint64(k * 8), np.uint64(k + 1))
        atomic.store_release_u16(index, np.uint64(k + 1))


@kernel
def await_all(index, slots, count):
    """Messages whose octets were not there when their index was; loads in a loop are made each time."""
    seen = np.uint64(0)
    early = 0
    while seen < np.uint64(count):
        now = np.uint64(atomic.load_acquire_u16(index))
        while seen < now:
            if load_u64(slots + seen * np.uint64(8)) != seen + np.uint64(1):
                early += 1
            seen += np.uint64(1)
    return early


@pytest.mark.parametrize("word", [0, 1])
def test_loads_of_every_size(word):
    out = np.zeros(5, np.uint64)
    load_all(np.uint64(ADDRESS + 8 * word), out)
    octets = WORDS[word].tobytes()
    assert out.tolist() == [int.from_bytes(octets[:n], "little") for n in (2, 4, 8, 2, 4)]


def test_loads_that_are_not_aligned():
    """An indirect table may lie anywhere (virtio asks for alignment, a hostile driver has none)."""
    octets = WORDS.tobytes()
    for offset in range(8):
        out = np.zeros(5, np.uint64)
        load_all(np.uint64(ADDRESS + offset), out)
        assert int(out[2]) == int.from_bytes(octets[offset : offset + 8], "little")


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("offset", [0, 8])
def test_stores_of_their_octets_and_no_other(bits, offset):
    target = np.full(24, FILL, np.uint8)
    value = 0xFEDCBA9876543210
    store_one(bits, np.uint64(target.ctypes.data + offset), np.uint64(value))
    expected = bytearray([FILL] * 24)
    expected[offset : offset + bits // 8] = (value % (1 << bits)).to_bytes(bits // 8, "little")
    assert target.tobytes() == bytes(expected)


def test_fences_change_no_value():
    target = np.zeros(1, np.uint64)
    assert int(fences(np.uint64(target.ctypes.data), np.uint64(77))) == 77


def test_a_lock_is_had_once():
    words = np.array([FILL, 0, FILL], np.uint32)
    at = np.uint64(words.ctypes.data + 4)
    assert try_lock(at)
    assert not try_lock(at)
    assert words.tolist() == [FILL, 1, FILL]
    unlock(at)
    assert words.tolist() == [FILL, 0, FILL]
    assert try_lock(at)


@pytest.mark.compiled
def test_threads_exclude_each_other():
    words = np.zeros(2, np.uint64)
    at = words.ctypes.data
    args = np.uint64(at), np.uint64(at + 8), 20_000
    add_locked(*args[:2], 0)
    threads = [threading.Thread(target=add_locked, args=args) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert int(words[1]) == 60_000


@pytest.mark.compiled
def test_what_was_stored_before_a_release_is_seen_after_the_acquire():
    index, slots = np.zeros(4, np.uint16), np.zeros(MESSAGES, np.uint64)
    at = np.uint64(index.ctypes.data), np.uint64(slots.ctypes.data)
    send(*at, 0)
    await_all(*at, 0)
    found = []
    reader = threading.Thread(target=lambda: found.append(await_all(*at, MESSAGES)))
    reader.start()
    send(*at, MESSAGES)
    reader.join()
    assert found == [0]
