"""The in-flight buffer between taking chains and giving them back, by the specification's own structures."""

import numpy as np
import pytest

from dpu_runtime.drivers.vhost_user.inflight import queue_bytes
from dpu_runtime.drivers.vhost_user.recovery import recover
from tests.drivers.vhost_user.guest_memory import Region
from tests.drivers.vhost_user.ring_bursts import Bench, lay
from tests.drivers.vhost_user.ring_model import NEXT, WRITE
from tests.drivers.vhost_user.test_queue import HEADER, KINDS, frame_of
from tests.drivers.vhost_user.test_transmit import buffers
from tests.kernels.batches import Batch

pytestmark = pytest.mark.three_modes
# vhost-user "Inflight I/O tracking"
SPLIT_HEAD = [
    ("features", "u8"),
    ("version", "u2"),
    ("desc_num", "u2"),
    ("last_batch_head", "u2"),
    ("used_idx", "u2"),
]
SPLIT_DESC = [("inflight", "u1"), ("padding", "u1", 5), ("next", "u2"), ("counter", "u8")]
PACKED_HEAD = [
    ("features", "u8"),
    ("version", "u2"),
    ("desc_num", "u2"),
    ("free_head", "u2"),
    ("old_free_head", "u2"),
    ("used_idx", "u2"),
    ("old_used_idx", "u2"),
    ("used_wrap_counter", "u1"),
    ("old_used_wrap_counter", "u1"),
    ("padding", "u1", 10),
]
PACKED_DESC = [
    ("inflight", "u1"),
    ("padding", "u1"),
    ("next", "u2"),
    ("last", "u2"),
    ("num", "u2"),
    ("counter", "u8"),
    ("id", "u2"),
    ("flags", "u2"),
    ("len", "u4"),
    ("addr", "u8"),
]
SIZE = 8


class Tracked:
    """A ring with a buffer that ends in front of a page that faults."""

    def __init__(self, kind, number, base):
        self.bench = Bench()
        self.driver = self.bench.ring(kind, number, SIZE, base=base)
        octets = queue_bytes(SIZE, kind == "packed")
        self.region = Region(0, octets)
        self.region.octets[:] = 0
        self.row = self.bench.rings[0, number]
        self.row["inflight"] = self.region.local
        if kind == "split":
            self.driver.used_head[1] = base
        recover(self.row, kind == "packed", True, number == 0)
        head, desc = (PACKED_HEAD, PACKED_DESC) if kind == "packed" else (SPLIT_HEAD, SPLIT_DESC)
        head, desc = np.dtype(head), np.dtype(desc)
        assert (head.itemsize, desc.itemsize) == ((32, 32) if kind == "packed" else (16, 16))
        self.head = self.region.octets[: head.itemsize].view(head)[0]
        self.desc = self.region.octets[head.itemsize :][: SIZE * desc.itemsize].view(desc)

    def offer(self, *lengths):
        chain = lay(self.bench.memories[0], HEADER + frame_of(sum(lengths) - 12), lengths)
        return self.driver.offer(chain), chain


def test_heads_of_a_split_ring():
    ring = Tracked("split", 1, 0xFFFE)
    for turn in range(6):
        first, second = (ring.offer(*lengths)[0] for lengths in ((72,), (30, 50)))
        assert ring.bench.receive() == (2, 0)
        assert sorted(np.flatnonzero(ring.desc["inflight"])) == sorted((first, second))
        assert [int(ring.desc[head]["counter"]) for head in (first, second)] == [2 * turn, 2 * turn + 1]
        ring.bench.done()
        assert not ring.desc["inflight"].any()
        assert ring.head["used_idx"] == ring.driver.used_head[1] == 2 * turn & 0xFFFF
        assert ring.head["last_batch_head"] == second
        assert ring.desc[second]["next"] == first
        assert len(ring.driver.collect()) == 2


def test_descriptors_of_a_packed_ring():
    ring = Tracked("packed", 1, 0x8006)
    free_list = ring.desc["next"].tolist()
    for turn in range(6):
        (first, (one,)), (second, (two, three)) = ring.offer(72), ring.offer(30, 50)
        before = int(ring.row["next"])
        assert ring.bench.receive() == (2, 0)
        assert ring.desc["inflight"].tolist() == [1, 1] + [0] * 6
        heads = ring.desc[:2]
        assert heads["num"].tolist() == [1, 2]
        assert heads["last"].tolist() == [0, 2]
        assert heads["counter"].tolist() == [2 * turn, 2 * turn + 1]
        for entry, (addr, length, _), number in zip(
            ring.desc, (one, two, three), (first, second, second), strict=False
        ):
            assert (entry["addr"], entry["len"], entry["id"]) == (addr, length, number)
        assert [int(flags) & (NEXT | WRITE) for flags in ring.desc["flags"][:3]] == [0, NEXT, 0]
        assert ring.head["free_head"] == ring.head["old_free_head"] == 3
        assert ring.head["used_idx"] == ring.head["old_used_idx"] == before & 0x7FFF
        ring.bench.done()
        behind = int(ring.row["next"])
        assert not ring.desc["inflight"].any()
        assert ring.head["used_idx"] == ring.head["old_used_idx"] == behind & 0x7FFF
        assert ring.head["used_wrap_counter"] == ring.head["old_used_wrap_counter"] == behind >> 15
        assert ring.head["free_head"] == ring.head["old_free_head"] == 0
        assert ring.desc["next"].tolist() == free_list
        assert len(ring.driver.collect()) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_ring_and_one_that_repeats_itself(kind):
    """Whatever is offered, nothing is written behind the buffer."""
    ring = Tracked(kind, 1, 0x8000)
    for _ in range(SIZE):
        ring.offer(72)
    assert ring.bench.receive() == (SIZE, 0)
    assert (ring.desc["inflight"] == 1).sum() == SIZE
    ring.bench.done()
    assert not ring.desc["inflight"].any()


@pytest.mark.parametrize("kind", KINDS)
def test_receive_buffers(kind):
    ring = Tracked(kind, 0, 0x8000)
    buffers(ring.bench, ring.driver, [100] * 4)
    before = ring.region.octets.copy()
    ring.bench.transmit(Batch([frame_of(60)] * 3))
    assert len(ring.driver.collect()) == 3
    assert not ring.desc["inflight"].any()
    used = ring.head["used_idx"]
    assert used == (0x8003 if kind == "split" else 3)
    assert (before != ring.region.octets).any()
    assert ring.row["tracked"] == 3


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_buffer_nothing_is_tracked(kind):
    ring = Tracked(kind, 1, 0x8000)
    ring.row["inflight"] = 0
    before = ring.region.octets.copy()
    ring.offer(72)
    assert ring.bench.receive() == (1, 0)
    ring.bench.done()
    assert (before == ring.region.octets).all()
    assert ring.row["tracked"] == 0
