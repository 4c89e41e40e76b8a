"""Either ring format by the same calls; `packed` says which.

Cursor: where in the ring, a number that only its format understands (split.py, packed.py).
"""

import numpy as np

from dpu_runtime.drivers.vhost_user.features import VIRTIO_F_RING_PACKED
from dpu_runtime.drivers.vhost_user.packed import (
    packed_ask_kick,
    packed_give,
    packed_quiet,
    packed_take,
    packed_waiting,
    packed_wants_call,
)
from dpu_runtime.drivers.vhost_user.split import (
    split_ask_kick,
    split_give,
    split_publish,
    split_quiet,
    split_take,
    split_waiting,
    split_wants_call,
)
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.octets.atomic import fence_release
from dpu_runtime.kernels.octets.memory import prefetch

_PACKED = np.uint64(1 << VIRTIO_F_RING_PACKED)
_0 = np.uint64(0)
_16 = np.uint64(16)
_POSITION = np.uint64(0x7FFF)  # of a cursor, without a packed ring's wrap counter
_AHEAD = np.uint64(16)  # descriptors: four cache lines


@helper
def ring_is_packed(ring):
    """Whether a ring's format is packed."""
    return ring["features"] & _PACKED != _0


@helper
def ring_cursor(ring):
    """Where the ring stands between two bursts."""
    return np.uint64(ring["next"])


@helper
def ring_waiting(ring, packed, cursor):
    """Chains that wait at `cursor`; a packed ring with any says its size, and `ring_take` finds the end."""
    if packed:
        return packed_waiting(ring, cursor)
    return split_waiting(ring, cursor)


@helper
def prefetch_descriptor(ring, cursor):
    """Ask for a descriptor some way ahead: drivers mostly use them in the order of the ring."""
    position = (cursor + _AHEAD) & _POSITION
    size = np.uint64(ring["size"])
    if position >= size:
        position &= size - np.uint64(1)  # exact in a split ring; in a packed one good enough
    prefetch(ring["desc"] + position * _16)


@helper
def ring_take(ring, packed, cursor, regions, n_regions, writable, pieces, guests, first):
    """Walk the chain at `cursor` into `pieces[first:]`; see `split_take`."""
    if packed:
        return packed_take(ring, cursor, regions, n_regions, writable, pieces, guests, first)
    return split_take(ring, cursor, regions, n_regions, writable, pieces, guests, first)


@helper
def ring_begin(ring, end):
    """Note that the chains from the cursor up to `end` are about to be given back."""
    ring["pending"] = end


@helper
def ring_give(ring, packed, cursor, chain, written):
    """Give back the chain that was taken at `cursor`, with `written` octets in it.

    From a batch's last chain to its first: with a packed ring, that one lets the driver see them all.
    """
    if packed:
        packed_give(ring, cursor, chain, written)
        return
    split_give(ring, cursor, chain, written)


@helper
def ring_publish(ring, packed, end):
    """Let the driver see what was given back up to `end`, and move the cursor."""
    if not packed:
        split_publish(ring, end)
    fence_release()
    ring["next"] = end


@helper
def ring_wants_call(ring, packed, cursor):
    """Whether the driver wants to be told of what was published up to `cursor`."""
    if packed:
        return packed_wants_call(ring, cursor)
    return split_wants_call(ring, cursor)


@helper
def ring_quiet(ring, packed):
    """Ask the driver not to kick."""
    if ring["quiet"] == 0:
        ring["quiet"] = 1
        if packed:
            packed_quiet(ring)
        else:
            split_quiet(ring)


@helper
def ring_ask_kick(ring, packed, cursor):
    """Ask the driver to kick with its next chain; returns whether one waits already."""
    ring["quiet"] = 0
    if packed:
        return packed_ask_kick(ring, cursor)
    return split_ask_kick(ring, cursor)
