"""The loop over kernel interfaces: stamp and send at a rate, receive and check, in turns.

In/out: a `Traffic`, ports of drivers/burst.py, which does the sending and receiving.
Not:    libdpu (host_loop.py), how ports are opened (ports.py).

Sender and receiver are one thread: as two that poll they would take a CPU from each other.
"""

import functools
import os
from collections import namedtuple

import numpy as np

from bench.generator.histogram import BUCKETS
from bench.generator.layout import BURST, FRAME_AT, TICK_SHIFT, WINDOW, Count
from bench.generator.receive import receive_frame
from bench.generator.stamp import put_front, write_stamp
from dpu_runtime.drivers.burst import rx_burst, rx_done, tx_burst
from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.burst import make_burst
from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.drops import DROP_REASON_COUNT
from dpu_runtime.kernels.octets.memory import address_of, cycles
from dpu_runtime.plane.shared import SharedState

RX_BURSTS = 4  # between two that are sent, while they are full

Traffic = namedtuple(
    "Traffic",
    [
        "rows",  # uint8[templates, ROW_BYTES], patterns.py
        "templates",  # TEMPLATE_DTYPE[templates]
        "cycle",  # uint32[n], templates in the order they are sent, over and over
        "counts",  # uint64[len(Count)]
        "seen",  # uint64[WINDOW // 64]
        "latencies",  # uint64[BUCKETS]
        "sent",  # Burst, to send: packets are rows 0, 1, 2, ...
        "received",  # Burst
        "drops",  # uint64[DROP_REASON_COUNT], of the drivers, with either
        "schedule",  # float64[2], SCHEDULE_*
        "handles",  # uint64[2, BURST], buffers of libdpu to send and received
    ],
)
SCHEDULE_START, SCHEDULE_RATE = 0, 1  # cycles after the epoch of the trial; packets a cycle, 0: no limit

_0 = np.uint64(0)
_1 = np.uint64(1)
_SHIFT = np.uint64(TICK_SHIFT)
_LOW32 = np.uint64(0xFFFF_FFFF)
_FRAME_AT = np.uint64(FRAME_AT)


