"""Memory with a page behind it that faults: reading one octet too far ends the process."""

import ctypes
import mmap
import os

import numpy as np

PAGE_BYTES = mmap.PAGESIZE
PROT_NONE = 0

_libc = ctypes.CDLL(None, use_errno=True)


def _forbid(area, offset):
    address = ctypes.addressof(ctypes.c_char.from_buffer(area)) + offset
    if _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE_BYTES), PROT_NONE) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def guarded_array(shape):
    """uint8 array whose last octet is followed by a page that faults."""
    return guarded_slots(int(np.prod(shape)), 1)[0].reshape(shape)


def guarded_slots(size, count):
    """`count` uint8 arrays of `size` octets, each followed by a page that faults."""
    used = -(-size // PAGE_BYTES) * PAGE_BYTES
    area = mmap.mmap(-1, count * (used + PAGE_BYTES))
    slots = []
    for number in range(count):
        end = number * (used + PAGE_BYTES) + used
        _forbid(area, end)
        slots.append(np.frombuffer(area, np.uint8, size, end - size))
    return slots
