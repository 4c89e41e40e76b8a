"""Bursts of descriptor chains: taken from a guest's transmit ring, reserved in another's receive ring.

In:   rings and regions of io.py. Out: lists of pieces and targets in it, cursors, notifications.
Not:  octets of frames (frames.py), the ring formats (split.py, packed.py).
"""

import numpy as np

from dpu_runtime.drivers.linux.libc import write
from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.drivers.vhost_user.chain import NOTHING
from dpu_runtime.drivers.vhost_user.dirty_log import log_write
from dpu_runtime.drivers.vhost_user.features import VIRTIO_NET_F_MRG_RXBUF
from dpu_runtime.drivers.vhost_user.inflight_log import inflight_given, inflight_giving, inflight_taken
from dpu_runtime.drivers.vhost_user.io import PIECES_MAX
from dpu_runtime.drivers.vhost_user.layout import CHAIN_MAX, FAULT_BUFFER, NO_LOG, RING_DTYPE, RINGS_MAX
from dpu_runtime.drivers.vhost_user.ring import (
    prefetch_descriptor,
    ring_begin,
    ring_cursor,
    ring_give,
    ring_publish,
    ring_quiet,
    ring_take,
    ring_waiting,
    ring_wants_call,
)
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import BATCH_SIZE, BURST_BYTES_MAX
from dpu_runtime.kernels.octets.atomic import pause, store_release_u32, try_lock
from dpu_runtime.kernels.octets.memory import address_of, prefetch, prefetch_write
from dpu_runtime.kernels.offload.virtio_net import VNET_HDR_BYTES

_0 = np.uint64(0)
_1 = np.uint64(1)
_VNET = np.uint64(VNET_HDR_BYTES)
_LOCK_OFFSET = np.uint64(RING_DTYPE.fields["lock"][1])
_RING_BYTES = np.uint64(RING_DTYPE.itemsize)
_MRG_RXBUF = np.uint64(1 << VIRTIO_NET_F_MRG_RXBUF)
_LINE = np.uint64(64)
_LENGTH_MAX = np.uint64(0xFFFF_FFFF)
_BATCH_SIZE = np.uint64(BATCH_SIZE)
_CHAIN_MAX = np.uint64(CHAIN_MAX)
_PIECES_MAX = np.uint64(PIECES_MAX)


@helper
def runs(ring):
    """Whether packets may be taken from a ring or put into it; a disabled one is still emptied."""
    return ring["configured"] != 0 and ring["started"] != 0 and ring["fault"] == 0


@helper
def take_burst(io, port, ring, packed, meta, drops):
    """Walk the chains that wait, up to a burst; ask for the memory of each ahead of its use.

    meta[p] gets payload_addr = its first piece, payload_len = how many, frame_len = octets less the
    virtio-net header, 0 when that is all there is.
    Returns (chains taken, packets, chains that were no packet).
    """
    regions = io.regions[port]
    n_regions = np.int64(io.devices[port]["regions"])
    cursor = ring_cursor(ring)
    waiting = min(ring_waiting(ring, packed, cursor), np.uint64(BATCH_SIZE))
    taken = _0  # unsigned: an index that might be negative costs a comparison
    packets = _0
    bad = _0
    octets = _0
    first = _1
    while taken < waiting and octets < np.uint64(BURST_BYTES_MAX):
        io.cursors[taken] = cursor
        prefetch_descriptor(ring, cursor)
        count, size, chain, cursor = ring_take(
            ring, packed, cursor, regions, n_regions, False, io.pieces, io.target_guest, first
        )
        if count == NOTHING:
            break
        io.ids[taken] = chain
        taken += _1
        if count < 0:
            drops[-count] += _1
            bad += _1
            continue
        prefetch(io.pieces[first, 0])
        prefetch(io.pieces[first, 0] + _LINE)
        m = meta[packets]
        m["payload_addr"] = first
        m["payload_len"] = count
        m["frame_len"] = min(max(size, _VNET) - _VNET, _LENGTH_MAX)
        packets += _1
        octets += size
        first += np.uint64(count) + _1
    io.cursors[taken] = cursor
    ring["bad_chains"] += bad
    if ring["inflight"] != _0:
        inflight_taken(ring, packed, io.ids, io.cursors, np.int64(taken), cursor)
    return np.int64(taken), np.int64(packets), bad


@helper
def receive_ring(io, port):
    """Receive ring of the guest that the burst at hand goes to, -1: none is running.

    Packets of one transmit queue stay together, so they stay in order.
    """
    pairs = np.int64(io.devices[port]["pairs"])
    if pairs == 0:
        return np.int64(-1)
    pair = np.int64(io.rx_queue[0])
    if pair >= pairs:
        pair = pair % pairs
    for _ in range(pairs):
        ring = io.rings[port, 2 * pair]
        if runs(ring) and ring["enabled"] != 0:
            return 2 * pair
        pair += 1
        if pair == pairs:
            pair = np.int64(0)
    return np.int64(-1)


