"""Frames into a guest's receive buffers: how they are cut, what the header says, what finds no room."""

import struct

import numpy as np
import pytest

from dpu_runtime.drivers.port import PortCounter as Count
from dpu_runtime.drivers.vhost_user import features as f
from dpu_runtime.kernels.layout import (
    BATCH_SIZE,
    HEADER_BYTES,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_TCPV4,
)
from tests.drivers.vhost_user.guest_memory import FILL
from tests.drivers.vhost_user.ring_bursts import Bench
from tests.drivers.vhost_user.test_queue import KINDS, frame_of
from tests.kernels.batches import Batch
from tests.kernels.offload.merging import merged_stream

pytestmark = pytest.mark.three_modes
MRG = 1 << f.VIRTIO_NET_F_MRG_RXBUF
GUEST_CSUM = 1 << f.VIRTIO_NET_F_GUEST_CSUM
VNET = struct.Struct("<BBHHHHH")


@pytest.fixture(params=[False, True], ids=["contiguous", "pieces"])
def payload_layouts(request, monkeypatch):
    """Each payload in one piece, and in pieces."""
    monkeypatch.setattr(Batch, "in_pieces", request.param)


def buffers(bench, driver, sizes, pieces=1, indirect=False):
    """Offer receive buffers of these sizes, each cut in `pieces`; returns [(ID, chain)]."""
    offered = []
    for size in sizes:
        lengths = [1] * (pieces - 1) + [size - pieces + 1]
        chain = [(bench.memories[0].allocate(length, gap=5), length, True) for length in lengths]
        offered.append((driver.offer(chain, indirect), chain))
    return offered


def octets_of(bench, chain):
    return b"".join(bench.memories[0].read(addr, size) for addr, size, _ in chain)


def filled(bench, offered, used, fresh=True):
    """What the driver reads: [(virtio-net header, frame)], by num_buffers; buffers are filled for once."""
    chains = iter(zip(offered, used, strict=False))
    found = []
    for (number, chain), (got, length) in chains:
        assert number == got
        whole = octets_of(bench, chain)
        assert not fresh or set(whole[length:]) <= {FILL}, "more was written than was said"
        header, octets = VNET.unpack(whole[:12]), whole[12:length]
        for _ in range(header[6] - 1):
            after, (used_id, used_octets) = next(chains)
            assert after[0] == used_id
            octets += octets_of(bench, after[1])[:used_octets]
        found.append((header, octets))
    return found


@pytest.mark.usefixtures("payload_layouts")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pieces, indirect", [(1, False), (3, False), (13, True), (40, False)])
@pytest.mark.parametrize("size", [1, 60, HEADER_BYTES, HEADER_BYTES + 1, 1514, 65550])
def test_a_frame_fills_one_chain(kind, pieces, indirect, size):
    for features in (0, MRG):
        bench = Bench()
        driver = bench.ring(kind, 0, 256, features)
        offered = buffers(bench, driver, [size + 12, size + 12], min(pieces, size + 12), indirect)
        bench.transmit(Batch([frame_of(size)]))
        used = driver.collect()
        assert used == [(offered[0][0], size + 12)]
        assert filled(bench, offered, used) == [((0,) * 6 + (1,), frame_of(size))]
        assert set(octets_of(bench, offered[1][1])) == {FILL}
        assert bench.counted(Count.TX_PACKETS, Count.TX_BYTES, Count.TX_DROPPED) == [1, size, 0]


