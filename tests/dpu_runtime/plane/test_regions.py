"""Regions: where arrays lie, what a damaged memory is refused with, and no step at which a kill does harm."""

import errno
import mmap
import os
import resource
from dataclasses import replace

import numpy as np
import pytest

from dpu_runtime.kernels.layout import PER_WORKER
from dpu_runtime.plane import regions as module
from dpu_runtime.plane.regions import ENTRIES_MAX, FRONT_BYTES, MAGIC, PAGE_BYTES, Memory, Region, RegionError
from tests.kill_points import in_child, kill_points

WORKERS = 2
ONE = Region("one", {"head": ("u4", (3,)), "rows": ("u8", (PER_WORKER, 5)), "big": ("u8", (2, 1000))})
TWO = Region("two", {"rows": ("u8", (PER_WORKER, 64))})
RECORD = np.dtype([("a", "u8"), ("b", "u4")], align=True)


@pytest.fixture
def memory():
    memory = Memory.create(WORKERS)
    yield memory
    os.close(memory.fd)


def again(memory):
    """The memory as another process maps it."""
    return Memory(memory.fd)


def directory(memory):
    """The rows of the directory, to be damaged."""
    return np.frombuffer(mmap.mmap(memory.fd, FRONT_BYTES), module.ENTRY_DTYPE, ENTRIES_MAX, PAGE_BYTES)


def header(memory):
    return np.frombuffer(mmap.mmap(memory.fd, FRONT_BYTES), "u8", 2)


# where arrays lie


def test_arrays_lie_page_by_page_and_rows_of_workers_by_cache_line():
    arrays, octets = ONE.place(WORKERS)
    assert [(a.offset, a.shape, a.strides) for a in arrays.values()] == [
        (0, (3,), (4,)),
        (PAGE_BYTES, (WORKERS, 5), (64, 8)),
        (2 * PAGE_BYTES, (2, 1000), (8000, 8)),
    ]
    assert octets == 6 * PAGE_BYTES


def test_only_leading_dimensions_of_workers_are_spread():
    place = Region("x", {"queues": (RECORD, (4, PER_WORKER))}).place(3)[0]["queues"]
    assert (place.shape, place.strides) == ((4, 3), (3 * RECORD.itemsize, RECORD.itemsize))


def test_room_for_sixty_four_regions_and_more():
    assert ENTRIES_MAX >= 64
    assert FRONT_BYTES % PAGE_BYTES == 0


@pytest.mark.parametrize("name", ["", "x" * 33, "ä" * 17])
def test_a_name_that_no_entry_holds_is_refused(name):
    with pytest.raises(ValueError, match=r"a name of \d+ octets, allowed are 1 to 32"):
        Region(name, {})


@pytest.mark.parametrize(
    "changed",
    [
        {"layout": {**ONE.layout, "more": ("u1", (1,))}},
        {"layout": {**ONE.layout, "head": ("i4", (3,))}},
        {"layout": {**ONE.layout, "head": (RECORD, (3,))}},
        {"layout": {**ONE.layout, "rows": ("u8", (PER_WORKER, 6))}},
        {"layout": {**ONE.layout, "rows": ("u8", (WORKERS, 5))}},
        {"layout": dict(reversed(ONE.layout.items()))},
        {"columns": {"rows": ("a", "b")}},
    ],
)
def test_the_hash_is_that_of_the_layout(changed):
    assert replace(ONE, **changed).hash != ONE.hash
    assert replace(ONE, name="other", counters=("rows",)).hash == ONE.hash


def test_the_number_of_workers_is_not_in_the_hash(memory):
    other = Memory.create(7)
    assert other.make(ONE)[0].hash == memory.make(ONE)[0].hash
    os.close(other.fd)


# a memory


