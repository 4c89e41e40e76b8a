"""Regions of the shared memory: a part of the program each, with a layout that may change alone.

    octet 0          header: MAGIC, workers
    page 1, 2        directory: ENTRY_DTYPE[ENTRIES_MAX]
    further pages    regions, an array at a page; pages that nobody touched take no memory

A region's hash is that of its layout. An entry counts once its hash is written, which is done last; until
then what it names is room that nobody knows. Room is taken at the end only, so a region never moves, and a
process goes on with the one it has mapped while another of that name is made. The memory never shrinks.
Not: which regions there are, plane/shared.py.
"""

import contextlib
import fcntl
import hashlib
import mmap
import os
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from dpu_runtime.kernels.layout import PER_WORKER, WORKERS_MAX

MAGIC = 0x4450_5552_544D_0003  # "DPURTM", layout family 3
PAGE_BYTES = 4096
CACHE_LINE_BYTES = 64
ENTRY_DTYPE = np.dtype(
    [("name", "S32"), ("offset", "u8"), ("octets", "u8"), ("workers", "u8"), ("hash", "u8")]
)
ENTRIES_MAX = 128
FRONT_BYTES = PAGE_BYTES + ENTRIES_MAX * ENTRY_DTYPE.itemsize
assert FRONT_BYTES % PAGE_BYTES == 0
_HEADER_MAGIC, _HEADER_WORKERS = 0, 1  # words


class RegionError(OSError):
    """A region cannot be had; says which, its octets, and why."""

    def __init__(self, name, octets, why):
        super().__init__(f"shared memory: region {name!r} of {octets} octets: {why}")


class Array(NamedTuple):
    """Where an array of a region lies, in octets. A worker's row is whole cache lines, which it has alone."""

    dtype: np.dtype
    shape: tuple
    strides: tuple
    offset: int

    def over(self, memory):
        """The array over a mapped region."""
        return np.ndarray(self.shape, self.dtype, memory, self.offset, self.strides)

    def told(self):
        """JSON, for `Array.from_told`."""
        return [np.dtype(self.dtype).str, list(self.shape), list(self.strides), self.offset]

    @classmethod
    def from_told(cls, told):
        """What `told` was made of."""
        dtype, shape, strides, offset = told
        return cls(np.dtype(dtype), tuple(shape), tuple(strides), offset)


@dataclass(frozen=True)
class Region:
    """What a part of the program has in shared memory.

    layout    {array: (dtype, shape)}; a dimension PER_WORKER is as long as workers run
    counters  arrays that only grow: a region that is made anew goes on with them where they are alike
    columns   {array: names of its columns}, of counters that are known by name
    """

    name: str
    layout: dict[str, tuple]
    counters: tuple[str, ...] = ()
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self):
        size = len(self.name.encode())
        if not 1 <= size <= ENTRY_DTYPE["name"].itemsize:
            raise ValueError(f"region {self.name!r}: a name of {size} octets, allowed are 1 to 32")

    @cached_property
    def hash(self):
        """64 bits that change whenever the layout or a column's name does; never 0."""
        layout = [
            (name, np.dtype(dtype).descr, tuple(map(int, shape)))
            for name, (dtype, shape) in self.layout.items()
        ]
        text = repr((layout, sorted(self.columns.items())))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") or 1

    def place(self, workers):
        """({name: Array}, octets of it all) with so many workers."""
        arrays, end = {}, 0
        for name, (dtype, shape) in self.layout.items():
            sizes = tuple(workers if length == PER_WORKER else int(length) for length in shape)
            strides, row = [], np.dtype(dtype).itemsize
            for number in reversed(range(len(sizes))):
                if number == 0 and shape[0] == PER_WORKER:
                    row = _up(row, CACHE_LINE_BYTES)
                strides.insert(0, row)
                row *= sizes[number]
            arrays[name] = Array(np.dtype(dtype), sizes, tuple(strides), end)
            end += _up(row, PAGE_BYTES)
        return arrays, end


