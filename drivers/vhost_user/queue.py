"""vhost_user port, compiled half: bursts from and to the rings of a port.

In/out: a burst, as in drivers/tap/queue.py. A received packet's payload stays in the guest's memory until
`vhost_done`, after the burst was sent.
Not:  the ring formats (split.py, packed.py), moving octets (frames.py).
"""

import numpy as np

from dpu_runtime.drivers.burst import book_down
from dpu_runtime.drivers.entry import Op, entry
from dpu_runtime.drivers.linux.libc import EAGAIN
from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.drivers.vhost_user.cross import cross_burst
from dpu_runtime.drivers.vhost_user.exchange import (
    count_tx,
    give_reserved,
    lock_ring,
    publish,
    receive_ring,
    reserve_burst,
    runs,
    take_burst,
    track_reserved,
    unlock_ring,
)
from dpu_runtime.drivers.vhost_user.features import VIRTIO_NET_F_GUEST_CSUM
from dpu_runtime.drivers.vhost_user.frames import frame_in, frame_out
from dpu_runtime.drivers.vhost_user.inflight_log import inflight_giving
from dpu_runtime.drivers.vhost_user.ring import (
    ring_ask_kick,
    ring_begin,
    ring_cursor,
    ring_give,
    ring_is_packed,
    ring_quiet,
)
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.octets.memory import address_of
from dpu_runtime.kernels.offload.virtio_net import encode_vnet

_0 = np.uint64(0)
_1 = np.uint64(1)
_GUEST_CSUM = np.uint64(1 << VIRTIO_NET_F_GUEST_CSUM)


@entry(Op.RX)
def vhost_rx(burst, io, port):
    """Receive a burst from one of the port's transmit rings that this worker polls, in turn.

    burst  Burst    out headers: virtio-net header and front of the frame; out meta: placement fields and
                    in_port
    io     VhostIo  out what the burst lies in; in/out counters, rings

    A port with a cross-connect has its plain packets sent here and now; `io.crossed` says how many.
    Returns (packets, errno): 0 when a ring had packets, EAGAIN when none had. `vhost_done` must follow.
    """
    pairs = np.int64(io.devices[port]["pairs"])
    pair = np.int64(io.next_pair[port])
    io.taken[0] = 0
    io.crossed[0] = 0
    looked = np.int64(io.worker)
    while looked < pairs:
        if pair >= pairs:
            pair = np.int64(io.worker)
        ring = io.rings[port, 2 * pair + 1]
        if runs(ring):
            count = _rx_ring(burst, io, port, ring)
            if io.taken[0] != 0:
                io.rx_queue[0] = pair
                io.next_pair[port] = pair + io.workers
                return count, np.int64(0)
        pair += io.workers
        looked += io.workers
    return np.int64(0), np.int64(EAGAIN)


@helper
def _rx_ring(burst, io, port, ring):
    """Take chains from a ring and make packets of them; returns how many."""
    meta, drops, counters = burst.meta, burst.drops, io.counters[port]
    packed = ring_is_packed(ring)
    taken, packets, bad = take_burst(io, port, ring, packed, meta, drops)
    if taken == 0:
        return np.int64(0)
    io.taken[0] = taken
    ring_quiet(ring, packed)
    out = np.int64(io.devices[port]["xconnect"]) - 1
    if out >= 0 and ring["enabled"] != 0 and cross_burst(io, out, meta, packets, drops):
        octets = _0
        for p in range(packets):
            octets += np.uint64(meta[p]["frame_len"])
        io.crossed[0] = packets
        kept = np.int64(0)
    else:
        kept, octets = _into_rows(burst, io, port, packets)
        if ring["enabled"] == 0:  # vhost-user "Ring states": process and discard
            drops[Drop.RING_DISABLED] += np.uint64(kept)
            kept = np.int64(0)
        counters[PortCounter.RX_DROPPED] += np.uint64(packets - kept)
    counters[PortCounter.RX_BYTES] += octets
    counters[PortCounter.RX_DROPPED] += bad
    counters[PortCounter.RX_PACKETS] += np.uint64(packets) + bad
    counters[PortCounter.RX_CALLS] += _1
    return kept


