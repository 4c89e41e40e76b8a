"""Packed rings: take a chain, give it back, and who tells whom when.

Spec: virtio 1.2 2.8 (layout), 2.8.1 (wrap counters), 2.8.7 (indirect), 2.8.10.2 and 2.8.14 (event
      suppression).
Cursor: position of the next descriptor, and the wrap counter in WRAP_BIT: what events and SET_VRING_BASE
say too, and one 16-bit word, so a process that dies leaves a whole one.

The used descriptor of a chain is written where the chain began, so a chain takes as many positions as it
has descriptors in the ring. Where a batch will end is noted in `pending`; then its used descriptors are
written from the last to the first, which lets the driver see all of them; then the cursor moves. So a
process that dies in between leaves chains to give back in front of those it gave back, see recovery.py.
"""

import numpy as np

from dpu_runtime.drivers.vhost_user.chain import (
    BAD_ADDRESS,
    BAD_CHAIN,
    DESC_BYTES,
    DESC_F_INDIRECT,
    DESC_F_NEXT,
    LOW16,
    NOTHING,
    add_piece,
    desc_length,
    first_word,
    packed_flags,
    packed_id,
    second_word,
    translate,
    wrong_direction,
)
from dpu_runtime.drivers.vhost_user.features import VIRTIO_F_EVENT_IDX
from dpu_runtime.drivers.vhost_user.layout import CHAIN_MAX
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.octets.atomic import fence, load_acquire_u16, load_once_u32, store_release_u64
from dpu_runtime.kernels.octets.memory import store_u32

DESC_F_AVAIL = 1 << 7  # virtio 1.2 2.8.1
DESC_F_USED = 1 << 15
EVENT_FLAGS_ENABLE = 0  # virtio 1.2 2.8.10
EVENT_FLAGS_DISABLE = 1
EVENT_FLAGS_DESC = 2  # with EVENT_IDX: when this position is passed
WRAP_BIT = 1 << 15  # of a cursor and of an event's position

_0 = np.uint64(0)
_1 = np.uint64(1)
_8 = np.uint64(8)
_14 = np.uint64(14)
_16 = np.uint64(16)
_32 = np.uint64(32)
_48 = np.uint64(48)
_AVAIL = np.uint64(DESC_F_AVAIL)
_USED = np.uint64(DESC_F_USED)
_WRAP = np.uint64(WRAP_BIT)
_POSITION = np.uint64(WRAP_BIT - 1)
_EVENT_IDX = np.uint64(1 << VIRTIO_F_EVENT_IDX)


@helper
def _is_available(flags, cursor):
    """Whether the driver has made the descriptor at `cursor` available (2.8.1)."""
    wrap = cursor & _WRAP != _0
    return (flags & _AVAIL != _0) == wrap and (flags & _USED != _0) != wrap


@helper
def packed_waiting(ring, cursor):
    """The ring's size when a chain waits at `cursor`, else 0: a packed ring does not say how many."""
    flags = np.uint64(load_acquire_u16(ring["desc"] + (cursor & _POSITION) * _16 + _14))
    return np.uint64(ring["size"]) if _is_available(flags, cursor) else _0


@helper
def _after(ring, cursor, count):
    """`cursor`, `count` descriptors on; count <= size."""
    size = np.uint64(ring["size"])
    position = (cursor & _POSITION) + count
    wrap = cursor & _WRAP
    if position >= size:
        position -= size
        wrap ^= _WRAP
    return position | wrap


@helper
def packed_take(ring, cursor, regions, n_regions, writable, pieces, guests, first):
    """Walk the chain at `cursor` into `pieces[first:]`; as `split_take`.

    NOTHING also when no chain is available there.
    """
    size = np.uint64(ring["size"])
    at = cursor & _POSITION
    if not _is_available(np.uint64(load_acquire_u16(ring["desc"] + at * _16 + _14)), cursor):
        return np.int64(NOTHING), _0, _0, cursor
    count = np.int64(0)
    octets = _0
    result = np.int64(BAD_CHAIN)
    looked = _0
    word = _0
    limit = min(size, np.uint64(CHAIN_MAX))
    while looked < limit:
        guest = first_word(ring["desc"], at)
        word = second_word(ring["desc"], at)
        flags = packed_flags(word)
        looked += _1
        at = at + _1 if at + _1 < size else _0
        if flags & np.uint64(DESC_F_INDIRECT):
            if looked == _1 and not flags & np.uint64(DESC_F_NEXT):
                result, octets = _take_indirect(
                    guest, desc_length(word), regions, n_regions, writable, pieces, guests, first
                )
            break
        length = desc_length(word)
        if wrong_direction(flags, writable):
            break
        if length != _0:
            if not add_piece(pieces, guests, first + np.uint64(count), regions, n_regions, guest, length):
                result = np.int64(BAD_ADDRESS)
                break
            count += 1
            octets += length
        if not flags & np.uint64(DESC_F_NEXT):
            result = count if count > 0 else np.int64(BAD_CHAIN)
            break
    if result < 0:
        looked = _skip(ring, cursor, looked)
    # The buffer ID is in the last descriptor of the chain (2.8.6).
    last = _after(ring, cursor, looked - _1) & _POSITION
    return result, octets, packed_id(second_word(ring["desc"], last)), _after(ring, cursor, looked)


