"""vhost_user port, compiled half: bursts from and to the rings of a port.

In/out: a batch, as in drivers/tap/queue.py. A received packet's payload stays in the guest's memory until
`vhost_done`, after the burst was sent.
Not:  the ring formats (split.py, packed.py), moving octets (frames.py).
"""

import numpy as np

from drivers.io import PIECES_MAX
from drivers.libc import EAGAIN, write
from drivers.port import PortCounter
from drivers.vhost_user.chain import NOTHING
from drivers.vhost_user.dirty_log import log_write
from drivers.vhost_user.features import (
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_MRG_RXBUF,
)
from drivers.vhost_user.frames import frame_in, frame_out, prepare_vnet
from drivers.vhost_user.layout import CHAIN_MAX, FAULT_BUFFER, NO_LOG, RING_DTYPE, RINGS_MAX
from drivers.vhost_user.ring import (
    ring_ask_kick,
    ring_cursor,
    ring_give,
    ring_is_packed,
    ring_publish,
    ring_quiet,
    ring_take,
    ring_waiting,
    ring_wants_call,
)
from kernels.atomic import store_release_u32, try_lock
from kernels.drops import Drop
from kernels.jit import helper
from kernels.layout import BATCH_SIZE, BURST_BYTES_MAX
from kernels.memory import address_of, prefetch, prefetch_write
from kernels.virtio_net import VNET_HDR_BYTES

_0 = np.uint64(0)
_1 = np.uint64(1)
_VNET = np.uint64(VNET_HDR_BYTES)
_LOCK_OFFSET = np.uint64(RING_DTYPE.fields["lock"][1])
_RING_BYTES = np.uint64(RING_DTYPE.itemsize)
_GUEST_CSUM = np.uint64(1 << VIRTIO_NET_F_GUEST_CSUM)
_MRG_RXBUF = np.uint64(1 << VIRTIO_NET_F_MRG_RXBUF)
_LINE = np.uint64(64)
_LENGTH_MAX = np.uint64(0xFFFF_FFFF)


@helper
def _runs(ring):
    """Whether packets may be taken from a ring or put into it; a disabled one is still emptied."""
    return ring["configured"] != 0 and ring["started"] != 0 and ring["fault"] == 0


@helper
def vhost_rx(io, port, headers, meta, counters, drops):
    """Receive a burst from one of the port's transmit rings that this worker polls, in turn.

    headers   uint8[BATCH_SIZE, ROW_BYTES]   out, virtio-net header and front of the frame
    meta      META_DTYPE[BATCH_SIZE]         out, placement fields and in_port
    counters  uint64[PORT_COUNTER_COUNT]     in/out, this worker's of this port

    Returns (packets, errno): 0 when a ring had packets, EAGAIN when none had. `vhost_done` must follow.
    """
    pairs = np.int64(io.devices[port]["pairs"])
    pair = np.int64(io.next_pair[port])
    io.taken[0] = 0
    looked = np.int64(io.worker)
    while looked < pairs:
        if pair >= pairs:
            pair = np.int64(io.worker)
        ring = io.rings[port, 2 * pair + 1]
        if _runs(ring):
            count = _rx_ring(io, port, ring, headers, meta, counters, drops)
            if io.taken[0] != 0:
                io.rx_queue[0] = pair
                io.next_pair[port] = pair + io.workers
                return count, np.int64(0)
        pair += io.workers
        looked += io.workers
    return np.int64(0), np.int64(EAGAIN)


@helper
def _rx_ring(io, port, ring, headers, meta, counters, drops):
    """Take chains from a ring and make packets of them; returns how many."""
    packed = ring_is_packed(ring)
    taken, packets, dropped = _take_burst(io, port, ring, packed, meta, drops)
    if taken == 0:
        return np.int64(0)
    io.taken[0] = taken
    ring_quiet(ring, packed)
    rows = address_of(headers)
    row_bytes = np.uint64(headers.shape[1])
    kept = np.int64(0)
    octets = _0
    for p in range(packets):
        first = np.int64(meta[p]["payload_addr"])
        count = np.int64(meta[p]["frame_len"])
        size = np.uint64(meta[p]["payload_len"])
        reason = frame_in(rows, row_bytes, kept, meta[kept], io.pieces, first, count, size, port)
        if reason != Drop.NONE:
            drops[reason] += _1
            dropped += _1
        else:
            octets += np.uint64(meta[kept]["frame_len"])
            kept += 1
    if ring["enabled"] == 0 and kept > 0:  # vhost-user "Ring states": process and discard
        drops[Drop.RING_DISABLED] += np.uint64(kept)
        dropped += np.uint64(kept)
        kept = np.int64(0)
        octets = _0
    counters[PortCounter.RX_PACKETS] += np.uint64(kept) + dropped
    counters[PortCounter.RX_DROPPED] += dropped
    counters[PortCounter.RX_BYTES] += octets
    counters[PortCounter.RX_CALLS] += _1
    return kept


