"""Memory by address and atomics: the compiled form and its Python stand-in do the same."""

import numpy as np
import pytest

from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.octets import memory
from tests.kernels.batches import FILL

BYTES = np.arange(1, 33, dtype=np.uint8) * np.uint8(37)
ADDRESS = np.uint64(BYTES.ctypes.data)


@kernel
def load_all(addr, out):
    out[0] = memory.load_u8(addr)
    out[1] = memory.load_u16(addr)
    out[2] = memory.load_u32(addr)
    out[3] = memory.load_u64(addr)


@kernel
def store_one(bits, addr, value):
    if bits == 8:
        memory.store_u8(addr, value)
    elif bits == 16:
        memory.store_u16(addr, value)
    elif bits == 32:
        memory.store_u32(addr, value)
    else:
        memory.store_u64(addr, value)


@kernel
def copy(target, source, size):
    memory.copy_memory(target, source, size)


@kernel
def copy_short(target, source, size):
    memory.copy_short(target, source, size)


@kernel
def address_of(array):
    return memory.address_of(array)


@kernel
def sum_words(addr, count):
    total = np.uint64(0)
    for word in memory.words_at(addr, count):
        total += np.uint64(word)
    return total


@kernel
def load_acquire(array, index):
    return memory.load_acquire(array, index)


@kernel
def store_release(array, index, value):
    memory.store_release(array, index, value)


@kernel
def load_acquire_u64(addr):
    return memory.load_acquire_u64(addr)


@kernel
def or_u8(addr, value):
    memory.or_u8(addr, value)


@kernel
def compare_exchange(array, index, expected, desired):
    return memory.compare_exchange(array, index, expected, desired)


@kernel
def cycles_twice():
    first = memory.cycles()
    return first, memory.cycles()


@kernel
def prefetch(addr):
    memory.prefetch(addr)


@pytest.mark.parametrize("offset", range(9))
def test_loads_at_any_alignment(offset):
    out = np.zeros(4, np.uint64)
    load_all(ADDRESS + np.uint64(offset), out)
    rest = BYTES[offset:].tobytes()
    assert out.tolist() == [int.from_bytes(rest[:n], "little") for n in (1, 2, 4, 8)]


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("offset", [0, 1, 3, 7])
def test_stores_their_octets_and_no_other(bits, offset):
    target = np.full(24, FILL, np.uint8)
    value = 0xFEDCBA9876543210
    store_one(bits, np.uint64(target.ctypes.data + offset), np.uint64(value))
    expected = bytearray([FILL] * 24)
    expected[offset : offset + bits // 8] = (value % (1 << bits)).to_bytes(bits // 8, "little")
    assert target.tobytes() == bytes(expected)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 24])
def test_copies_exactly_that_much(size):
    target = np.full(32, FILL, np.uint8)
    copy(np.uint64(target.ctypes.data + 3), ADDRESS, np.uint64(size))
    assert target.tobytes() == bytes([FILL] * 3) + BYTES[:size].tobytes() + bytes([FILL] * (29 - size))


def test_the_address_is_that_of_the_first_element():
    assert int(address_of(BYTES)) == BYTES.ctypes.data
    assert int(address_of(BYTES[5:])) == BYTES.ctypes.data + 5
    rows = np.zeros((4, 8), np.uint16)
    assert int(address_of(rows[2])) == rows.ctypes.data + 2 * 16


@pytest.mark.parametrize(("offset", "count"), [(0, 0), (0, 8), (1, 7), (2, 3)])
def test_words_at_views_unaligned_memory(offset, count):
    expected = np.frombuffer(BYTES[offset : offset + 4 * count].tobytes(), np.uint32)
    assert int(sum_words(ADDRESS + np.uint64(offset), np.uint64(count))) == int(expected.sum(dtype=np.uint64))


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64, np.int64])
def test_atomics_touch_one_element(dtype):
    array = np.array([1, 2, 3, 4], dtype)
    assert load_acquire(array, 2) == 3
    store_release(array, 1, dtype(77))
    assert array.tolist() == [1, 77, 3, 4]
    assert compare_exchange(array, 3, dtype(4), dtype(9))
    assert not compare_exchange(array, 0, dtype(5), dtype(6))
    assert array.tolist() == [1, 77, 3, 9]


def test_an_acquire_load_by_address():
    words = np.array([1, 0xFEDCBA9876543210, 3], np.uint64)
    assert int(load_acquire_u64(np.uint64(words.ctypes.data + 8))) == 0xFEDCBA9876543210


@pytest.mark.parametrize("value", [0, 0x01, 0x80, 0x5A, 0xFF])
@pytest.mark.parametrize("old", [0, 0x01, 0xA5, 0xFF])
def test_or_sets_bits_of_one_octet(old, value):
    octets = np.full(5, FILL, np.uint8)
    octets[2] = old
    or_u8(np.uint64(octets.ctypes.data + 2), np.uint64(value))
    assert octets.tolist() == [FILL, FILL, old | value, FILL, FILL]


def test_cycles_do_not_run_backwards():
    first, second = cycles_twice()
    assert int(second) >= int(first) > 0


def test_prefetch_of_any_address_is_harmless():
    prefetch(np.uint64(0))
    prefetch(ADDRESS)


@pytest.mark.parametrize("size", [*range(300), 4096, 65550])
def test_copy_short_of_any_size_and_place(size):
    source = np.random.default_rng(size).integers(0, 256, size + 64, np.uint8)
    for begin, to in ((0, 0), (3, 5), (17, 1)):
        target = np.full(size + 64, FILL, np.uint8)
        copy_short(np.uint64(target.ctypes.data + to), np.uint64(source.ctypes.data + begin), np.uint64(size))
        assert (target[to : to + size] == source[begin : begin + size]).all()
        assert (target[:to] == FILL).all()
        assert (target[to + size :] == FILL).all()
