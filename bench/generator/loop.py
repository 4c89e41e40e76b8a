"""The loop over kernel interfaces: stamp and send at a rate, receive and check, in turns.

In/out: a `Traffic`, ports of drivers/burst.py, which does the sending and receiving.
Not:    libdpu (host_loop.py), how ports are opened (ports.py).

Sender and receiver are one thread: as two that poll they would take a CPU from each other.
"""

from collections import namedtuple

import numpy as np

from bench.generator.histogram import BUCKETS
from bench.generator.layout import BURST, FRAME_AT, TICK_SHIFT, WINDOW, Count
from bench.generator.receive import receive_frame
from bench.generator.stamp import put_front, write_stamp
from dpu_runtime.drivers.burst import rx_burst, rx_done, tx_burst
from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.drops import DROP_REASON_COUNT
from dpu_runtime.kernels.layout import META_DTYPE, ROW_BYTES
from dpu_runtime.kernels.octets.memory import address_of, cycles

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
        "tx_headers",  # uint8[BURST, ROW_BYTES], a batch to send
        "tx_meta",  # META_DTYPE[BURST]
        "order",  # uint16[BURST], 0, 1, 2, ...
        "rx_headers",  # uint8[BURST, ROW_BYTES], a batch received
        "rx_meta",  # META_DTYPE[BURST]
        "drops",  # uint64[DROP_REASON_COUNT], of the drivers
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
    traffic = Traffic(
        rows=pool.rows,
        templates=pool.templates,
        cycle=pool.cycle,
        counts=np.zeros(len(Count), np.uint64),
        seen=np.zeros(WINDOW // 64, np.uint64),
        latencies=np.zeros(BUCKETS, np.uint64),
        tx_headers=np.zeros((BURST, ROW_BYTES), np.uint8),
        tx_meta=np.zeros(BURST, META_DTYPE),
        order=np.arange(BURST, dtype=np.uint16),
        rx_headers=np.zeros((BURST, ROW_BYTES), np.uint8),
        rx_meta=np.zeros(BURST, META_DTYPE),
        drops=np.zeros(DROP_REASON_COUNT, np.uint64),
        schedule=np.zeros(2),
        handles=np.zeros((2, BURST), np.uint64),
    )
    traffic.tx_meta["l2_offset"] = FRAME_AT
    return traffic


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
    """Make the next `count` packets in the batch to send."""
    rows = address_of(traffic.tx_headers)
    ticks = (now >> _SHIFT) & _LOW32
    for k in range(np.uint64(count)):
        index = template_of(traffic, k)
        template = traffic.templates[index]
        frame = rows + np.uint64(k) * np.uint64(traffic.tx_headers.shape[1]) + _FRAME_AT
        put_front(traffic.rows, index, template, frame)
        write_stamp(frame, template, traffic.counts[Count.SENT] + np.uint64(k), ticks, stream)
        m = traffic.tx_meta[k]
        m["payload_addr"] = template["payload_addr"]
        m["payload_len"] = template["payload_len"]
        m["frame_len"] = template["frame_len"]
        m["header_end"] = template["header_end"]


@helper
def check_batch(traffic, count, stream, now):
    """Count the `count` packets of the batch received."""
    rows = address_of(traffic.rx_headers)
    for k in range(np.uint64(count)):
        m = traffic.rx_meta[k]
        begin = np.uint64(m["l2_offset"])
        frame = rows + np.uint64(k) * np.uint64(traffic.rx_headers.shape[1]) + begin
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
def _transmit(kind, io, port, traffic, count):
    """Send the first `count` packets of the batch to send."""
    tx_burst(
        kind,
        io,
        port,
        traffic.tx_headers,
        traffic.tx_meta,
        traffic.order,
        count,
        io.counters[port],
        traffic.drops,
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
    _transmit(kind, io, port, traffic, count)
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
            got, _error = rx_burst(
                kind,
                io,
                rx_port,
                traffic.rx_headers,
                traffic.rx_meta,
                io.counters[rx_port],
                traffic.drops,
            )
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
    """Send the packet that is the first of the batch to send, as it is."""
    _transmit(kind, io, port, traffic, np.int64(1))