@pytest.mark.usefixtures("payload_layouts")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("room", [13, 100, 268, 2048])
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_frame_over_several_chains(kind, room, pieces):
    bench = Bench()
    driver = bench.ring(kind, 0, 1024, MRG)
    frames = [frame_of(60), frame_of(700), frame_of(1), frame_of(room), frame_of(room - 12)]
    offered = buffers(bench, driver, [room] * 90, pieces)
    bench.transmit(Batch(frames))
    used = driver.collect()
    found = filled(bench, offered, used)
    assert [octets for _, octets in found] == frames
    assert [header[6] for header, _ in found] == [-(-(len(frame) + 12) // room) for frame in frames]
    assert sum(length for _, length in used) == sum(len(frame) + 12 for frame in frames)


@pytest.mark.parametrize("kind", KINDS)
def test_without_mergeable_buffers_a_large_frame_is_dropped_and_the_buffer_kept(kind):
    bench = Bench()
    driver = bench.ring(kind, 0)
    offered = buffers(bench, driver, [100, 100])
    bench.transmit(Batch([frame_of(89), frame_of(88), frame_of(500), frame_of(1)]))
    assert filled(bench, offered, driver.collect()) == [((0,) * 6 + (1,), frame_of(size)) for size in (88, 1)]
    assert bench.dropped() == {"RING_BUFFER": 2}
    assert bench.rings[0, 0]["dropped"] == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_of_more_than_64_chains_is_dropped(kind):
    bench = Bench()
    driver = bench.ring(kind, 0, 256, MRG)
    offered = buffers(bench, driver, [20] * 200)
    bench.transmit(Batch([frame_of(64 * 20 - 12 + 1), frame_of(64 * 20 - 12)]))
    used = driver.collect()
    assert len(used) == 64
    assert [octets for _, octets in filled(bench, offered, used)] == [frame_of(64 * 20 - 12)]
    assert bench.dropped() == {"RING_BUFFER": 1}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("features", [0, MRG])
def test_frames_that_find_no_buffer_are_dropped(kind, features):
    bench = Bench()
    driver = bench.ring(kind, 0, 8, features)
    offered = buffers(bench, driver, [100] * 5)
    bench.transmit(Batch([frame_of(60)] * 7))
    assert len(filled(bench, offered, driver.collect())) == 5
    assert bench.dropped() == {"TX_FULL": 2}
    bench.transmit(Batch([frame_of(60)]))
    assert driver.collect() == []
    assert bench.counted(Count.TX_PACKETS, Count.TX_DROPPED, Count.TX_CALLS) == [5, 3, 2]
    assert bench.rings[0, 0]["dropped"] == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_that_lacks_one_more_buffer_leaves_those_it_has(kind):
    bench = Bench()
    driver = bench.ring(kind, 0, 8, MRG)
    offered = buffers(bench, driver, [100] * 3)
    bench.transmit(Batch([frame_of(60), frame_of(250), frame_of(61), frame_of(62)]))
    found = filled(bench, offered, driver.collect())
    assert [octets for _, octets in found] == [frame_of(60), frame_of(61), frame_of(62)]
    assert bench.dropped() == {"TX_FULL": 1}


@pytest.mark.parametrize("kind, size", [("split", 4), ("split", 256), ("packed", 5), ("packed", 256)])
@pytest.mark.parametrize("late", [False, True])
def test_bursts_around_the_ring(kind, size, late):
    bench = Bench()
    base = {("split", True): 0xFFF0, ("packed", True): (size - 2)}.get((kind, late), 0x8000)
    driver = bench.ring(kind, 0, size, MRG, base=base)
    at = [bench.memories[0].allocate(300) for _ in range(size)]
    waiting, number = [], 0
    for turn in range(3 * size):
        while len(waiting) < size:
            chain = [(at[number % size], 300, True)]
            waiting.append((driver.offer(chain), chain))
            number += 1
        frames = [frame_of(1 + turn % 250, k) for k in range(min(size, 1 + turn % 5))]
        bench.transmit(Batch(frames))
        used = driver.collect()
        assert [octets for _, octets in filled(bench, waiting, used, fresh=False)] == frames
        waiting = waiting[len(used) :]
    assert bench.dropped() == {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("features", [0, GUEST_CSUM])
def test_flags_are_zero_without_guest_csum(kind, features):
    bench = Bench()
    driver = bench.ring(kind, 0, features=features)
    offered = buffers(bench, driver, [2000])
    batch = Batch([frame_of(1000)])
    m = batch.meta[0]
    m["offload"], m["csum_start"], m["csum_offset"] = VIRTIO_NET_HDR_F_NEEDS_CSUM, 128 + 34, 16
    if features:
        m["gso_type"], m["gso_size"], m["l5_offset"] = VIRTIO_NET_HDR_GSO_TCPV4, 500, 128 + 54
    bench.transmit(batch)
    ((header, octets),) = filled(bench, offered, driver.collect())
    assert octets == frame_of(1000)
    assert header == ((1, 1, 54, 500, 34, 16, 1) if features else (0, 0, 0, 0, *header[4:6], 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [20, 202, 900])
@pytest.mark.parametrize("room", [2048, 65562])
def test_merged_packets_arrive_whole(kind, size, room):
    bench = Bench()
    driver = bench.ring(kind, 0, 256, MRG | GUEST_CSUM)
    offered = buffers(bench, driver, [room] * (65562 // room))
    merge, whole = merged_stream(size)
    bench.transmit(merge.batch, merge.order)
    ((header, octets),) = filled(bench, offered, driver.collect())
    assert octets == whole
    assert header[:4] == (VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, 54, size)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_packets_named_go_out_in_the_order_named(kind):
    bench = Bench()
    driver = bench.ring(kind, 0)
    offered = buffers(bench, driver, [200] * 4)
    bench.transmit(Batch([frame_of(60 + k) for k in range(5)]), order=[3, 0, 3])
    found = filled(bench, offered, driver.collect())
    assert [octets for _, octets in found] == [frame_of(63), frame_of(60), frame_of(63)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_burst_of_scattered_frames(kind):
    bench = Bench()
    driver = bench.ring(kind, 0, 4096, MRG)
    frames = [frame_of(400, k) for k in range(BATCH_SIZE)]
    offered = buffers(bench, driver, [21] * (BATCH_SIZE * 20), 3)
    bench.transmit(Batch(frames))
    assert [octets for _, octets in filled(bench, offered, driver.collect())] == frames


@pytest.mark.parametrize("state", ["configured", "started", "enabled"])
def test_a_port_whose_rings_do_not_run_is_down(state):
    bench = Bench()
    driver = bench.ring("split", 0)
    buffers(bench, driver, [100])
    bench.rings[0, 0][state] = 0
    bench.transmit(Batch([frame_of(60)] * 2))
    assert bench.dropped() == {"PORT_DOWN": 2}
    assert driver.collect() == []


def test_the_receive_queue_follows_the_transmit_queue_or_the_next_that_runs():
    bench = Bench()
    drivers = [bench.ring("split", 2 * pair) for pair in range(3)]
    for driver in drivers:
        buffers(bench, driver, [100] * 8)
    for queue, runs, expected in ((0, "111", 0), (1, "111", 1), (5, "111", 2), (1, "101", 2), (2, "110", 0)):
        bench.io.rx_queue[0] = queue
        for pair in range(3):
            bench.rings[0, 2 * pair]["enabled"] = int(runs[pair])
        bench.transmit(Batch([frame_of(60)]))
        assert [len(driver.collect()) for driver in drivers] == [int(n == expected) for n in range(3)]


@pytest.mark.parametrize("kind", KINDS)
def test_written_pages_are_in_the_dirty_log(kind):
    bench = Bench()
    driver = bench.ring(kind, 0)
    log = np.zeros(1024, np.uint8)
    bench.devices[0]["log_addr"], bench.devices[0]["log_bytes"] = log.ctypes.data, len(log)
    bench.rings[0, 0]["log"] = driver.device_at if kind == "split" else driver.desc_at
    (_, ((addr, _, _),)), (_, ((other, _, _),)) = buffers(bench, driver, [9000, 9000])
    bench.transmit(Batch([frame_of(8900)]))
    dirty = {8 * k + bit for k, octet in enumerate(log) for bit in range(8) if octet >> bit & 1}
    assert set(range(addr >> 12, (addr + 8911 >> 12) + 1)) <= dirty
    assert bench.rings[0, 0]["log"] >> 12 in dirty
    assert not set(range((other + 4095) >> 12, (other + 9000) >> 12)) & dirty
