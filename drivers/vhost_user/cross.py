"""Cross-connect: frames of one guest straight into the buffers of another, copied once.

In:   a burst as `take_burst` left it. Out: the frames in the other port's receive ring.
Not:  frames that owe a checksum or are to be cut: what they claim must be parsed and judged, so a burst
      with one of them goes through the rows; neither does this look at addresses, rules or VLANs.
"""

import numpy as np

from dpu_runtime.drivers.burst import book_down
from dpu_runtime.drivers.vhost_user.exchange import (
    count_tx,
    give_reserved,
    lock_ring,
    receive_ring,
    reserve_burst,
    track_reserved,
    unlock_ring,
)
from dpu_runtime.drivers.vhost_user.features import VIRTIO_NET_F_MRG_RXBUF
from dpu_runtime.drivers.vhost_user.frames import scatter
from dpu_runtime.drivers.vhost_user.ring import ring_cursor, ring_is_packed
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.layout import FRAME_BYTES_MAX
from dpu_runtime.kernels.octets.atomic import load_once_u16
from dpu_runtime.kernels.octets.memory import address_of, copy_short, store_u32, store_u64
from dpu_runtime.kernels.offload.virtio_net import NUM_BUFFERS_SHIFT, VNET_HDR_BYTES

_0 = np.uint64(0)
_1 = np.uint64(1)
_8 = np.uint64(8)
_VNET = np.uint64(VNET_HDR_BYTES)
_MRG_RXBUF = np.uint64(1 << VIRTIO_NET_F_MRG_RXBUF)


@helper
def cross_burst(io, out, meta, packets, drops):
    """Copy the `packets` of a burst to port `out`; what finds no buffer is dropped and counted there.

    Returns False, with nothing done, for a burst that must go through the rows.
    """
    number = receive_ring(io, out)
    if number < 0:
        book_down(packets, io.counters[out], drops)
        return True
    ring = io.rings[out, number]
    lock = lock_ring(io, out, number)
    packed = ring_is_packed(ring)
    frames, end, too_large = reserve_burst(
        io, out, ring, packed, ring_cursor(ring), meta, io.in_order, 0, packets
    )
    plain = _is_plain(io, meta, packets)  # only now: by now the headers are in the cache
    if plain:
        octets = _0
        if frames > 0:
            track_reserved(io, ring, packed, frames, end)
            octets = _fill(io, ring, meta, frames)
            give_reserved(io, out, ring, packed, frames, end)
        count_tx(io, out, ring, frames, octets, packets, too_large, drops)
    unlock_ring(lock)
    return plain


@helper
def _is_plain(io, meta, packets):
    """Whether no frame of a burst has offload metadata; its header and one octet are in one piece."""
    for p in range(packets):
        first = np.uint64(meta[p]["payload_addr"])
        size = np.int64(meta[p]["frame_len"])
        if size == 0 or size > FRAME_BYTES_MAX or io.pieces[first, 1] <= _VNET:
            return False
        if load_once_u16(io.pieces[first, 0]) != 0:  # flags and gso_type
            return False
    return True


@helper
def _fill(io, ring, meta, frames):
    mergeable = ring["features"] & _MRG_RXBUF != _0
    octets = _0
    for f in range(frames):
        m = meta[np.int64(io.tx_order[f])]
        first = np.uint64(m["payload_addr"])
        count = np.uint64(m["payload_len"])
        size = np.uint64(m["frame_len"])
        target = np.uint64(io.tx_targets[f])
        buffers = np.uint64(io.tx_chains[f + 1] - io.tx_chains[f]) if mergeable else _1
        if count == 1 and io.targets[target, 1] >= _VNET + size:
            to = io.targets[target, 0]
            store_u64(to, _0)
            store_u32(to + _8, buffers << NUM_BUFFERS_SHIFT)
            copy_short(to + _VNET, io.pieces[first, 0] + _VNET, size)
        else:
            _fill_pieces(io, first, count, target, buffers)
        octets += size
    return octets


@helper
def _fill_pieces(io, first, count, target, buffers):
    """Copy a frame in pieces, behind a header of its own, into targets that hold it."""
    io.words[0] = _0
    io.words[1] = buffers << NUM_BUFFERS_SHIFT
    at, offset = scatter(address_of(io.words), _VNET, io.targets, target, _0)
    at, offset = scatter(io.pieces[first, 0] + _VNET, io.pieces[first, 1] - _VNET, io.targets, at, offset)
    for k in range(first + _1, first + count):
        at, offset = scatter(io.pieces[k, 0], io.pieces[k, 1], io.targets, at, offset)