@helper
def reserve_burst(io, port, ring, packed, cursor, meta, packets, first, end):
    """Find buffers for `packets[first:end]`, and ask for their memory ahead of its use.

    Returns (frames that have some, cursor behind these, packets larger than any buffer); the rest found
    the ring empty. Frame f is packet tx_order[f]; its buffers are
    targets[tx_targets[f] : tx_targets[f + 1]], of chains tx_chains[f] : tx_chains[f + 1].
    """
    regions = io.regions[port]
    n_regions = np.int64(io.devices[port]["regions"])
    waiting = ring_waiting(ring, packed, cursor)
    mergeable = ring["features"] & _MRG_RXBUF != _0
    frames = _0  # unsigned: an index that might be negative costs a comparison
    chains = _0
    targets = _0
    too_large = np.int64(0)
    io.tx_targets[0] = 0
    io.tx_chains[0] = 0
    for k in range(np.uint64(first), np.uint64(end)):
        need = _VNET + np.uint64(meta[np.uint64(packets[k])]["frame_len"])
        room = _0
        at = cursor
        chain = chains
        target = targets
        while room < need:
            if chain > chains and (not mergeable or chain - chains == _BATCH_SIZE):
                too_large += 1
                break
            if chain >= waiting or target + _CHAIN_MAX > _PIECES_MAX:
                break
            io.tx_cursors[chain] = at
            prefetch_descriptor(ring, at)
            found, size, number, at = ring_take(
                ring, packed, at, regions, n_regions, True, io.targets, io.target_guest, target
            )
            if found <= NOTHING:
                if found < 0:
                    ring["fault"] = FAULT_BUFFER
                waiting = chain  # no more than was found so far
                break
            io.tx_ids[chain] = number
            io.tx_sizes[chain] = min(size, need - room)
            prefetch_write(io.targets[target, 0])
            prefetch_write(io.targets[target, 0] + _LINE)
            room += size
            chain += _1
            target += np.uint64(found)
        if room < need:
            continue
        cursor = at
        chains = chain
        targets = target
        io.tx_order[frames] = packets[k]
        frames += _1
        io.tx_chains[frames] = chains
        io.tx_targets[frames] = targets
    return np.int64(frames), cursor, too_large


@helper
def count_tx(io, port, ring, frames, octets, count, too_large, drops):
    """Book a burst of `count` packets for a guest, of which `frames` found buffers."""
    counters = io.counters[port]
    counters[PortCounter.TX_PACKETS] += np.uint64(frames)
    counters[PortCounter.TX_BYTES] += octets
    counters[PortCounter.TX_CALLS] += _1
    if frames != count:
        dropped = np.uint64(count - frames)
        ring["dropped"] += dropped
        counters[PortCounter.TX_DROPPED] += dropped
        drops[Drop.RING_BUFFER] += np.uint64(too_large)
        drops[Drop.TX_FULL] += dropped - np.uint64(too_large)


@helper
def track_reserved(io, ring, packed, frames, end):
    """Note in the in-flight buffer, if there is one, that the reserved chains are about to be filled."""
    if ring["inflight"] != _0:
        chains = np.int64(io.tx_chains[frames])
        inflight_taken(ring, packed, io.tx_ids, io.tx_cursors, chains, end)


@helper
def give_reserved(io, port, ring, packed, frames, end):
    """Give the reserved chains back, filled, to the driver; `end` is the cursor behind them."""
    chains = np.int64(io.tx_chains[frames])
    ring_begin(ring, end)
    if ring["inflight"] != _0:
        inflight_giving(ring, packed, io.tx_ids, chains, end)
    for k in range(chains - 1, -1, -1):
        ring_give(ring, packed, np.uint64(io.tx_cursors[k]), np.uint64(io.tx_ids[k]), io.tx_sizes[k])
    if io.devices[port]["log_addr"] != _0:
        _log_targets(io, port, np.int64(io.tx_targets[frames]))
    ring_quiet(ring, packed)
    publish(io, port, ring, packed, io.tx_ids, chains, end)


@helper
def _log_targets(io, port, targets):
    """Mark what was written to a guest's buffers in its dirty log."""
    device = io.devices[port]
    for k in range(targets):
        log_write(device["log_addr"], device["log_bytes"], io.target_guest[k], io.targets[k, 1])


@helper
def publish(io, port, ring, packed, ids, chains, end):
    """Let the driver see the `chains` that were given back, and call it if it wants to be called."""
    begin = ring_cursor(ring)
    ring_publish(ring, packed, end)
    if ring["inflight"] != _0:
        inflight_given(ring, packed, ids, chains, begin, end)
    device = io.devices[port]
    if device["log_addr"] != _0 and ring["log"] != np.uint64(NO_LOG):
        size = np.uint64(ring["size"])
        log_write(device["log_addr"], device["log_bytes"], ring["log"], np.uint64(16) * size)
    if ring_wants_call(ring, packed, end) and ring["call_fd"] >= 0:
        ring["calls"] += _1
        io.words[0] = 1
        io.calling[0] = np.int64(ring["call_fd"]) + 1  # a driver that fills its eventfd is found by this
        write(ring["call_fd"], address_of(io.words), np.uint64(8))
        io.calling[0] = 0


@helper
def lock_ring(io, port, number):
    """Keep other workers from a receive ring, which they wait for a burst's time; returns what unlocks it."""
    row = np.uint64(port) * np.uint64(RINGS_MAX) + np.uint64(number)
    lock = address_of(io.rings) + row * _RING_BYTES + _LOCK_OFFSET
    while not try_lock(lock):
        pause()
    return lock


@helper
def unlock_ring(lock):
    """Let other workers at a receive ring."""
    store_release_u32(lock, _0)
