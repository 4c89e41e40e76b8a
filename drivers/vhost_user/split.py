"""Split rings: take a chain, give it back, and who tells whom when.

Spec: virtio 1.2 2.7 (layout), 2.7.7 (used buffer notification suppression), 2.7.10 (available buffer
      notification suppression).
Cursor: the running 16-bit index of the available ring; the used ring's is the same, as chains go back in
order.
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
    second_word,
    split_flags,
    split_next,
    translate,
    wrong_direction,
)
from dpu_runtime.drivers.vhost_user.features import VIRTIO_F_EVENT_IDX
from dpu_runtime.drivers.vhost_user.layout import CHAIN_MAX, FAULT_AVAIL_INDEX, FAULT_CHAIN_ID
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.octets.atomic import fence, load_acquire_u16, load_once_u16, store_release_u16
from dpu_runtime.kernels.octets.memory import store_u16, store_u64

AVAIL_F_NO_INTERRUPT = 1  # virtio 1.2 2.7.6
USED_F_NO_NOTIFY = 1  # virtio 1.2 2.7.8
INDEX_OFFSET = 2  # octets, of both rings
ELEMENTS_OFFSET = 4
AVAIL_ELEMENT_BYTES = 2
USED_ELEMENT_BYTES = 8

_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_4 = np.uint64(4)
_8 = np.uint64(8)
_32 = np.uint64(32)
_EVENT_IDX = np.uint64(1 << VIRTIO_F_EVENT_IDX)


@helper
def split_waiting(ring, cursor):
    """Chains that wait at `cursor`; with more than the ring holds, it gets a fault and has none."""
    index = np.uint64(load_acquire_u16(ring["driver"] + np.uint64(INDEX_OFFSET)))
    waiting = (index - cursor) & LOW16
    if waiting > np.uint64(ring["size"]):
        ring["fault"] = FAULT_AVAIL_INDEX
        return _0
    return waiting


@helper
def split_take(ring, cursor, regions, n_regions, writable, pieces, guests, first):
    """Walk the chain at `cursor` into `pieces[first:]`.

    ring      RING_DTYPE record, its `waiting` count is not looked at here
    regions   uint64[REGIONS_MAX, REGION_WORDS], the first `n_regions` are in use
    writable  bool, whether the driver must have lent the buffers for writing
    pieces    uint64[PIECES_MAX, 2]   out, struct iovec
    guests    uint64[PIECES_MAX]      out, their guest physical addresses

    Returns (pieces, octets, chain ID, cursor behind it); instead of pieces NOTHING when the ring got a
    fault, BAD_CHAIN or BAD_ADDRESS. No more than CHAIN_MAX descriptors are looked at, so a loop ends.
    """
    size = np.uint64(ring["size"])
    slot = cursor & (size - _1)
    head = np.uint64(load_once_u16(ring["driver"] + _4 + slot * _2))
    behind = (cursor + _1) & LOW16
    if head >= size:
        ring["fault"] = FAULT_CHAIN_ID
        return np.int64(NOTHING), _0, head, cursor
    table = ring["desc"]
    table_size = size
    at = head
    count = np.int64(0)
    octets = _0
    indirect = False
    for _ in range(CHAIN_MAX):
        if at >= table_size:
            return np.int64(BAD_CHAIN), octets, head, behind
        guest = first_word(table, at)
        word = second_word(table, at)
        flags = split_flags(word)
        length = desc_length(word)
        if flags & np.uint64(DESC_F_INDIRECT):
            table = translate(regions, n_regions, guest, length)
            table_size = length // np.uint64(DESC_BYTES)
            if indirect or flags & np.uint64(DESC_F_NEXT) or length % np.uint64(DESC_BYTES):
                return np.int64(BAD_CHAIN), octets, head, behind
            if table == _0:
                return np.int64(BAD_ADDRESS), octets, head, behind
            indirect = True
            at = _0
            continue
        if wrong_direction(flags, writable):
            return np.int64(BAD_CHAIN), octets, head, behind
        if length != _0:
            if not add_piece(pieces, guests, first + np.uint64(count), regions, n_regions, guest, length):
                return np.int64(BAD_ADDRESS), octets, head, behind
            count += 1
            octets += length
        if not flags & np.uint64(DESC_F_NEXT):
            if count == 0:
                return np.int64(BAD_CHAIN), octets, head, behind
            return count, octets, head, behind
        at = split_next(word)
    return np.int64(BAD_CHAIN), octets, head, behind


@helper
def split_give(ring, cursor, chain, written):
    """Put a chain into the used ring at `cursor`, with the octets written to it."""
    slot = cursor & np.uint64(ring["size"] - 1)
    store_u64(ring["device"] + _4 + slot * _8, chain | (written << _32))


@helper
def split_publish(ring, cursor):
    """Let the driver see the used elements before `cursor`."""
    store_release_u16(ring["device"] + _2, cursor)


@helper
def split_wants_call(ring, cursor):
    """Whether the driver wants to be told of what was published since the last call."""
    fence()  # what it wants is read after what it got is written
    old = np.uint64(ring["signalled"])
    if not ring["features"] & _EVENT_IDX:
        return np.uint64(load_once_u16(ring["driver"])) & np.uint64(AVAIL_F_NO_INTERRUPT) == _0
    valid = ring["signalled_valid"]
    ring["signalled"] = cursor
    ring["signalled_valid"] = 1
    at = ring["driver"] + _4 + _2 * np.uint64(ring["size"])  # used_event
    event = np.uint64(load_once_u16(at))
    return valid == 0 or ((cursor - event - _1) & LOW16) < ((cursor - old) & LOW16)


@helper
def split_quiet(ring):
    """Ask the driver not to kick."""
    if not ring["features"] & _EVENT_IDX:  # with it, an avail_event that stays behind says so
        store_u16(ring["device"], np.uint64(USED_F_NO_NOTIFY))


@helper
def split_ask_kick(ring, cursor):
    """Ask the driver to kick with its next chain; returns whether one waits already."""
    if ring["features"] & _EVENT_IDX:
        store_u16(ring["device"] + _4 + _8 * np.uint64(ring["size"]), cursor)  # avail_event
    else:
        store_u16(ring["device"], _0)
    fence()  # a driver that did not see this has its chain in the ring by now
    return np.uint64(load_acquire_u16(ring["driver"] + _2)) != cursor
