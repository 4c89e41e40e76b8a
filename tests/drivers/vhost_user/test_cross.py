"""Cross-connect: bursts of one guest straight into another's buffers, or through the rows."""

import random

import pytest

from dpu_runtime.drivers.port import PortCounter as Count
from dpu_runtime.drivers.vhost_user import features as f
from tests.drivers.vhost_user.guest_memory import GuestMemory
from tests.drivers.vhost_user.ring_bursts import MEMORY, Bench, lay
from tests.drivers.vhost_user.test_queue import HEADER, KINDS, cut, frame_of
from tests.drivers.vhost_user.test_transmit import VNET, octets_of

pytestmark = pytest.mark.three_modes
MRG = 1 << f.VIRTIO_NET_F_MRG_RXBUF
FROM, TO = 0, 1


class Pair:
    """Port 0 goes straight to port 1."""

    def __init__(self, source, sink, features=0, size=128):
        self.bench = Bench(GuestMemory(*MEMORY), GuestMemory(*MEMORY))
        self.bench.devices[FROM]["xconnect"] = 1 + TO
        self.source = self.bench.ring(source, 1, size, port=FROM)
        self.sink = self.bench.ring(sink, 0, size, features, port=TO)
        self.offered = {}

    def buffers(self, sizes, pieces=1):
        memory = self.bench.memories[TO]
        for size in sizes:
            lengths = [1] * (pieces - 1) + [size - pieces + 1]
            chain = [(memory.allocate(length, gap=3), length, True) for length in lengths]
            self.offered[self.sink.offer(chain)] = chain

    def send(self, octets, lengths):
        return self.source.offer(lay(self.bench.memories[FROM], octets, lengths, gap=1))

    def delivered(self):
        """Whole buffers up to what was used."""
        return [
            b"".join(self.bench.memories[TO].read(addr, size) for addr, size, _ in self.offered.pop(number))[
                :length
            ]
            for number, length in self.sink.collect()
        ]


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("sink", KINDS)
@pytest.mark.parametrize("features", [0, MRG])
def test_frames_cross(source, sink, features):
    pair = Pair(source, sink, features)
    rng = random.Random(3)
    frames = [frame_of(size) for size in (1, 60, 300, 1514, 9000)]
    pair.buffers([9100] * 6)
    numbers = []
    for k, frame in enumerate(frames):
        rest = cut(len(frame) - 1, rng, 1 + k % 3)
        numbers.append(pair.send(HEADER + frame, [13, *rest]))
    assert pair.bench.receive(FROM) == (0, 0)
    assert pair.bench.io.crossed[0] == len(frames)
    assert pair.delivered() == [VNET.pack(0, 0, 0, 0, 0, 0, 1) + frame for frame in frames]
    assert pair.bench.counted(Count.TX_PACKETS, Count.TX_BYTES, port=TO) == [5, sum(map(len, frames))]
    assert pair.source.collect() == []
    pair.bench.done(FROM)
    assert pair.source.collect() == [(number, 0) for number in numbers]
    assert pair.bench.counted(Count.RX_PACKETS, Count.RX_BYTES, port=FROM) == [5, sum(map(len, frames))]


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("sink", KINDS)
@pytest.mark.parametrize("lengths", [[1012], [500, 512], [13, 999], [400, 1, 611]])
@pytest.mark.parametrize("room, pieces", [(100, 1), (100, 3), (20, 1), (1012, 12), (2000, 1)])
def test_frames_cross_in_pieces(source, sink, lengths, room, pieces):
    pair = Pair(source, sink, MRG, 2048)
    pair.buffers([room] * 100, pieces)
    pair.send(HEADER + frame_of(1000), lengths)
    assert pair.bench.receive(FROM) == (0, 0)
    assert pair.bench.io.crossed[0] == 1
    chains = pair.delivered()
    assert len(chains) == -(-1012 // room)
    assert b"".join(chains) == VNET.pack(0, 0, 0, 0, 0, 0, len(chains)) + frame_of(1000)
    pair.bench.done(FROM)


@pytest.mark.parametrize(
    "header", [bytes([1]) + bytes(11), bytes([0, 1]) + bytes(10), bytes([2]) + bytes(11)]
)
def test_a_burst_with_offload_metadata_goes_through_the_rows(header):
    pair = Pair("split", "split")
    pair.buffers([200] * 4)
    for first in (HEADER, header):
        pair.send(first + frame_of(60), [72])
    assert pair.bench.receive(FROM) == (2, 0)
    assert pair.bench.io.crossed[0] == 0
    assert pair.bench.frames(2) == [frame_of(60)] * 2
    assert pair.sink.collect() == []
    pair.bench.done(FROM)


@pytest.mark.parametrize("lengths", [[12, 60], [1, 71], [6, 6, 60]])
def test_a_header_in_a_buffer_of_its_own_goes_through_the_rows(lengths):
    pair = Pair("split", "split")
    pair.send(HEADER + frame_of(60), lengths)
    assert pair.bench.receive(FROM) == (1, 0)
    assert pair.bench.frame(0) == frame_of(60)
    pair.bench.done(FROM)


def test_drops_are_counted_where_they_happen():
    pair = Pair("split", "packed")
    pair.buffers([200, 100])
    for size in (60, 150, 61, 62):
        pair.send(HEADER + frame_of(size), [12 + size])
    assert pair.bench.receive(FROM) == (0, 0)
    assert [chain[12:] for chain in pair.delivered()] == [frame_of(60), frame_of(61)]
    assert pair.bench.dropped() == {"RING_BUFFER": 1, "TX_FULL": 1}
    pair.bench.done(FROM)
    assert len(pair.source.collect()) == 4
    assert pair.bench.counted(Count.RX_PACKETS, Count.RX_DROPPED, port=FROM) == [4, 0]
    assert pair.bench.counted(Count.TX_PACKETS, Count.TX_DROPPED, port=TO) == [2, 2]


def test_a_port_that_is_down_drops_the_burst():
    pair = Pair("split", "split")
    pair.bench.rings[TO, 0]["enabled"] = 0
    pair.send(HEADER + frame_of(60), [72])
    assert pair.bench.receive(FROM) == (0, 0)
    pair.bench.done(FROM)
    assert len(pair.source.collect()) == 1
    assert pair.bench.dropped() == {"PORT_DOWN": 1}
    assert pair.bench.counted(Count.TX_DROPPED, port=TO) == [1]


def test_a_disabled_ring_s_packets_do_not_cross():
    pair = Pair("split", "split")
    pair.buffers([200])
    pair.bench.rings[FROM, 1]["enabled"] = 0
    pair.send(HEADER + frame_of(60), [72])
    assert pair.bench.receive(FROM) == (0, 0)
    pair.bench.done(FROM)
    assert pair.sink.collect() == []
    assert pair.bench.dropped() == {"RING_DISABLED": 1}


def test_a_port_may_go_to_itself():
    bench = Bench()
    bench.devices[0]["xconnect"] = 1
    source, sink = bench.ring("packed", 1), bench.ring("packed", 0)
    at = bench.memories[0].allocate(100)
    sink.offer([(at, 100, True)])
    source.offer(lay(bench.memories[0], HEADER + frame_of(60), [72]))
    assert bench.receive() == (0, 0)
    bench.done()
    assert len(source.collect()) == 1
    assert sink.collect() == [(0, 72)]
    assert octets_of(bench, [(at + 12, 60, True)]) == frame_of(60)
