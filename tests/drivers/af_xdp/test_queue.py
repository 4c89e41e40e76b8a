"""The compiled half of af_xdp ports, over rings in plain memory: octets, frames, and where they are."""

import random

import numpy as np
import pytest

from dpu_runtime.drivers.af_xdp.frames import NO_FRAME
from dpu_runtime.drivers.af_xdp.layout import (
    BURST_FRAMES,
    FILL_FRAMES,
    FRAME_BYTES,
    FRAME_ROOM,
    HOLDER_GONE,
    PACKET_FRAMES_MAX,
    POOL_FREE,
    QUEUE_FRAMES,
    SEND_FRAMES,
)
from dpu_runtime.drivers.linux.libc import EAGAIN
from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.layout import BATCH_SIZE, FRAME_BYTES_MAX, HEADER_BYTES, HEADROOM_BYTES
from tests.drivers.af_xdp.model import ModelDevice
from tests.kernels.batches import Batch

pytestmark = pytest.mark.three_modes
FRAMES = 2 * QUEUE_FRAMES + BURST_FRAMES
NEARLY_WRAPPED = 0xFFFF_FFFF - 100
RX = (PortCounter.RX_PACKETS, PortCounter.RX_BYTES, PortCounter.RX_DROPPED)
TX = (PortCounter.TX_PACKETS, PortCounter.TX_BYTES, PortCounter.TX_DROPPED)


def octets(size, seed=0):
    return random.Random(size * 1000 + seed).randbytes(size)


def counted(device, port, counters):
    return [int(device.bench.counters[port, counter]) for counter in counters]


def forward(device, order=None):
    """One burst from port 0 to port 1; returns packets received."""
    bench = device.bench
    count, _ = bench.receive()
    bench.transmit(bench, range(count) if order is None else order, port=1)
    bench.done()
    return count


@pytest.fixture(params=[False, True], ids=["contiguous", "pieces"])
def payload_layouts(request, monkeypatch):
    """Each payload in one piece, and in pieces."""
    monkeypatch.setattr(Batch, "in_pieces", request.param)


@pytest.fixture
def pair():
    device = ModelDevice(FRAMES, index=NEARLY_WRAPPED)
    yield device
    device.check()


@pytest.fixture
def jumbo():
    device = ModelDevice(FRAMES, pieces=(True, True))
    yield device
    device.check()


def test_first_frames_are_posted(pair):
    assert [len(sock.rings["fill"]) for sock in pair.sockets] == [FILL_FRAMES] * 2
    assert len(pair.bench.free()) == FRAMES - 2 * FILL_FRAMES


def test_empty_ring(pair):
    assert tuple(pair.bench.receive()) == (0, EAGAIN)
    pair.bench.done()


@pytest.mark.parametrize("size", [1, 13, 14, 60, 255, 256, 257, 512, 1514, FRAME_ROOM])
def test_a_packet_is_received(pair, size):
    bench, packet = pair.bench, octets(size)
    assert pair.sockets[0].deliver(packet)
    assert tuple(bench.receive()) == (1, 0)
    m = bench.meta[0]
    assert bench.frame(0) == packet
    assert bench.headers[0, HEADROOM_BYTES - 12 : HEADROOM_BYTES].tobytes() == bytes(12)
    assert (m["l2_offset"], m["frame_len"], m["in_port"], m["payload_iov"]) == (HEADROOM_BYTES, size, 0, 0)
    assert m["header_end"] == HEADROOM_BYTES + min(size, HEADER_BYTES)
    assert counted(pair, 0, RX) == [1, size, 0]
    bench.done()
    assert tuple(bench.receive()) == (0, EAGAIN)


def test_a_burst_has_an_end(pair):
    packets = [octets(60, n) for n in range(BATCH_SIZE + 5)]
    for packet in packets:
        pair.sockets[0].deliver(packet)
    assert tuple(pair.bench.receive()) == (BATCH_SIZE, 0)
    assert pair.bench.frames(BATCH_SIZE) == packets[:BATCH_SIZE]
    pair.bench.done()
    assert tuple(pair.bench.receive()) == (5, 0)
    assert pair.bench.frames(5) == packets[BATCH_SIZE:]
    pair.bench.done()


