"""The in-flight buffer: which chains were taken and not given back, for a back-end that comes after a crash.

Spec: vhost-user "Inflight I/O tracking": QueueRegionSplit and DescStateSplit, QueueRegionPacked and
      DescStatePacked, and the order in which they are written.
In:   the chains of a burst, after they were taken, before and after they are given back.
Not:  what is done with it after a crash (recovery.py). Nothing here is called without a buffer.

All chains of a burst go back before another burst takes some, the last one first. So the free list of a
packed ring's entries is in order whenever a burst begins, entry k + 1 behind entry k from 0 on, and what the
specification has us write into `next` is what is there. The buffer is shared with the front-end, which may
write anything into it: nothing that is read from it is used as an index here.
"""

import numpy as np

from dpu_runtime.drivers.vhost_user.chain import first_word, second_word
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.octets.atomic import fence_release, load_acquire_u16
from dpu_runtime.kernels.octets.memory import store_u8, store_u16, store_u64

# QueueRegionSplit, octets from its start
SPLIT_LAST_BATCH_HEAD = 12
SPLIT_USED_IDX = 14
SPLIT_DESC = 16
# DescStateSplit: octets from its start, and the same place in a packed ring's
STATE_INFLIGHT = 0
SPLIT_NEXT = 6
SPLIT_COUNTER = 8
SPLIT_STATE_BYTES = 16
# QueueRegionPacked
PACKED_FREE_HEAD = 12
PACKED_OLD_FREE_HEAD = 14
PACKED_USED_IDX = 16
PACKED_OLD_USED_IDX = 18
PACKED_USED_WRAP = 20
PACKED_OLD_USED_WRAP = 21
PACKED_DESC = 32
# DescStatePacked
PACKED_NEXT = 2
PACKED_LAST = 4
PACKED_NUM = 6
PACKED_COUNTER = 8
PACKED_ID = 16  # then flags, then len: of a descriptor's second word, len comes first
PACKED_ADDR = 24
PACKED_STATE_BYTES = 32
# of both regions
REGION_VERSION = 8
REGION_DESC_NUM = 10
VERSION = 1

_0 = np.uint64(0)
_1 = np.uint64(1)
_32 = np.uint64(32)
_POSITION = np.uint64(0x7FFF)
_WRAP_SHIFT = np.uint64(15)


@helper
def _split_state(region, head):
    return region + np.uint64(SPLIT_DESC) + head * np.uint64(SPLIT_STATE_BYTES)


@helper
def _packed_state(region, entry):
    return region + np.uint64(PACKED_DESC) + entry * np.uint64(PACKED_STATE_BYTES)


@helper
def inflight_taken(ring, packed, ids, cursors, chains, end):
    """Mark the chains of a burst as in flight.

    ids      uint16[n]   their heads (split) or buffer IDs (packed); the first `chains` are valid
    cursors  uint32[n]   where each begins
    end      uint64      cursor behind the last
    """
    region = np.uint64(ring["inflight"])
    counter = np.uint64(ring["tracked"])
    entry = _0
    for k in range(chains):
        if packed:
            behind = np.uint64(cursors[k + 1]) if k + 1 < chains else end
            entry = _take_packed(ring, region, np.uint64(cursors[k]), behind, entry, counter)
        else:
            state = _split_state(region, np.uint64(ids[k]))
            store_u64(state + np.uint64(SPLIT_COUNTER), counter)
            fence_release()
            store_u8(state + np.uint64(STATE_INFLIGHT), _1)
        counter += _1
    ring["tracked"] = counter


@helper
def _take_packed(ring, region, cursor, behind, entry, counter):
    """Copy the descriptors of a chain to the entries from `entry` on; returns the next free one."""
    size = np.uint64(ring["size"])
    head = _packed_state(region, entry)
    position = cursor & _POSITION
    last = behind & _POSITION
    number = _0
    while entry < size and (number == _0 or position != last):
        word = second_word(ring["desc"], position)
        state = _packed_state(region, entry)
        store_u64(state + np.uint64(PACKED_ADDR), first_word(ring["desc"], position))
        store_u64(state + np.uint64(PACKED_ID), (word >> _32) | (word << _32))
        if number == _0:
            store_u64(head + np.uint64(PACKED_COUNTER), counter)
        number += _1
        store_u16(head + np.uint64(PACKED_LAST), entry)
        store_u16(head + np.uint64(PACKED_NUM), number)
        entry += _1
        position = position + _1 if position + _1 < size else _0
    if number != _0:
        fence_release()
        store_u8(head + np.uint64(STATE_INFLIGHT), _1)
        store_u16(region + np.uint64(PACKED_FREE_HEAD), _wrapped(entry, size))
        store_u16(region + np.uint64(PACKED_OLD_FREE_HEAD), _wrapped(entry, size))
    return entry


@helper
def _wrapped(entry, size):
    """Value of `next` in the last entry: there is none behind it, so it names the first."""
    return entry if entry < size else _0


@helper
def inflight_giving(ring, packed, ids, chains, end):
    """Before the chains are given back: link them (split), or note where the ring will be (packed)."""
    region = np.uint64(ring["inflight"])
    if packed:
        store_u16(region + np.uint64(PACKED_FREE_HEAD), _0)
        store_u16(region + np.uint64(PACKED_USED_IDX), end & _POSITION)
        store_u8(region + np.uint64(PACKED_USED_WRAP), end >> _WRAP_SHIFT)
    else:
        last = np.uint64(load_acquire_u16(region + np.uint64(SPLIT_LAST_BATCH_HEAD)))
        for k in range(chains):
            head = np.uint64(ids[k])
            store_u16(_split_state(region, head) + np.uint64(SPLIT_NEXT), last)
            last = head
        store_u16(region + np.uint64(SPLIT_LAST_BATCH_HEAD), last)
    fence_release()


@helper
def inflight_given(ring, packed, ids, chains, begin, end):
    """After the driver may see the chains from cursor `begin` up to `end`: they are in flight no more."""
    region = np.uint64(ring["inflight"])
    fence_release()
    if packed:
        size = np.uint64(ring["size"])
        count = (end & _POSITION) - (begin & _POSITION)
        if (end & _POSITION) <= (begin & _POSITION):
            count += size
        for entry in range(np.int64(min(count, size))):
            store_u8(_packed_state(region, np.uint64(entry)) + np.uint64(STATE_INFLIGHT), _0)
        fence_release()
        store_u16(region + np.uint64(PACKED_OLD_FREE_HEAD), _0)
        store_u16(region + np.uint64(PACKED_OLD_USED_IDX), end & _POSITION)
        store_u8(region + np.uint64(PACKED_OLD_USED_WRAP), end >> _WRAP_SHIFT)
        return
    for k in range(chains):
        store_u8(_split_state(region, np.uint64(ids[k])) + np.uint64(STATE_INFLIGHT), _0)
    fence_release()
    store_u16(region + np.uint64(SPLIT_USED_IDX), end)