@helper
def _into_rows(burst, io, port, packets):
    """Copy the fronts of the burst's frames into the rows; returns (packets that fit, their octets)."""
    meta = burst.meta
    rows = address_of(burst.headers)
    row_bytes = np.uint64(burst.headers.shape[1])
    kept = _0  # unsigned: an index that might be negative costs a comparison
    octets = _0
    for p in range(np.uint64(packets)):
        first = np.uint64(meta[p]["payload_addr"])
        count = np.uint64(meta[p]["payload_len"])
        size = np.uint64(meta[p]["frame_len"])
        reason = frame_in(rows, row_bytes, kept, meta[kept], io.pieces, first, count, size, port)
        if reason != Drop.NONE:
            burst.drops[reason] += _1
        else:
            octets += size
            kept += _1
    return np.int64(kept), octets


@entry(Op.DONE)
def vhost_done(io, port):
    """Give the chains of the last burst back: its packets were sent, or copied, or dropped."""
    taken = np.int64(io.taken[0])
    if taken == 0:
        return
    ring = io.rings[port, 2 * np.int64(io.rx_queue[0]) + 1]
    packed = ring_is_packed(ring)
    end = np.uint64(io.cursors[taken])
    ring_begin(ring, end)
    if ring["inflight"] != _0:
        inflight_giving(ring, packed, io.ids, taken, end)
    for k in range(taken - 1, -1, -1):
        ring_give(ring, packed, np.uint64(io.cursors[k]), np.uint64(io.ids[k]), _0)
    publish(io, port, ring, packed, io.ids, taken, end)
    io.taken[0] = 0


@entry(Op.TX)
def vhost_tx(burst, io, port, first, end):
    """Copy `packets[first:end]` into the guest's receive buffers; what finds none is dropped."""
    number = receive_ring(io, port)
    if number < 0:
        book_down(end - first, io.counters[port], burst.drops)
        return
    ring = io.rings[port, number]
    lock = lock_ring(io, port, number)
    packed = ring_is_packed(ring)
    frames, cursor, too_large = reserve_burst(
        io, port, ring, packed, ring_cursor(ring), burst.meta, burst.packets, first, end
    )
    octets = _0
    if frames > 0:
        track_reserved(io, ring, packed, frames, cursor)
        octets = _fill_burst(burst, io, ring, frames)
        give_reserved(io, port, ring, packed, frames, cursor)
    count_tx(io, port, ring, frames, octets, end - first, too_large, burst.drops)
    unlock_ring(lock)


@helper
def _fill_burst(burst, io, ring, frames):
    """Copy the frames into their buffers; returns their octets, without the virtio-net headers."""
    offloads = ring["features"] & _GUEST_CSUM != _0
    rows = address_of(burst.headers)
    row_bytes = np.uint64(burst.headers.shape[1])
    octets = _0
    for f in range(np.uint64(frames)):
        i = np.uint64(io.tx_order[f])
        m = burst.meta[i]
        buffers = np.uint64(io.tx_chains[f + _1]) - np.uint64(io.tx_chains[f])
        row = rows + i * row_bytes
        if not offloads:
            m["offload"] = 0  # 5.1.6.4: flags are zero without GUEST_CSUM
        encode_vnet(row, m, buffers)
        frame_out(row, m, io.targets, np.uint64(io.tx_targets[f]))
        octets += np.uint64(m["frame_len"])
    return octets


@entry(Op.KICKED)
def vhost_kicked(io, port, number):
    """A kick came on ring `number`: it runs from now on."""
    ring = io.rings[port, number]
    ring["kicks"] += _1
    if ring["configured"] != 0:
        ring["started"] = 1
        if number % 2 == 0:
            ring_quiet(ring, ring_is_packed(ring))  # buffers for packets to come: no news


@entry(Op.ASK_KICKS)
def vhost_ask_kicks(io, port):
    """Ask for a kick on every ring this worker polls; returns whether a packet waits already."""
    pairs = np.int64(io.devices[port]["pairs"])
    pair = np.int64(io.worker)
    waits = False
    while pair < pairs:
        ring = io.rings[port, 2 * pair + 1]
        if runs(ring) and ring_ask_kick(ring, ring_is_packed(ring), ring_cursor(ring)):
            waits = True
        pair += io.workers
    return waits