@helper
def _skip(ring, cursor, looked):
    """Descriptors of a bad chain of which `looked` were looked at: the next one begins behind all of them."""
    while looked < np.uint64(ring["size"]):
        last = _after(ring, cursor, looked - _1) & _POSITION
        if not packed_flags(second_word(ring["desc"], last)) & np.uint64(DESC_F_NEXT):
            break
        looked += _1
    return looked


@helper
def _take_indirect(guest, length, regions, n_regions, writable, pieces, guests, first):
    """Walk an indirect table, which is one chain from its first descriptor to its last (2.8.7).

    DPDK's driver marks what it sends as writable there. Reading that harms nobody; writing needs the mark.
    """
    if length == _0 or length % np.uint64(DESC_BYTES) or length > np.uint64(DESC_BYTES * CHAIN_MAX):
        return np.int64(BAD_CHAIN), _0
    table = translate(regions, n_regions, guest, length)
    if table == _0:
        return np.int64(BAD_ADDRESS), _0
    count = np.int64(0)
    octets = _0
    for k in range(np.int64(length // np.uint64(DESC_BYTES))):
        at = np.uint64(k)
        start = first_word(table, at)
        word = second_word(table, at)
        flags = packed_flags(word)
        size = desc_length(word)
        if flags & np.uint64(DESC_F_INDIRECT) or (writable and wrong_direction(flags, writable)):
            return np.int64(BAD_CHAIN), _0
        if size == _0:
            continue
        if not add_piece(pieces, guests, first + np.uint64(count), regions, n_regions, start, size):
            return np.int64(BAD_ADDRESS), _0
        count += 1
        octets += size
    return count if count > 0 else np.int64(BAD_CHAIN), octets


@helper
def _used_flags(cursor, written):
    """Flags of a used descriptor: both marks are the wrap counter; F_WRITE says the length is valid."""
    flags = _AVAIL | _USED if cursor & _WRAP != _0 else _0
    return flags | np.uint64(2) if written != _0 else flags


@helper
def packed_give(ring, cursor, chain, written):
    """Write the used descriptor of the chain that began at `cursor`, in one piece."""
    at = ring["desc"] + (cursor & _POSITION) * _16 + _8
    store_release_u64(at, written | (chain << _32) | (_used_flags(cursor, written) << _48))


@helper
def packed_wants_call(ring, cursor):
    """Whether the driver wants to be told of what was published since the last call."""
    fence()  # what it wants is read after what it got is written
    word = np.uint64(load_once_u32(ring["driver"]))
    flags = word >> _16
    old = np.uint64(ring["signalled"])
    valid = ring["signalled_valid"]
    ring["signalled"] = cursor
    ring["signalled_valid"] = 1
    if flags != np.uint64(EVENT_FLAGS_DESC) or not ring["features"] & _EVENT_IDX:
        return flags != np.uint64(EVENT_FLAGS_DISABLE)
    if valid == 0:
        return True
    # as 16-bit running numbers, those before the last wrap below zero
    size = np.uint64(ring["size"])
    event = word & _POSITION
    if (word ^ cursor) & _WRAP != _0:
        event -= size
    begin = old & _POSITION
    if (old ^ cursor) & _WRAP != _0:
        begin -= size
    new = cursor & _POSITION
    return ((new - event - _1) & LOW16) < ((new - begin) & LOW16)


@helper
def packed_quiet(ring):
    """Ask the driver not to kick."""
    store_u32(ring["device"], np.uint64(EVENT_FLAGS_DISABLE) << _16)


@helper
def packed_ask_kick(ring, cursor):
    """Ask the driver to kick with its next chain; returns whether one waits already."""
    if ring["features"] & _EVENT_IDX:
        store_u32(ring["device"], cursor | (np.uint64(EVENT_FLAGS_DESC) << _16))
    else:
        store_u32(ring["device"], np.uint64(EVENT_FLAGS_ENABLE))
    fence()  # a driver that did not see this has its chain in the ring by now
    return packed_waiting(ring, cursor) != _0
