"""A guest's memory for tests: regions between pages that fault, and an access outside ends the process."""

import ctypes
import mmap
import os

import numpy as np

from dpu_runtime.drivers.vhost_user.layout import REGION_GUEST, REGION_LOCAL, REGION_SIZE

PAGE_BYTES = mmap.PAGESIZE
FILL = 0xA5
_libc = ctypes.CDLL(None, use_errno=True)


class Region:
    """`size` octets at guest physical address `guest`, a faulting page in front and behind.

    It ends right in front of the page; `local` is its address, `octets` the memory as uint8[size].
    """

    def __init__(self, guest, size):
        self.guest, self.size = guest, size
        used = -(-size // PAGE_BYTES) * PAGE_BYTES
        self._area = mmap.mmap(-1, used + 2 * PAGE_BYTES)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._area))
        for page in (base, base + PAGE_BYTES + used):
            if _libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE_BYTES), 0) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        offset = PAGE_BYTES + used - size
        self.local = base + offset
        self.octets = np.frombuffer(self._area, np.uint8, size, offset)
        self.octets[:] = FILL


class GuestMemory:
    """All of a guest's regions, and an allocator that only goes up."""

    def __init__(self, *regions):
        self.regions = [Region(guest, size) for guest, size in regions]
        self._next = [0] * len(regions)

    def describe(self, rows, device):
        """Write the rows of layout.py."""
        for row, region in zip(rows, self.regions, strict=False):
            row[REGION_GUEST], row[REGION_SIZE], row[REGION_LOCAL] = region.guest, region.size, region.local
        device["regions"] = len(self.regions)

    def allocate(self, size, align=1, region=0, gap=0):
        """Guest physical address of `size` fresh octets."""
        at = -(-(self._next[region] + gap) // align) * align
        assert at + size <= self.regions[region].size, "the test's guest has too little memory"
        self._next[region] = at + size
        return self.regions[region].guest + at

    def view(self, guest, size):
        """The memory at a guest physical address, uint8[size]."""
        for region in self.regions:
            offset = guest - region.guest
            if offset >= 0 and offset + size <= region.size:
                return region.octets[offset : offset + size]
        raise AssertionError(f"the test's guest has no {size} octets at {guest:#x}")

    def local(self, guest):
        """Our address of a guest physical address."""
        return self.view(guest, 1).ctypes.data

    def write(self, guest, octets):
        """Put octets there."""
        self.view(guest, len(octets))[:] = np.frombuffer(bytes(octets), np.uint8)

    def read(self, guest, size):
        """Octets that are there."""
        return self.view(guest, size).tobytes()