def make_traffic(pool):
    """Traffic of a Pool (patterns.py): nothing sent, nothing received."""
    drops = np.zeros(DROP_REASON_COUNT, np.uint64)
    traffic = Traffic(
        rows=pool.rows,
        templates=pool.templates,
        cycle=pool.cycle,
        counts=np.zeros(len(Count), np.uint64),
        seen=np.zeros(WINDOW // 64, np.uint64),
        latencies=np.zeros(BUCKETS, np.uint64),
        sent=_burst(drops),
        received=_burst(drops),
        drops=drops,
        schedule=np.zeros(2),
        handles=np.zeros((2, BURST), np.uint64),
    )
    traffic.sent.meta["l2_offset"] = FRAME_AT
    return traffic


@functools.cache
def own_memory():
    """What a data plane has in shared memory, for this process only."""
    shared = SharedState.create()
    os.close(shared.fd)  # mapped, and nobody else will
    return shared


def _burst(drops):
    burst = make_burst(0, own_memory())._replace(drops=drops)
    burst.packets[:] = np.arange(len(burst.packets))
    return burst


@helper
def due(traffic, elapsed):
    """Packets to send now, BURST at most; `elapsed` is cycles since the epoch.

    What is due beyond a burst is not made up: the schedule slips, and the counter SLIPPED says by how much.
    """
    rate = traffic.schedule[SCHEDULE_RATE]
    if rate == 0.0:
        return np.int64(BURST)
    sent = np.float64(traffic.counts[Count.SENT])
    credit = (np.float64(elapsed) - traffic.schedule[SCHEDULE_START]) * rate - sent
    if credit > BURST:
        slip = (credit - BURST) / rate
        traffic.schedule[SCHEDULE_START] += slip
        traffic.counts[Count.SLIPPED] += np.uint64(slip)
        credit = np.float64(BURST)
    return np.int64(max(credit, 0.0))


@helper
def template_of(traffic, k):
    """Number of the template of the packet that is `k` after the next one."""
    place = traffic.counts[Count.CYCLE] + np.uint64(k)
    size = np.uint64(len(traffic.cycle))
    while place >= size:
        place -= size
    return np.uint64(traffic.cycle[place])


@helper
def note_sent(traffic, count, sent, octets):
    """Of `count` packets the first `sent` are on their way."""
    counts = traffic.counts
    counts[Count.SENT] += np.uint64(sent)
    counts[Count.SENT_OCTETS] += np.uint64(octets)
    counts[Count.UNSENT] += np.uint64(count) - np.uint64(sent)
    counts[Count.CYCLE] = (counts[Count.CYCLE] + np.uint64(sent)) % np.uint64(len(traffic.cycle))


@helper
def fill_batch(traffic, count, stream, now):
    """Make the next `count` packets in the burst to send."""
    rows = address_of(traffic.sent.headers)
    row_bytes = np.uint64(traffic.sent.headers.shape[1])
    ticks = (now >> _SHIFT) & _LOW32
    for k in range(np.uint64(count)):
        index = template_of(traffic, k)
        template = traffic.templates[index]
        frame = rows + np.uint64(k) * row_bytes + _FRAME_AT
        put_front(traffic.rows, index, template, frame)
        write_stamp(frame, template, traffic.counts[Count.SENT] + np.uint64(k), ticks, stream)
        m = traffic.sent.meta[k]
        m["payload_addr"] = template["payload_addr"]
        m["payload_len"] = template["payload_len"]
        m["frame_len"] = template["frame_len"]
        m["header_end"] = template["header_end"]


@helper
def check_batch(traffic, count, stream, now):
    """Count the `count` packets of the burst received."""
    rows = address_of(traffic.received.headers)
    row_bytes = np.uint64(traffic.received.headers.shape[1])
    for k in range(np.uint64(count)):
        m = traffic.received.meta[k]
        begin = np.uint64(m["l2_offset"])
        frame = rows + np.uint64(k) * row_bytes + begin
        in_row = np.uint64(m["header_end"]) - begin
        # a payload in pieces is of a frame that is longer than any of ours
        behind = np.uint64(m["payload_len"]) if m["payload_iov"] == _0 else _0
        receive_frame(
            frame,
            in_row,
            np.uint64(m["payload_addr"]),
            behind,
            stream,
            now,
            traffic.counts,
            traffic.seen,
            traffic.latencies,
        )


@helper
def _send_some(kind, io, port, traffic, stream, now, epoch):
    count = due(traffic, now - epoch)
    if count == 0:
        return
    fill_batch(traffic, count, stream, now)
    counters = io.counters[port]
    sent = counters[PortCounter.TX_PACKETS]
    octets = counters[PortCounter.TX_BYTES]
    tx_burst(kind, traffic.sent, io, port, np.int64(0), count)
    sent = counters[PortCounter.TX_PACKETS] - sent
    note_sent(traffic, count, sent, counters[PortCounter.TX_BYTES] - octets)


@kernel
def exchange(kind, io, tx_port, rx_port, traffic, stream, epoch, until, sending):
    """Send on `tx_port` if `sending` and receive on `rx_port` (negative: none), until cycle `until`.

    kind     Kind of the ports               io      a worker's PortIo, by reference
    stream   uint64 below 256                epoch   uint64 cycles, the trial's begin
    traffic  a Traffic, by reference: in/out
    """
    now = cycles()
    while now < until:
        if sending:
            _send_some(kind, io, tx_port, traffic, stream, now, epoch)
        for _ in range(RX_BURSTS if rx_port >= 0 else 0):
            got, _error = rx_burst(kind, traffic.received, io, rx_port)
            check_batch(traffic, got, stream, cycles())
            rx_done(kind, io, rx_port)
            if got < BURST:
                break
        now = cycles()


@kernel
def read_cycles():
    """Time-stamp counter, as the loops read it."""
    return cycles()


@kernel
def send_one(kind, io, port, traffic):
    """Send the packet that is the first of the burst to send, as it is."""
    tx_burst(kind, traffic.sent, io, port, np.int64(0), np.int64(1))
