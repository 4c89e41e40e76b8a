"""Handing a packet to the control process, through a ring a worker; never waits.

In:   a packet of the burst.   Out: a slot of the ring, kernels/burst.py: the front of its frame.
Not:  who reads it, dpu_runtime/plane/punts.py.
"""

import numpy as np

from dpu_runtime.kernels.burst import PUNT_BYTES, PUNT_DTYPE, PUNT_HEAD, PUNT_SLOTS, PUNT_TAIL, Service, Word
from dpu_runtime.kernels.checksum.payload import copy_octets
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.octets.memory import address_of, load_acquire, store_release, store_u16, store_u32
from dpu_runtime.kernels.stage import drop

OCTETS_MAX = PUNT_BYTES - PUNT_DTYPE.itemsize

_0 = np.uint64(0)
_1 = np.uint64(1)
_SLOTS = np.uint64(PUNT_SLOTS)
_AT = {name: np.uint64(offset) for name, (_, offset) in PUNT_DTYPE.fields.items()}
_FRAME_LEN, _OCTETS, _IN_PORT = _AT["frame_len"], _AT["octets"], _AT["in_port"]
_FUNCTION, _TAG = _AT["function"], _AT["tag"]
_FRAME = np.uint64(PUNT_DTYPE.itemsize)
_OCTETS_MAX = np.uint64(OCTETS_MAX)


@helper
def punt(burst, state, packet, tag, full):
    """Hand `packet`, a row, to the control process; the stage takes it out of its list.

    tag   int, 32 bits for the reader     full  drop reason of the function where the ring has no room

    Returns whether it was handed over; else it was dropped.
    """
    if not _put(burst, state, packet, tag):
        drop(burst, state, packet, full)
        return False
    burst.services[Service.PUNTED] += _1
    burst.words[Word.TAKEN] += _1
    return True


@helper
def punt_copy(burst, state, packet, tag, full):
    """Hand a copy to the control process; the packet itself goes on. Returns whether there was room."""
    burst.services[Service.MADE] += _1
    if not _put(burst, state, packet, tag):
        state.drops[full] += _1
        return False
    burst.services[Service.PUNTED] += _1
    return True


@helper
def _put(burst, state, packet, tag):
    words = burst.punt_words
    head = words[PUNT_HEAD]
    if head - load_acquire(words, PUNT_TAIL) >= _SLOTS:  # a tail that lies is a full ring too
        return False
    m = burst.meta[packet]
    slot = address_of(burst.punt_slots[np.int64(head % _SLOTS)])
    size = min(np.uint64(m["frame_len"]), _OCTETS_MAX)
    store_u32(slot + _FRAME_LEN, np.uint64(m["frame_len"]))
    store_u32(slot + _OCTETS, size)
    store_u16(slot + _IN_PORT, np.uint64(m["in_port"]))
    store_u16(slot + _FUNCTION, np.uint64(state.number))
    store_u32(slot + _TAG, np.uint64(tag))
    copy_octets(burst.headers, burst.meta, packet, np.uint64(m["l2_offset"]), size, slot + _FRAME)
    store_release(words, PUNT_HEAD, head + _1)
    return True
