"""Bursts from and to rings of both formats against a driver in plain Python."""

import random

import pytest

from dpu_runtime.drivers.port import PortCounter as Count
from dpu_runtime.drivers.vhost_user import features as f
from dpu_runtime.kernels.layout import BATCH_SIZE, HEADER_BYTES
from tests.drivers.vhost_user.ring_bursts import Bench, lay

pytestmark = pytest.mark.three_modes
KINDS = ("split", "packed")
HEADER = bytes(12)
EVENT_IDX = 1 << f.VIRTIO_F_EVENT_IDX
EAGAIN = 11


def frame_of(size, seed=1):
    return random.Random(size * 1000 + seed).randbytes(size)


def cut(size, rng, pieces):
    """Lengths of `pieces` buffers at most that add up to `size`; some are empty."""
    edges = sorted(rng.randint(0, size) for _ in range(pieces - 1))
    return [b - a for a, b in zip([0, *edges], [*edges, size], strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_comes_out_as_it_went_in(kind):
    bench = Bench()
    driver = bench.ring(kind, 1)
    header = bytes(range(1, 13))
    number = driver.offer(lay(bench.memories[0], header + frame_of(60), [72]))
    assert bench.receive() == (1, 0)
    assert bench.frame(0) == frame_of(60)
    assert bench.vnet(0) == header
    assert bench.meta[0]["in_port"] == 0
    assert driver.collect() == []
    bench.done()
    assert driver.collect() == [(number, 0)]
    assert bench.receive() == (0, EAGAIN)
    bench.done()
    assert driver.collect() == []
    assert bench.counted(Count.RX_PACKETS, Count.RX_BYTES, Count.RX_DROPPED, Count.RX_CALLS) == [1, 60, 0, 1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("size", [1, 13, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 1, 1514, 65550])
def test_any_layout(kind, indirect, size):
    rng = random.Random(size)
    layouts = [[12, size], [12 + size], [1] * 12 + [size], [5, 7 + size]]
    if size > 1:
        layouts += [[12 + size - 1, 1], [1, 11 + size - 1, 1]]
    layouts += [cut(12 + size, rng, pieces) for pieces in (2, 3, 17, 40)]
    for lengths in layouts:
        bench = Bench()
        driver = bench.ring(kind, 1)
        number = driver.offer(lay(bench.memories[0], HEADER + frame_of(size), lengths, gap=3), indirect)
        assert bench.receive() == (1, 0), lengths
        assert bench.frame(0) == frame_of(size), lengths
        m = bench.meta[0]
        assert m["frame_len"] == size
        assert m["header_end"] - m["l2_offset"] == min(size, HEADER_BYTES)
        bench.done()
        assert driver.collect() == [(number, 0)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_longest_chain(kind):
    for indirect in (False, True):
        bench = Bench()
        driver = bench.ring(kind, 1, 1024)
        count = 255 if indirect and kind == "split" else 256
        lengths = [1] * (count - 1) + [60]
        driver.offer(lay(bench.memories[0], HEADER + frame_of(count + 47), lengths), indirect)
        assert bench.receive() == (1, 0)
        assert bench.frame(0) == frame_of(count + 47)
        bench.done()
        driver.offer(lay(bench.memories[0], HEADER + frame_of(count + 48), [1, *lengths]), indirect)
        assert bench.receive()[0] == 0
        bench.done()
        assert len(driver.collect()) == 2
        assert bench.dropped() == {"RING_CHAIN": 1}


SIZES = {"split": (1, 2, 8, 256), "packed": (1, 2, 3, 7, 100, 256)}


@pytest.mark.parametrize("kind, size", [(kind, size) for kind in KINDS for size in SIZES[kind]])
@pytest.mark.parametrize("late", [False, True])
def test_rings_wrap_around(kind, size, late):
    """Chains of all sorts, as many as fit, until the indices have wrapped; all come, in order."""
    rng = random.Random(size)
    bench = Bench()
    base = {("split", True): 0xFFF9, ("packed", True): size - 1}.get((kind, late), 0x8000)
    driver = bench.ring(kind, 1, size, base=base)
    buffers = [bench.memories[0].allocate(256) for _ in range(400)]
    sent = 0
    while sent < max(60, 3 * size):
        expected = []
        while len(expected) < BATCH_SIZE:
            pieces = rng.choice((1, 1, 1, 2, 3))
            room = len(driver.free) if kind == "split" else driver.free
            if not expected:
                pieces = min(pieces, room)
            elif pieces > room or rng.random() < 0.02:
                break
            frame = frame_of(rng.randint(1, 100), sent + len(expected))
            octets, chain = HEADER + frame, []
            for number, length in enumerate(cut(len(octets), rng, pieces)):
                at = buffers[(3 * len(expected) + number) % len(buffers)]
                bench.memories[0].write(at, octets[:length])
                octets = octets[length:]
                chain.append((at, length, False))
            expected.append((driver.offer(chain), frame))
        assert bench.receive() == (len(expected), 0)
        assert bench.frames(len(expected)) == [frame for _, frame in expected]
        bench.done()
        assert driver.collect() == [(number, 0) for number, _ in expected]
        sent += len(expected)
    assert bench.dropped() == {}


@pytest.mark.parametrize("kind, size", [("split", 32768), ("packed", 32768), ("packed", 32767)])
def test_the_largest_rings(kind, size):
    bench = Bench()
    base = 0xFFC0 if kind == "split" else (size - 40) | 0x8000
    driver = bench.ring(kind, 1, size, base=base)
    chain = lay(bench.memories[0], HEADER + frame_of(60), [72])
    for _ in range(4):
        numbers = [driver.offer(chain) for _ in range(30)]
        assert bench.receive() == (30, 0)
        bench.done()
        assert driver.collect() == [(number, 0) for number in numbers]


@pytest.mark.parametrize("kind", KINDS)
def test_a_burst_is_bounded_by_packets_and_octets(kind):
    bench = Bench()
    driver = bench.ring(kind, 1, 256)
    small = lay(bench.memories[0], HEADER + frame_of(60), [72])
    large = lay(bench.memories[0], HEADER + frame_of(65000), [65012])
    numbers = [driver.offer(small) for _ in range(BATCH_SIZE + 1)] + [driver.offer(large) for _ in range(6)]
    for count in (BATCH_SIZE, 1 + 5, 1):  # the fifth large one takes the burst past 256 KB
        assert bench.receive() == (count, 0)
        bench.done()
        assert [number for number, _ in driver.collect()] == numbers[:count]
        numbers = numbers[count:]
    assert numbers == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_disabled_ring_discards(kind):
    bench = Bench()
    driver = bench.ring(kind, 1)
    bench.rings[0, 1]["enabled"] = 0
    number = driver.offer(lay(bench.memories[0], HEADER + frame_of(60), [72]))
    assert bench.receive() == (0, 0)
    bench.done()
    assert driver.collect() == [(number, 0)]
    assert bench.dropped() == {"RING_DISABLED": 1}
    assert bench.counted(Count.RX_PACKETS, Count.RX_DROPPED) == [1, 1]


@pytest.mark.parametrize("state", ["configured", "started"])
def test_a_ring_that_does_not_run_is_left_alone(state):
    bench = Bench()
    driver = bench.ring("split", 1)
    bench.rings[0, 1][state] = 0
    driver.offer(lay(bench.memories[0], HEADER + frame_of(60), [72]))
    assert bench.receive() == (0, EAGAIN)
    bench.kicked(1)
    assert bench.receive()[0] == (1 if state == "started" else 0)
    bench.done()


@pytest.mark.parametrize("worker", [0, 1])
def test_workers_share_queue_pairs(worker):
    bench = Bench(worker=worker, workers=2)
    drivers = [bench.ring("split", 2 * pair + 1) for pair in range(5)]
    for driver in drivers:
        driver.offer(lay(bench.memories[0], HEADER + frame_of(60), [72]))
    pairs = []
    for _ in range(6):
        count, _ = bench.receive()
        if count:
            pairs.append(int(bench.io.rx_queue[0]))
        bench.done()
    assert pairs == list(range(worker, 5, 2))
    assert [len(driver.collect()) for driver in drivers] == [pair % 2 == worker for pair in range(5)]


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_that_are_no_frame(kind):
    bench = Bench()
    driver = bench.ring(kind, 1)
    memory = bench.memories[0]
    huge = memory.allocate(70000)
    numbers = [driver.offer(lay(memory, bytes(size), [size])) for size in (1, 11, 12)] + [
        driver.offer([(huge, 65549 + 12, False)]),
        driver.offer([(huge, 65557 + 12 + 1, False)]),
    ]
    assert bench.receive() == (1, 0)
    bench.done()
    assert [number for number, _ in driver.collect()] == numbers
    assert bench.dropped() == {"RUNT": 3, "OVERSIZE": 1}
    assert bench.counted(Count.RX_PACKETS, Count.RX_DROPPED) == [5, 4]
