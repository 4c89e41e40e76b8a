"""Guest memory: from guest physical addresses to ours, and descriptor chains to lists of pieces.

Spec: virtio 1.2 2.7.5 (descriptor table), 2.7.5.3 (indirect), 2.8.6 (packed, the same flags).
In:   a descriptor's words, each read once. Out: struct iovec entries in our addresses.
Not:  which descriptor comes next; split.py and packed.py know their rings.
"""

import numpy as np

from dpu_runtime.drivers.vhost_user.layout import REGION_GUEST, REGION_LOCAL, REGION_SIZE
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.octets.atomic import load_once_u64

DESC_F_NEXT = 1  # virtio 1.2 2.7.5
DESC_F_WRITE = 2
DESC_F_INDIRECT = 4
DESC_BYTES = 16

# what taking a chain says instead of a number of pieces
NOTHING = 0
BAD_CHAIN = -int(Drop.RING_CHAIN)
BAD_ADDRESS = -int(Drop.RING_ADDRESS)

_0 = np.uint64(0)
_8 = np.uint64(8)
_16 = np.uint64(16)
_32 = np.uint64(32)
LOW16 = np.uint64(0xFFFF)
LOW32 = np.uint64(0xFFFF_FFFF)


@helper
def translate(regions, count, guest, size):
    """Our address of guest physical [guest, guest + size); 0 unless one region holds all of it.

    regions  uint64[REGIONS_MAX, REGION_WORDS], the first `count` are in use
    """
    for k in range(count):
        offset = guest - regions[k, REGION_GUEST]
        length = regions[k, REGION_SIZE]
        if offset < length and size <= length - offset:
            return regions[k, REGION_LOCAL] + offset
    return _0


@helper
def add_piece(pieces, guests, at, regions, count, guest, size):
    """Append a buffer to a list of pieces; False when it is not the guest's memory."""
    addr = translate(regions, count, guest, size)
    pieces[at, 0] = addr
    pieces[at, 1] = size
    guests[at] = guest
    return addr != _0


@helper
def wrong_direction(flags, writable):
    """Whether a descriptor is for reading where it should be for writing, or the other way round."""
    return (flags & np.uint64(DESC_F_WRITE) != _0) != writable


@helper
def desc_length(word):
    """Octets of a descriptor, from its second word."""
    return word & LOW32


@helper
def split_flags(word):
    """DESC_F_* of a descriptor of a split ring or an indirect table of one."""
    return (word >> _32) & LOW16


@helper
def split_next(word):
    """Index of the descriptor that follows."""
    return word >> np.uint64(48)


@helper
def packed_flags(word):
    """Flags of a descriptor of a packed ring."""
    return word >> np.uint64(48)


@helper
def packed_id(word):
    """Buffer ID of a descriptor of a packed ring."""
    return (word >> _32) & LOW16


@helper
def first_word(desc, index):
    """Guest physical address in descriptor `index` of the table at `desc`."""
    return load_once_u64(desc + index * _16)


@helper
def second_word(desc, index):
    """Length, and flags and next or ID, of descriptor `index` of the table at `desc`."""
    return load_once_u64(desc + index * _16 + _8)