def _up(size, unit):
    return -(-size // unit) * unit


class Entry(NamedTuple):
    """A region of the directory; `number` is the entry's."""

    number: int
    name: str
    offset: int
    octets: int
    hash: int


class Memory:
    """The memory behind `fd` as this process has it mapped. ValueError: it is none, or another version's.

    workers  how many run; it stays for as long as the memory does
    """

    def __init__(self, fd):
        self.fd = fd
        size = os.fstat(fd).st_size
        if size < FRONT_BYTES:
            raise ValueError(f"shared memory has {size} octets, its directory takes {FRONT_BYTES}")
        self._front = _map(fd, "directory", 0, FRONT_BYTES)
        header = np.frombuffer(self._front, "u8", 2)
        if int(header[_HEADER_MAGIC]) != MAGIC:
            raise ValueError("shared memory was laid out by another version of dpu-runtime")
        self.workers = int(header[_HEADER_WORKERS])
        if not 1 <= self.workers <= WORKERS_MAX:
            raise ValueError(f"shared memory of {self.workers} workers, allowed are 1 to {WORKERS_MAX}")
        self._rows = np.frombuffer(self._front, ENTRY_DTYPE, ENTRIES_MAX, PAGE_BYTES)

    @classmethod
    def create(cls, workers):
        """Make a memfd without regions."""
        fd = os.memfd_create("dpu-shared", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, FRONT_BYTES)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)  # nobody can pull it from under a worker
            header = np.frombuffer(_map(fd, "directory", 0, FRONT_BYTES), "u8", 2)
            header[_HEADER_WORKERS] = workers
            header[_HEADER_MAGIC] = MAGIC
            return cls(fd)
        except BaseException:
            os.close(fd)
            raise

    def entries(self):
        """List the regions there are. ValueError: one that is not inside the memory, or for other workers."""
        size = os.fstat(self.fd).st_size
        found = []
        for number in np.flatnonzero(self._rows["hash"]).tolist():
            row = self._rows[number]
            name = bytes(row["name"]).decode(errors="replace")
            entry = Entry(number, name, *(int(row[key]) for key in ("offset", "octets", "hash")))
            inside = FRONT_BYTES <= entry.offset <= entry.offset + entry.octets <= size
            if not inside or entry.offset % PAGE_BYTES or int(row["workers"]) != self.workers:
                raise ValueError(
                    f"shared memory of {size} octets and {self.workers} worker(s) has region {name!r} of"
                    f" {entry.octets} octets at {entry.offset}, for {row['workers']} worker(s)"
                )
            found.append(entry)
        return found

    def find(self, region, offset=None):
        """Entry of a region of just this layout, None without: the newest, or the one at `offset`."""
        wanted = region.name, region.place(self.workers)[1], region.hash
        found = [entry for entry in self.entries() if (entry.name, entry.octets, entry.hash) == wanted]
        found = [entry for entry in found if offset in (None, entry.offset)]
        return max(found, key=lambda entry: entry.offset, default=None)

    def map(self, region, entry):
        """The arrays of a region that `find` found, as attributes. Raises RegionError."""
        arrays, _ = region.place(self.workers)
        memory = _map(self.fd, entry.name, entry.offset, entry.octets)
        return SimpleNamespace(**{name: array.over(memory) for name, array in arrays.items()})

    def make(self, region):
        """Make a region, all zero; returns (entry, arrays). Raises RegionError, nothing left.

        A process that is killed in here leaves room that no entry names, or the whole region.
        """
        octets = region.place(self.workers)[1]
        free = np.flatnonzero(self._rows["hash"] == 0)
        if len(free) == 0:
            raise RegionError(region.name, octets, f"the directory is full, it has {ENTRIES_MAX} entries")
        offset = _up(os.fstat(self.fd).st_size, PAGE_BYTES)
        try:
            os.ftruncate(self.fd, offset + octets)
        except OSError as error:
            raise RegionError(region.name, octets, f"no room: {error.strerror}") from None
        entry = Entry(int(free[0]), region.name, offset, octets, region.hash)
        arrays = self.map(region, entry)
        row = self._rows[entry.number]
        row["name"], row["workers"] = region.name.encode(), self.workers
        row["offset"], row["octets"] = offset, octets
        row["hash"] = region.hash  # from here on it counts
        return entry, arrays

    def forget(self, entry):
        """Drop a region that no process uses, and give its pages back."""
        if self._rows[entry.number]["offset"] != entry.offset:
            return
        self._rows[entry.number]["hash"] = 0
        with contextlib.suppress(OSError), _map(self.fd, entry.name, entry.offset, entry.octets) as memory:
            memory.madvise(mmap.MADV_REMOVE)

    def at(self, name, offset, octets, arrays):
        """Arrays of a region as another process told them, {name: Array}. ValueError: it is not inside."""
        if not FRONT_BYTES <= offset <= offset + octets <= os.fstat(self.fd).st_size:
            raise ValueError(f"region {name!r} of {octets} octets at {offset} is not in the shared memory")
        memory = _map(self.fd, name, offset, octets)
        return {array: place.over(memory) for array, place in arrays.items()}


def _map(fd, name, offset, octets):
    """Map a piece of the memory. Raises RegionError."""
    try:
        return mmap.mmap(fd, octets, offset=offset)
    except OSError as error:
        raise RegionError(name, octets, f"mmap: {error.strerror}") from None
    except ValueError as error:  # of a memory that is shorter
        raise RegionError(name, octets, str(error)) from None