def test_what_is_made_is_found_and_is_the_same(memory):
    entry, arrays = memory.make(ONE)
    _, second = memory.make(TWO)
    arrays.rows[1] = range(5)
    second.rows[:] = 1
    other = again(memory)
    assert other.workers == WORKERS
    assert [e.name for e in other.entries()] == ["one", "two"]
    assert other.find(ONE) == entry
    assert other.map(ONE, entry).rows.tolist() == [[0] * 5, list(range(5))]
    assert not arrays.big.any()


def test_the_same_name_with_another_layout_is_another_region(memory):
    old, _ = memory.make(ONE)
    changed = replace(ONE, layout={"rows": ("u8", (PER_WORKER, 9))})
    assert memory.find(changed) is None
    new, _ = memory.make(changed)
    assert new.offset >= old.offset + old.octets
    assert (memory.find(ONE), memory.find(changed)) == (old, new)


def test_of_two_that_are_alike_the_newest_is_found_or_the_one_that_is_asked_for(memory):
    old, _ = memory.make(ONE)
    new, _ = memory.make(ONE)
    assert memory.find(ONE) == new
    assert memory.find(ONE, old.offset) == old
    assert memory.find(ONE, old.offset + PAGE_BYTES) is None


def test_what_is_forgotten_gives_its_pages_back_and_is_never_reused(memory):
    first, arrays = memory.make(ONE)
    arrays.big[:] = 5
    taken = os.fstat(memory.fd).st_blocks
    memory.forget(first)
    assert os.fstat(memory.fd).st_blocks < taken
    assert memory.entries() == []
    second, _ = memory.make(ONE)
    assert second.number == first.number
    assert second.offset == first.offset + first.octets
    memory.forget(first)  # twice: the entry is another one's now
    assert memory.find(ONE) == second


def test_nobody_can_shrink_it(memory):
    memory.make(ONE)
    with pytest.raises(PermissionError):
        os.ftruncate(memory.fd, FRONT_BYTES)


# what is refused


@pytest.mark.parametrize("size", [0, 1, PAGE_BYTES, FRONT_BYTES - 1])
def test_a_truncated_memory_is_refused(size):
    fd = os.memfd_create("short", 0)
    os.ftruncate(fd, size)
    with pytest.raises(
        ValueError, match=f"shared memory has {size} octets, its directory takes {FRONT_BYTES}"
    ):
        Memory(fd)
    os.close(fd)


@pytest.mark.parametrize("magic", [0, MAGIC - 1, MAGIC + 1])
def test_a_foreign_memory_is_refused(memory, magic):
    header(memory)[0] = magic
    with pytest.raises(ValueError, match="laid out by another version"):
        again(memory)


@pytest.mark.parametrize("workers", [0, 65, 1 << 63])
def test_a_memory_of_impossible_workers_is_refused(memory, workers):
    header(memory)[1] = workers
    with pytest.raises(ValueError, match=f"of {workers} workers, allowed are 1 to 64"):
        again(memory)


@pytest.mark.parametrize(
    "field,value",
    [
        ("offset", 0),
        ("offset", FRONT_BYTES + 1),
        ("offset", 1 << 40),
        ("octets", 1 << 40),
        ("octets", (1 << 64) - PAGE_BYTES),
        ("workers", WORKERS + 1),
    ],
)
def test_an_entry_that_leads_astray_is_refused_by_name(memory, field, value):
    memory.make(ONE)
    directory(memory)[0][field] = value
    with pytest.raises(
        ValueError, match=r"shared memory of \d+ octets and 2 worker\(s\) has region 'one' of"
    ):
        again(memory).find(ONE)


def test_a_memory_that_was_cut_behind_its_directory_is_refused_by_name():
    whole = Memory.create(WORKERS)
    entry, _ = whole.make(ONE)
    fd = os.memfd_create("cut", 0)
    os.write(fd, os.pread(whole.fd, entry.offset + entry.octets - 1, 0))
    with pytest.raises(ValueError, match=f"has region 'one' of {entry.octets} octets at {entry.offset}"):
        Memory(fd).find(ONE)
    os.close(fd)
    os.close(whole.fd)


