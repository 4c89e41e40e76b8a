"""Frames of the UMEM: the stack of free ones, and packets copied into them.

In/out: `xdp_pool`, `xdp_free`, `xdp_holder` of layout.py. A frame is at every moment in one place:
on the stack, in the hand of one worker, or in a queue of the port that `xdp_holder` names.
Not:  the rings (rings.py).
"""

import numpy as np

from dpu_runtime.drivers.af_xdp.layout import (
    FRAME_BYTES,
    FRAME_SHIFT,
    HOLDER_NONE,
    POOL_FREE,
    POOL_LOCK,
    POOL_UMEM,
)
from dpu_runtime.kernels.checksum.payload import copy_octets
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.octets.atomic import pause, store_release_u32, try_lock
from dpu_runtime.kernels.octets.memory import address_of

NO_FRAME = 0xFFFF_FFFF  # in the list of a burst: the frame was handed on

_0 = np.uint64(0)
_1 = np.uint64(1)
_SHIFT = np.uint64(FRAME_SHIFT)
_FRAME_BYTES = np.uint64(FRAME_BYTES)
_LOCK_OFFSET = np.uint64(POOL_LOCK * 8)


@helper
def lock_pool(pool):
    """Keep other workers from the stack, which they wait for no longer than a burst's frames take."""
    lock = address_of(pool) + _LOCK_OFFSET
    while not try_lock(lock):
        pause()
    return lock


@helper
def unlock_pool(lock):
    """Let other workers at the stack."""
    store_release_u32(lock, _0)


@helper
def give_frames(pool, free, holder, frames, count):
    """Put `frames[:count]` on the stack, those that are not NO_FRAME."""
    lock = lock_pool(pool)
    top = pool[POOL_FREE]
    for k in range(np.uint64(count)):
        frame = np.uint64(frames[k])
        if frame != np.uint64(NO_FRAME):
            free[top] = frame
            holder[frame] = HOLDER_NONE
            top += _1
    pool[POOL_FREE] = top
    unlock_pool(lock)


@helper
def take_frames(pool, free, frames, count):
    """Take `count` frames off the stack; whether it had as many."""
    wanted = np.uint64(count)
    lock = lock_pool(pool)
    found = pool[POOL_FREE] >= wanted
    if found:
        top = pool[POOL_FREE] - wanted
        for k in range(wanted):
            frames[k] = free[top + k]
        pool[POOL_FREE] = top
    unlock_pool(lock)
    return found


@helper
def frames_of(size):
    """Frames that a packet of `size` octets is copied to."""
    return (np.uint64(size) + _FRAME_BYTES - _1) >> _SHIFT


@helper
def copy_to_frame(headers, meta, i, number, frame, pool):
    """Copy what belongs into frame `number` of packet `i`; returns (its address in the UMEM, octets)."""
    m = meta[i]
    done = np.uint64(number) << _SHIFT
    size = min(np.uint64(m["frame_len"]) - done, _FRAME_BYTES)
    address = np.uint64(frame) << _SHIFT
    copy_octets(headers, meta, i, np.uint64(m["l2_offset"]) + done, size, pool[POOL_UMEM] + address)
    return address, size
