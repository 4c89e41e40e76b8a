"""Dirty log: which pages of guest memory were written since the migration began.

Spec: vhost-user "Migration": bit `page % 8` of octet `page / 8`, page = guest physical address / 0x1000,
      set atomically, because the front-end reads and clears the log meanwhile.
In:   guest physical addresses, after the memory was written: the atomic or is a barrier, so the front-end,
      which clears a bit and then copies the page, sees at least what was written before the bit was set.
Not:  what lies beyond the log: it is not marked.
"""

import numpy as np

from dpu_runtime.drivers.vhost_user.layout import LOG_PAGE_BYTES
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.octets.memory import or_u8

PAGE_SHIFT = np.uint64(12)  # bits of an address
OCTET_SHIFT = np.uint64(3)  # bits of a page number
BIT_MASK = np.uint64(7)
ALL_BITS = np.uint64(0xFF)
ADDRESS_MAX = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
assert 1 << int(PAGE_SHIFT) == LOG_PAGE_BYTES


@helper
def log_write(log_addr, log_bytes, guest_addr, length):
    """Mark the pages of `length` octets at guest physical address `guest_addr` dirty.

    log_addr   uint64, address of the log; 0: no log is kept
    log_bytes  uint64, size of the log: it covers 8 * log_bytes pages
    """
    if log_addr == 0 or log_bytes == 0 or length == 0:
        return
    last_addr = guest_addr + (length - np.uint64(1))
    if last_addr < guest_addr:
        last_addr = ADDRESS_MAX
    first = guest_addr >> PAGE_SHIFT
    last = last_addr >> PAGE_SHIFT
    first_octet = first >> OCTET_SHIFT
    last_octet = last >> OCTET_SHIFT
    octet = first_octet
    while octet <= last_octet and octet < log_bytes:
        bits = ALL_BITS
        if octet == first_octet:
            bits = (bits << (first & BIT_MASK)) & ALL_BITS
        if octet == last_octet:
            bits = bits & (ALL_BITS >> (BIT_MASK - (last & BIT_MASK)))
        or_u8(log_addr + octet, bits)
        octet += np.uint64(1)