@helper
def _take_burst(io, port, ring, packed, meta, drops):
    """Walk the chains that wait, up to a burst; ask for the memory of each ahead of its use.

    meta[p] gets, for `_rx_ring`, payload_addr = first piece, frame_len = pieces, payload_len = octets.
    Returns (chains taken, packets, chains that were no packet).
    """
    regions = io.regions[port]
    n_regions = np.int64(io.devices[port]["regions"])
    cursor = ring_cursor(ring)
    waiting = min(ring_waiting(ring, packed, cursor), np.uint64(BATCH_SIZE))
    taken = np.int64(0)
    packets = np.int64(0)
    bad = _0
    octets = _0
    first = np.int64(1)
    while taken < np.int64(waiting) and octets < np.uint64(BURST_BYTES_MAX):
        io.cursors[taken] = cursor
        count, size, chain, cursor = ring_take(
            ring, packed, cursor, regions, n_regions, False, io.pieces, io.target_guest, first
        )
        if count == NOTHING:
            break
        io.ids[taken] = chain
        taken += 1
        if count < 0:
            drops[-count] += _1
            bad += _1
            continue
        prefetch(io.pieces[first, 0])
        prefetch(io.pieces[first, 0] + _LINE)
        m = meta[packets]
        m["payload_addr"] = first
        m["frame_len"] = count
        m["payload_len"] = min(size, _LENGTH_MAX)
        packets += 1
        octets += size
        first += count + 1
    io.cursors[taken] = cursor
    ring["bad_chains"] += bad
    return taken, packets, bad


@helper
def vhost_done(io, port):
    """Give the chains of the last burst back: its packets were sent, or copied, or dropped."""
    taken = np.int64(io.taken[0])
    if taken == 0:
        return
    ring = io.rings[port, 2 * np.int64(io.rx_queue[0]) + 1]
    packed = ring_is_packed(ring)
    for k in range(taken):
        ring_give(ring, packed, np.uint64(io.cursors[k]), np.uint64(io.ids[k]), _0, k == 0)
    _publish(io, port, ring, packed, np.uint64(io.cursors[0]), np.uint64(io.cursors[taken]), _0)
    io.taken[0] = 0


@helper
def _publish(io, port, ring, packed, begin, end, written):
    """Let the driver see what was given back, and call it if it wants to be called."""
    ring_publish(ring, packed, begin, end, written)
    device = io.devices[port]
    if device["log_addr"] != _0 and ring["log"] != np.uint64(NO_LOG):
        size = np.uint64(ring["size"])
        log_write(device["log_addr"], device["log_bytes"], ring["log"], np.uint64(16) * size)
    if ring_wants_call(ring, packed, end) and ring["call_fd"] >= 0:
        ring["calls"] += _1
        io.iov[0] = 1
        write(ring["call_fd"], address_of(io.iov), np.uint64(8))


@helper
def _tx_ring(io, port):
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
        if _runs(ring) and ring["enabled"] != 0:
            return 2 * pair
        pair += 1
        if pair == pairs:
            pair = np.int64(0)
    return np.int64(-1)


@helper
def vhost_tx(io, port, headers, meta, order, count, counters, drops):
    """Copy packets `order[:count]` into the guest's receive buffers; what finds none is dropped."""
    number = _tx_ring(io, port)
    if number < 0:
        drops[Drop.PORT_DOWN] += np.uint64(count)
        counters[PortCounter.TX_DROPPED] += np.uint64(count)
        return
    ring = io.rings[port, number]
    lock = address_of(io.rings) + (np.uint64(port) * np.uint64(RINGS_MAX) + np.uint64(number)) * _RING_BYTES
    lock += _LOCK_OFFSET
    while not try_lock(lock):  # another worker sends to the same queue: a burst's time
        pass
    _tx_locked(io, port, ring, headers, meta, order, count, counters, drops)
    store_release_u32(lock, _0)


@helper
def _tx_locked(io, port, ring, headers, meta, order, count, counters, drops):
    """Reserve buffers for the whole burst, fill them, give them back: so that memory is asked for ahead."""
    packed = ring_is_packed(ring)
    begin = ring_cursor(ring)
    frames, end = _reserve_burst(io, port, ring, packed, begin, meta, order, count, counters, drops)
    if frames > 0:
        octets = _fill_burst(io, ring, headers, meta, frames)
        _give_burst(io, ring, packed, np.int64(io.tx_chains[frames]))
        if io.devices[port]["log_addr"] != _0:
            _log_targets(io, port, np.int64(io.tx_targets[frames]))
        ring_quiet(ring, packed)
        _publish(io, port, ring, packed, begin, end, io.tx_sizes[0])
        counters[PortCounter.TX_PACKETS] += np.uint64(frames)
        counters[PortCounter.TX_BYTES] += octets
    counters[PortCounter.TX_CALLS] += _1


