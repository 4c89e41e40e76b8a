"""The four rings of an AF_XDP socket, this side of them.

Spec: linux/if_xdp.h, Documentation/networking/af_xdp.rst "Rings": one producer, one consumer; an index is
      published by a release store and read by an acquire load, and wraps at 32 bits.
In/out: rows of `xdp_queues`, the rings they name, the stack of free frames.
Not:  octets of packets.

    fill        we produce addresses of frames    ->  the kernel puts packets there
    rx          the kernel produces descriptors   ->  queue.py makes packets of them
    tx          we produce descriptors            ->  the kernel sends
    completion  the kernel produces addresses     ->  their frames are free
"""

import numpy as np

from dpu_runtime.drivers.af_xdp.frames import lock_pool, unlock_pool
from dpu_runtime.drivers.af_xdp.layout import (
    FILL_FRAMES,
    FRAME_SHIFT,
    HOLDER_GONE,
    HOLDER_NONE,
    POOL_FREE,
    RING_ENTRIES,
    XDP_QUEUE_DTYPE,
)
from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.octets.atomic import (
    load_acquire_u32,
    load_once_u32,
    pause,
    store_release_u32,
    try_lock,
)
from dpu_runtime.kernels.octets.memory import address_of, load_u64, store_u64

XDP_RING_NEED_WAKEUP = 1  # in a ring's flags
XDP_PKT_CONTD = np.uint64(1)  # in a descriptor's options: the packet goes on in the next one
POOL_ARRAYS = ("xdp_pool", "xdp_free", "xdp_holder")  # of the shared memory, as functions here take them
REFILL_FRAMES = 64  # fewer than these are not worth the lock

_0 = np.uint64(0)
_1 = np.uint64(1)
_8 = np.uint64(8)
_16 = np.uint64(16)
_32 = np.uint64(32)
_LOW32 = np.uint64(0xFFFF_FFFF)
_MASK = np.uint64(RING_ENTRIES - 1)
_SHIFT = np.uint64(FRAME_SHIFT)
_ROW_BYTES = np.uint64(XDP_QUEUE_DTYPE.itemsize)
_LOCK_OFFSET = np.uint64(XDP_QUEUE_DTYPE.fields["lock"][1])
assert RING_ENTRIES & (RING_ENTRIES - 1) == 0


@helper
def rx_waiting(row):
    """Where the receive ring goes on, and how many descriptors wait there."""
    begin = np.uint64(load_once_u32(row["rx_consumer"]))
    return begin, (np.uint64(load_acquire_u32(row["rx_producer"])) - begin) & _LOW32


@helper
def rx_descriptor(row, cursor):
    """Descriptor at a cursor: (address in the UMEM, octets, whether the packet goes on)."""
    entry = row["rx_entries"] + (cursor & _MASK) * _16
    word = load_u64(entry + _8)
    return load_u64(entry), word & _LOW32, (word >> _32) & XDP_PKT_CONTD != _0


@helper
def rx_release(row, cursor, frames):
    """The descriptors in front of `cursor`, of `frames` frames, were taken."""
    store_release_u32(row["rx_consumer"], cursor)
    row["posted"] -= np.uint32(frames)


@helper
def tx_put(row, cursor, address, size, more):
    """Write a descriptor at a cursor of the transmit ring."""
    entry = row["tx_entries"] + (cursor & _MASK) * _16
    store_u64(entry, address)
    store_u64(entry + _8, size | (XDP_PKT_CONTD << _32 if more else _0))


@helper
def post_frames(row, port, pool, free, holder):
    """Fill the fill ring up from the stack, when enough is missing."""
    wanted = np.uint64(FILL_FRAMES) - np.uint64(row["posted"])
    if wanted < np.uint64(REFILL_FRAMES):
        return
    cursor = np.uint64(load_once_u32(row["fill_producer"]))
    entries = row["fill_entries"]
    lock = lock_pool(pool)
    count = min(wanted, pool[POOL_FREE])
    top = pool[POOL_FREE] - count
    for k in range(count):
        frame = np.uint64(free[top + k])
        holder[frame] = port + 1
        store_u64(entries + ((cursor + k) & _MASK) * _8, frame << _SHIFT)
    pool[POOL_FREE] = top
    unlock_pool(lock)
    store_release_u32(row["fill_producer"], cursor + count)
    row["posted"] += np.uint32(count)


@helper
def reap(row, pool, free, holder):
    """Free the frames that were sent."""
    cursor = np.uint64(load_once_u32(row["completion_consumer"]))
    count = (np.uint64(load_acquire_u32(row["completion_producer"])) - cursor) & _LOW32
    if count == _0:
        return
    entries = row["completion_entries"]
    lock = lock_pool(pool)
    top = pool[POOL_FREE]
    for k in range(count):
        frame = load_u64(entries + ((cursor + k) & _MASK) * _8) >> _SHIFT
        free[top + k] = frame
        holder[frame] = HOLDER_NONE
    pool[POOL_FREE] = top + count
    unlock_pool(lock)
    store_release_u32(row["completion_consumer"], cursor + count)
    row["sending"] -= np.uint32(count)


@helper
def lock_sending(queues, port, queue):
    """Keep other workers from a transmit and completion ring; returns what unlocks it.

    They wait for a burst to be written, never for a system call.
    """
    number = np.uint64(port) * np.uint64(queues.shape[1]) + np.uint64(queue)
    lock = address_of(queues) + number * _ROW_BYTES + _LOCK_OFFSET
    while not try_lock(lock):
        pause()
    return lock


@helper
def unlock_sending(lock):
    """Let other workers at the rings."""
    store_release_u32(lock, _0)


@kernel
def start_queue(queues, port, queue, pool, free, holder):
    """Free what ports that are gone have left, and post the first frames of a queue; returns frames posted.

    queues  XDP_QUEUE_DTYPE[PORTS_MAX, workers]   in/out
    pool    uint64[16], free uint32[], holder uint16[]  in/out
    """
    row = queues[port, queue]
    if row["fill_producer"] == _0:
        return np.int64(0)  # there is no ring
    lock = lock_pool(pool)
    top = pool[POOL_FREE]
    for frame in range(len(holder)):
        if holder[frame] == HOLDER_GONE:
            holder[frame] = HOLDER_NONE
            free[top] = frame
            top += _1
    pool[POOL_FREE] = top
    unlock_pool(lock)
    post_frames(row, port, pool, free, holder)
    return np.int64(row["posted"])