@pytest.mark.parametrize("size", [14, 60, 256, 257, 1514, FRAME_ROOM])
def test_a_packet_leaves_in_its_frame(pair, size):
    packet = octets(size)
    pair.sockets[0].deliver(packet)
    bench = pair.bench
    bench.receive()
    frame = int(bench.io.xdp_frames[0])
    bench.transmit(bench, [0], port=1)
    assert bench.io.xdp_frames[0] == NO_FRAME
    assert [words[0] // FRAME_BYTES for words in pair.sockets[1].rings["tx"].waiting()] == [frame]
    bench.done()
    pair.check()
    pair.sockets[1].send()
    assert pair.sockets[1].sent == [packet]
    assert counted(pair, 1, TX) == [1, size, 0]


@pytest.mark.parametrize("grown", [-16, 0, 4, 100, HEADROOM_BYTES])
def test_a_changed_header_leaves_with_it(pair, grown):
    """Tags and tunnels grow a packet to the front, untagging shrinks it."""
    packet, front = octets(700), octets(max(grown, 0), 1)
    pair.sockets[0].deliver(packet)
    bench = pair.bench
    bench.receive()
    m = bench.meta[0]
    m["l2_offset"] = HEADROOM_BYTES - grown
    m["frame_len"] = 700 + grown
    begin = int(m["l2_offset"])
    bench.headers[0, begin : begin + len(front)] = list(front)
    bench.transmit(bench, [0], port=1)
    bench.done()
    pair.sockets[1].send()
    assert pair.sockets[1].sent == [front + packet[max(-grown, 0) :]]


def test_a_flooded_packet_is_copied(pair):
    packet = octets(600)
    pair.sockets[0].deliver(packet)
    bench = pair.bench
    bench.receive()
    bench.copies[0] = 2
    bench.transmit(bench, [0], port=1)
    bench.transmit(bench, [0], port=0)
    assert bench.io.xdp_frames[0] != NO_FRAME
    bench.done()
    for sock in pair.sockets:
        sock.send()
        assert sock.sent == [packet]


def test_a_payload_that_lies_elsewhere_is_copied(pair):
    pair.sockets[0].deliver(octets(600))
    bench = pair.bench
    bench.receive()
    merged = np.frombuffer(octets(600, 1), np.uint8)
    bench.meta[0]["payload_addr"] = merged.ctypes.data
    expected = bench.frame(0)
    bench.transmit(bench, [0], port=1)
    assert bench.io.xdp_frames[0] != NO_FRAME
    bench.done()
    pair.sockets[1].send()
    assert pair.sockets[1].sent == [expected]


def test_packets_of_other_drivers_are_copied(pair, payload_layouts):
    packets = [octets(size) for size in (14, 60, 256, 257, 1514, FRAME_BYTES)]
    pair.bench.transmit(Batch(packets), port=1)
    pair.sockets[1].send()
    assert pair.sockets[1].sent == packets
    assert counted(pair, 1, TX) == [len(packets), sum(map(len, packets)), 0]


def test_other_rows_of_the_same_number_are_copied(pair):
    """Segments are packets of the same burst, in rows of their own."""
    pair.sockets[0].deliver(octets(600))
    bench = pair.bench
    bench.receive()
    segment = Batch([octets(100)])
    segment.meta[0]["payload_addr"] = bench.meta[0]["payload_addr"]
    bench.transmit(segment, [0], port=1)
    assert bench.io.xdp_frames[0] != NO_FRAME
    bench.done()
    pair.sockets[1].send()
    assert pair.sockets[1].sent == [octets(100)]


def test_a_full_queue_drops_and_counts(pair):
    sent = 0
    while sent < SEND_FRAMES:
        batch = Batch([octets(60)] * BATCH_SIZE)
        pair.bench.transmit(batch, port=1)
        sent += BATCH_SIZE
    pair.sockets[0].deliver(octets(60))
    forward(pair)
    pair.bench.transmit(Batch([octets(60)]), port=1)
    assert pair.bench.dropped() == {"TX_FULL": 2}
    assert counted(pair, 1, TX) == [SEND_FRAMES, SEND_FRAMES * 60, 2]
    pair.check()
    pair.sockets[1].send()
    pair.sockets[1].complete(random.Random(1))
    pair.bench.transmit(Batch([octets(60)]), port=1)
    assert counted(pair, 1, TX)[0] == SEND_FRAMES + 1


def test_a_packet_larger_than_a_frame_is_dropped(pair):
    pair.bench.transmit(Batch([octets(FRAME_BYTES + 1)]), port=1)
    assert pair.bench.dropped() == {"OVERSIZE": 1}


# packets in several frames


@pytest.mark.parametrize("size", [FRAME_ROOM + 1, 2 * FRAME_ROOM, 9014, FRAME_ROOM * (PACKET_FRAMES_MAX - 1)])
def test_a_large_packet_leaves_in_its_frames(jumbo, size):
    packet = octets(size)
    assert jumbo.sockets[0].deliver(packet)
    bench = jumbo.bench
    assert tuple(bench.receive()) == (1, 0)
    assert bench.frame(0) == packet
    frames = bench.io.xdp_frames[: int(bench.io.xdp_burst[1])].tolist()
    bench.transmit(bench, [0], port=1)
    used = [words[0] // FRAME_BYTES for words in jumbo.sockets[1].rings["tx"].waiting()]
    assert used == frames
    bench.done()
    jumbo.sockets[1].send()
    assert jumbo.sockets[1].sent == [packet]


def test_a_large_packet_is_copied(jumbo, payload_layouts):
    packets = [octets(size) for size in (FRAME_BYTES, FRAME_BYTES + 1, 9014, FRAME_BYTES * PACKET_FRAMES_MAX)]
    jumbo.bench.transmit(Batch(packets), port=1)
    jumbo.sockets[1].send()
    assert jumbo.sockets[1].sent == packets
    jumbo.bench.transmit(Batch([octets(FRAME_BYTES * PACKET_FRAMES_MAX + 1)]), port=1)
    assert jumbo.bench.dropped() == {"OVERSIZE": 1}


def test_a_small_first_frame(jumbo):
    """A device may put the header into a frame of its own."""
    sock, packet = jumbo.sockets[0], octets(1000)
    for start, end in ((0, 60), (60, 300), (300, 1000)):
        (address,) = sock.rings["fill"].take()
        jumbo.umem[address : address + end - start] = np.frombuffer(packet[start:end], np.uint8)
        sock.rings["rx"].put(address, end - start | (1 << 32 if end < 1000 else 0))
    bench = jumbo.bench
    assert tuple(bench.receive()) == (1, 0)
    assert bench.frame(0) == packet
    assert bench.meta[0]["header_end"] == HEADROOM_BYTES + HEADER_BYTES
    bench.transmit(bench, [0], port=1)
    bench.done()
    jumbo.sockets[1].send()
    assert jumbo.sockets[1].sent == [packet]


def test_a_packet_whose_end_is_missing_waits(jumbo):
    sock, packet = jumbo.sockets[0], octets(FRAME_ROOM + 500)
    sock.deliver(octets(60))
    sock.deliver(packet)
    last = np.uint32(1)
    sock.rings["rx"].producer -= last
    assert tuple(jumbo.bench.receive()) == (1, 0)
    jumbo.bench.done()
    assert tuple(jumbo.bench.receive()) == (0, EAGAIN)
    jumbo.bench.done()
    sock.rings["rx"].producer += last
    assert tuple(jumbo.bench.receive()) == (1, 0)
    assert jumbo.bench.frame(0) == packet
    jumbo.bench.done()


def test_a_packet_too_large_for_anybody_is_dropped(jumbo):
    jumbo.sockets[0].deliver(octets(FRAME_BYTES_MAX + 1))
    jumbo.sockets[0].deliver(octets(60))
    assert tuple(jumbo.bench.receive()) == (1, 0)
    assert jumbo.bench.frame(0) == octets(60)
    jumbo.bench.done()
    assert jumbo.bench.dropped() == {"OVERSIZE": 1}
    assert counted(jumbo, 0, RX) == [2, FRAME_BYTES_MAX + 61, 1]


# frames


def test_frames_of_a_port_that_is_gone_come_back(pair):
    holder = pair.shared.xdp_holder
    holder[holder == 2] = HOLDER_GONE
    pair.sockets.pop()
    pair.shared.xdp_queues[1, 0]["posted"] = 0
    assert len(pair.bench.free()) == FRAMES - 2 * FILL_FRAMES
    pair.start(0)
    assert len(pair.bench.free()) == FRAMES - FILL_FRAMES


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("frames", [FRAMES, 2 * FILL_FRAMES + 20], ids=["enough", "scarce"])
def test_no_frame_is_leaked_or_used_twice(seed, frames):
    """Random bursts between two ports and from elsewhere, floods, drops: each packet leaves as it was."""
    rng = random.Random(seed)
    device = ModelDevice(frames, pieces=(seed % 2 == 1,) * 2, index=rng.randrange(1 << 32))
    bench = device.bench
    expected = [[], []]
    for _ in range(30):
        source = rng.randrange(2)
        size_max = 9014 if seed % 2 else FRAME_ROOM
        for _ in range(rng.choice((0, 1, 5, 100))):
            device.sockets[source].deliver(rng.randbytes(rng.randint(1, size_max)))
        count, _ = bench.receive(source)
        bench.copies[:] = [rng.choice((1, 1, 1, 2)) for _ in range(BATCH_SIZE)]
        for target in (1 - source, source):
            order = [
                i for i in range(count) if rng.random() < 0.8 and (target != source or bench.copies[i] == 2)
            ]
            before = bench.dropped()
            bench.transmit(bench, order, port=target)
            expected[target].append(([bench.frame(i) for i in order], bench.dropped() != before))
        bench.done(source)
        other = Batch([rng.randbytes(rng.randint(1, 1514)) for _ in range(rng.choice((0, 3)))])
        before = bench.dropped()
        bench.transmit(other, port=source)
        expected[source].append(([other.frame(i) for i in range(len(other.meta))], bench.dropped() != before))
        device.check()
        for sock, bursts in zip(device.sockets, expected, strict=True):
            sock.send()
            _compare(sock.sent, bursts)
            sock.sent.clear()
            bursts.clear()
            sock.complete(rng)
    assert int(device.shared.xdp_pool[POOL_FREE]) <= frames


def _compare(sent, bursts):
    """What was sent is what was to be sent, less what was counted as dropped."""
    wanted = [packet for packets, _ in bursts for packet in packets]
    if any(dropped for _, dropped in bursts):
        left = iter(wanted)
        assert all(packet in left for packet in sent), "out of order, or changed"
    else:
        assert sent == wanted