def test_a_region_of_the_right_hash_and_the_wrong_size_is_not_taken(memory):
    memory.make(ONE)
    directory(memory)[0]["octets"] -= PAGE_BYTES
    assert again(memory).find(ONE) is None


def test_a_full_directory_says_so_and_changes_nothing(memory):
    for number in range(ENTRIES_MAX):
        memory.make(replace(TWO, name=f"r{number}"))
    before = directory(memory).tobytes(), os.fstat(memory.fd).st_size
    octets = ONE.place(WORKERS)[1]
    with pytest.raises(
        RegionError,
        match=f"region 'one' of {octets} octets: the directory is full, it has {ENTRIES_MAX} entries",
    ):
        memory.make(ONE)
    assert (directory(memory).tobytes(), os.fstat(memory.fd).st_size) == before
    memory.forget(memory.entries()[5])
    assert memory.make(ONE)[0].number == 5


def refused(memory, limit, value, region, text):
    """Whether a region is refused, with `text`, under a limit of the process."""

    def work():
        resource.setrlimit(limit, (value, value))
        try:
            memory.make(region)
        except RegionError as error:
            return text in str(error)
        return False

    return in_child(work) == 0


def test_a_memory_that_cannot_grow_says_which_region_and_how_large(memory):
    octets = ONE.place(WORKERS)[1]
    text = f"region 'one' of {octets} octets: no room: {os.strerror(errno.EFBIG)}"
    assert refused(memory, resource.RLIMIT_FSIZE, FRONT_BYTES + octets - 1, ONE, text)
    assert again(memory).entries() == []
    memory.make(ONE)


def test_a_region_that_cannot_be_mapped_says_which_and_how_large(memory):
    huge = Region("huge", {"rows": ("u8", (1 << 37,))})
    octets = huge.place(WORKERS)[1]
    text = f"region 'huge' of {octets} octets: mmap: {os.strerror(errno.ENOMEM)}"
    assert refused(memory, resource.RLIMIT_AS, 1 << 36, huge, text)
    assert again(memory).entries() == []
    memory.make(ONE)
    assert not again(memory).map(ONE, memory.find(ONE)).big.any()


# kill -9


def test_killed_at_any_step_of_making_a_region(memory):
    _, kept = memory.make(ONE)
    kept.big[:] = 3
    seen = set()
    for _ in kill_points([Memory.make, Memory.map], lambda: lambda: memory.make(TWO)):
        other = again(memory)
        found = other.find(TWO)
        seen.add(found is not None)
        if found is not None:
            assert not other.map(TWO, found).rows.any()
            other.forget(found)
        entry, arrays = other.make(TWO)
        assert other.find(TWO) == entry
        assert arrays.rows.shape == (WORKERS, 64)
        assert not arrays.rows.any()
        arrays.rows[:] = 9
        other.forget(entry)
        assert [e.name for e in other.entries()] == ["one"]
        assert (kept.big == 3).all()
    assert seen == {False, True}


def test_killed_at_any_step_of_forgetting_a_region(memory):
    memory.make(ONE)

    def work():
        entry, arrays = memory.make(TWO)
        arrays.rows[:] = 4
        return lambda: memory.forget(entry)

    for _ in kill_points([Memory.forget], work):
        other = again(memory)
        for entry in other.entries():
            if entry.name == "two":
                assert other.map(TWO, entry).rows.any()
                other.forget(entry)
        assert [e.name for e in other.entries()] == ["one"]


def test_killed_while_the_memory_is_made():
    """Nobody else has it yet, so it is gone with the process; but a half-made one must not pass for one."""
    fd = os.memfd_create("half", 0)
    os.ftruncate(fd, FRONT_BYTES)
    with pytest.raises(ValueError, match="another version"):
        Memory(fd)
    os.close(fd)