@helper
def _reserve_burst(io, port, ring, packed, cursor, meta, order, count, counters, drops):
    """Find buffers for packets `order[:count]`; returns (frames that have some, cursor behind these).

    Frame f is packet tx_order[f]; its buffers are targets[tx_targets[f] : tx_targets[f + 1]], of chains
    tx_chains[f] : tx_chains[f + 1].
    """
    regions = io.regions[port]
    n_regions = np.int64(io.devices[port]["regions"])
    waiting = np.int64(ring_waiting(ring, packed, cursor))
    mergeable = ring["features"] & _MRG_RXBUF != _0
    frames = np.int64(0)
    chains = np.int64(0)
    targets = np.int64(0)
    io.tx_targets[0] = 0
    io.tx_chains[0] = 0
    for k in range(count):
        need = _VNET + np.uint64(meta[np.int64(order[k])]["frame_len"])
        room = _0
        reason = np.int64(Drop.NONE)
        at = cursor
        chain = chains
        target = targets
        while room < need:
            if chain >= waiting or target + CHAIN_MAX > PIECES_MAX:
                reason = np.int64(Drop.TX_FULL)
                break
            if chain > chains and (not mergeable or chain - chains == BATCH_SIZE):
                reason = np.int64(Drop.RING_BUFFER)
                break
            io.tx_cursors[chain] = at
            found, size, number, at = ring_take(
                ring, packed, at, regions, n_regions, True, io.targets, io.target_guest, target
            )
            if found <= NOTHING:
                if found < 0:
                    ring["fault"] = FAULT_BUFFER
                waiting = chain  # no more than was found so far
                reason = np.int64(Drop.TX_FULL)
                break
            io.tx_ids[chain] = number
            io.tx_sizes[chain] = min(size, need - room)
            prefetch_write(io.targets[target, 0])
            prefetch_write(io.targets[target, 0] + _LINE)
            room += size
            chain += 1
            target += found
        if reason != Drop.NONE:
            drops[reason] += _1
            counters[PortCounter.TX_DROPPED] += _1
            ring["dropped"] += _1
            continue
        cursor = at
        chains = chain
        targets = target
        io.tx_order[frames] = order[k]
        frames += 1
        io.tx_chains[frames] = chains
        io.tx_targets[frames] = targets
    return frames, cursor


@helper
def _fill_burst(io, ring, headers, meta, frames):
    """Copy the frames into their buffers; returns their octets, without the virtio-net headers."""
    offloads = ring["features"] & _GUEST_CSUM != _0
    rows = address_of(headers)
    row_bytes = np.uint64(headers.shape[1])
    octets = _0
    for f in range(frames):
        i = np.int64(io.tx_order[f])
        m = meta[i]
        buffers = np.int64(io.tx_chains[f + 1]) - np.int64(io.tx_chains[f])
        begin = prepare_vnet(headers[i], m, offloads, buffers)
        frame_out(rows + np.uint64(i) * row_bytes, begin, m, io.targets, np.int64(io.tx_targets[f]))
        octets += np.uint64(m["frame_len"])
    return octets


@helper
def _give_burst(io, ring, packed, chains):
    for k in range(chains):
        cursor = np.uint64(io.tx_cursors[k])
        ring_give(ring, packed, cursor, np.uint64(io.tx_ids[k]), io.tx_sizes[k], k == 0)


@helper
def _log_targets(io, port, targets):
    device = io.devices[port]
    for k in range(targets):
        log_write(device["log_addr"], device["log_bytes"], io.target_guest[k], io.targets[k, 1])


@helper
def vhost_kicked(io, port, number):
    """A kick came on ring `number`: it runs from now on."""
    ring = io.rings[port, number]
    ring["kicks"] += _1
    if ring["configured"] != 0:
        ring["started"] = 1
        if number % 2 == 0:
            ring_quiet(ring, ring_is_packed(ring))  # buffers for packets to come: no news


@helper
def vhost_ask_kicks(io, port):
    """Ask for a kick on every ring this worker polls; returns whether a packet waits already."""
    pairs = np.int64(io.devices[port]["pairs"])
    pair = np.int64(io.worker)
    waits = False
    while pair < pairs:
        ring = io.rings[port, 2 * pair + 1]
        if _runs(ring) and ring_ask_kick(ring, ring_is_packed(ring), ring_cursor(ring)):
            waits = True
        pair += io.workers
    return waits
