"""Snapshots on real memory files: what runs goes on, what is named no more is given up."""

import ctypes
import os

import numpy as np
import pytest

from dpu_runtime.drivers.vhost_user import features as f
from dpu_runtime.drivers.vhost_user.backend import NOTHING_SET_UP, Backend
from dpu_runtime.drivers.vhost_user.guard import MemoryGuard
from dpu_runtime.drivers.vhost_user.inflight import create, queue_bytes
from dpu_runtime.drivers.vhost_user.layout import (
    DEVICE_DTYPE,
    NO_LOG,
    REGION_GUEST,
    REGION_LOCAL,
    REGION_SIZE,
    REGION_WORDS,
    REGIONS_MAX,
    RING_DTYPE,
    RINGS_MAX,
    ring_base,
)

pytestmark = pytest.mark.compiled

SIZE = 1 << 16  # octets of a region
GUEST, USER = 0x10_0000, 0x7F00_0000_0000
PACKED = 1 << f.VIRTIO_F_RING_PACKED
RING_BYTES = 0x1000  # between the parts of a ring


class Shared:
    """The arrays of the shared memory that a back-end writes."""

    def __init__(self):
        self.rings = np.zeros((2, RINGS_MAX), RING_DTYPE)
        self.regions = np.zeros((2, REGIONS_MAX, REGION_WORDS), np.uint64)
        self.devices = np.zeros(2, DEVICE_DTYPE)


class Plane:
    """A back-end of port 1, a record of what it asked for, and files as a session hands them over."""

    def __init__(self):
        self.guard = MemoryGuard()
        self.guard.install()
        self.shared = Shared()
        self.said = []
        self.files = {}  # token -> descriptor of the test's own
        self.backend = self.make()

    def make(self):
        return Backend(
            1,
            self.shared,
            self.guard,
            lambda ring, fd: self.said.append(("add", ring, fd)),
            lambda ring, fd: self.said.append(("del", ring, fd)),
            lambda: self.said.append("epoch"),
        )

    def memory(self, token, size=SIZE):
        fd = os.memfd_create("guest")
        os.ftruncate(fd, size)
        self.files[token] = fd
        return fd

    def event(self, token):
        self.files[token] = os.eventfd(0, os.EFD_NONBLOCK)

    def apply(self, snapshot, backend=None):
        """Hand a snapshot over with copies of its descriptors, as a channel would."""
        self.said.clear()
        fds = [os.dup(self.files[token]) for token in snapshot["fds"]]
        (backend or self.backend).apply(snapshot, fds)

    def row(self, number):
        return self.shared.rings[1, number]

    def device(self):
        return self.shared.devices[1]

    def regions(self):
        count = int(self.device()["regions"])
        return [tuple(map(int, row[[REGION_GUEST, REGION_SIZE]])) for row in self.shared.regions[1, :count]]

    def close(self):
        self.guard.close()
        for fd in self.files.values():
            os.close(fd)


@pytest.fixture
def plane():
    before = len(os.listdir("/proc/self/fd"))
    made = Plane()
    made.memory(1)
    for token in (11, 12, 13):
        made.event(token)
    yield made
    made.backend.close()
    assert made.guard._mapped == {}, "memory is still mapped"
    made.close()
    assert len(os.listdir("/proc/self/fd")) == before, "descriptors are left"


def ring(number=0, **kwargs):
    at = USER + number * 4 * RING_BYTES
    made = {"ring": number, "live": True, "enabled": True, "serial": 1, "base": 0, "size": 16}
    made |= {"desc": at, "driver": at + RING_BYTES, "device": at + 2 * RING_BYTES, "log": None}
    return made | {"kick": 11, "call": 12, "err": None} | kwargs


def snapshot(*rings, features=0, regions=((GUEST, SIZE, USER, 0, 1),), log=None, inflight=None, extra=()):
    tokens = {row[4] for row in regions} | {r[name] for r in rings for name in ("kick", "call", "err")}
    tokens |= {area[0] for area in (log, inflight) if area} | set(extra)
    return {
        "features": features,
        "regions": [list(row) for row in regions],
        "log": log,
        "inflight": inflight,
        "rings": list(rings),
        "fds": sorted(tokens - {None}),
    }


def memory_of(plane, number, name):
    """Memory of a part of a ring, as words, through the test's own mapping of the row."""
    address = int(plane.row(number)[name])
    return np.frombuffer((ctypes.c_uint16 * 512).from_address(address), np.uint16)


def test_a_ring_is_set_up(plane):
    plane.apply(snapshot(ring(1, base=7, log=0x5000), features=1 << 32))
    row = plane.row(1)
    assert plane.regions() == [(GUEST, SIZE)]
    local = int(plane.shared.regions[1, 0, REGION_LOCAL])
    parts = [int(row[name]) - local for name in ("desc", "driver", "device")]
    assert parts == [4 * RING_BYTES, 5 * RING_BYTES, 6 * RING_BYTES]
    assert (row["size"], row["features"], row["log"]) == (16, 1 << 32, 0x5000)
    assert (row["configured"], row["enabled"], row["started"], row["fault"]) == (1, 1, 0, 0)
    assert plane.device()["pairs"] == 1
    assert plane.said == [("add", 1, int(row["kick_fd"]))]
    assert os.fstat(int(row["call_fd"])).st_ino == os.fstat(plane.files[12]).st_ino
    assert row["err_fd"] == -1
    assert not plane.shared.rings[0]["configured"].any()


def test_a_ring_without_a_kick_descriptor_runs_at_once(plane):
    plane.apply(snapshot(ring(0, kick=None)))
    assert plane.row(0)["started"] == 1
    assert plane.said == []
    assert plane.row(0)["log"] == NO_LOG


def test_the_same_snapshot_again_changes_nothing(plane):
    plane.apply(snapshot(ring(0), ring(1)))
    plane.row(1)["started"], plane.row(1)["next"] = 1, 5
    before = plane.shared.rings.tobytes(), plane.shared.regions.tobytes(), plane.shared.devices.tobytes()
    plane.apply(snapshot(ring(0), ring(1)))
    after = plane.shared.rings.tobytes(), plane.shared.regions.tobytes(), plane.shared.devices.tobytes()
    assert before == after
    assert plane.said == []


def test_memory_is_never_unnamed_under_a_ring_that_runs(plane):
    """A worker that takes a chain meanwhile must find the regions, and the log."""
    rings = (ring(0), ring(1))
    plane.memory(2)
    log = [2, 0, 4096]
    plane.apply(snapshot(*rings, log=log))

    class Witness:
        """The device's row, that is not to be written."""

        def __setitem__(self, name, value):
            assert name == "pairs", name

    kept, plane.backend._device = plane.backend._device, Witness()
    plane.apply(snapshot(ring(0, enabled=False), ring(1, call=13), log=log))
    plane.backend._device = kept
    assert plane.row(0)["enabled"] == 0
    assert plane.said == []
    assert plane.device()["log_addr"] != 0


def test_descriptors_of_a_ring_that_runs_may_change(plane):
    plane.apply(snapshot(ring(1)))
    plane.row(1)["started"], plane.row(1)["next"] = 1, 9
    plane.apply(snapshot(ring(1, call=13, err=12)))
    row = plane.row(1)
    assert os.fstat(int(row["call_fd"])).st_ino == os.fstat(plane.files[13]).st_ino
    assert (row["started"], row["next"], row["configured"]) == (1, 9, 1)
    plane.apply(snapshot(ring(1, call=None)))
    assert row["call_fd"] == -1


def test_a_new_kick_descriptor_takes_the_old_ones_place(plane):
    plane.apply(snapshot(ring(1)))
    old = int(plane.row(1)["kick_fd"])
    plane.apply(snapshot(ring(1, kick=13, call=12)))
    assert plane.said[:2] == [("del", 1, old), "epoch"]
    assert plane.said[2] == ("add", 1, int(plane.row(1)["kick_fd"]))


def test_regions_come_and_go_while_a_ring_runs(plane):
    plane.apply(snapshot(ring(1)))
    memory_of(plane, 1, "device")[1] = 5
    plane.row(1)["started"], plane.row(1)["next"] = 1, 5
    plane.memory(2)
    both = ((GUEST, SIZE, USER, 0, 1), (GUEST + SIZE, SIZE // 2, USER + SIZE, SIZE // 2, 2))
    plane.apply(snapshot(ring(1), regions=both))
    assert plane.regions() == [(GUEST, SIZE), (GUEST + SIZE, SIZE // 2)]
    assert (plane.row(1)["next"], plane.row(1)["started"], plane.row(1)["configured"]) == (5, 1, 1)
    mapped = set(plane.guard._mapped)
    plane.apply(snapshot(ring(1)))
    assert plane.regions() == [(GUEST, SIZE)]
    assert len(plane.guard._mapped) == len(mapped) - 1
    assert plane.said.count("epoch") == 2, "before regions change, and before memory goes"
    assert os.eventfd_read(plane.files[12]) > 0, "a ring that was stopped for a while calls"


def test_a_stopped_ring_keeps_its_base(plane):
    plane.apply(snapshot(ring(1)))
    plane.row(1)["next"] = 77
    plane.apply(snapshot(ring(1, live=False)))
    assert plane.row(1)["configured"] == 0
    assert plane.device()["pairs"] == 0
    assert ring_base(plane.row(1), False) == 77
    assert ring_base(plane.row(1), True) == 77 << 16 | 77


def test_a_ring_that_starts_anew_begins_at_its_base(plane):
    plane.apply(snapshot(ring(1, base=0x8003_8003), features=PACKED))
    assert plane.row(1)["next"] == plane.row(1)["pending"] == 0x8003
    plane.row(1)["next"], plane.row(1)["fault"] = 9, 2
    plane.apply(snapshot(ring(1, serial=2, base=0x8001_8001), features=PACKED))
    assert (plane.row(1)["next"], plane.row(1)["fault"], plane.row(1)["started"]) == (0x8001, 0, 0)


def test_the_next_process_goes_on(plane):
    plane.apply(snapshot(ring(1, base=3), features=PACKED))
    plane.row(1)["next"] = plane.row(1)["pending"] = 0x800A
    plane.row(1)["lock"] = plane.row(1)["started"] = 1
    second = plane.make()
    assert (plane.row(1)["configured"], plane.row(1)["lock"]) == (0, 0)
    plane.apply(snapshot(ring(1, base=3), features=PACKED), second)
    assert (plane.row(1)["next"], plane.row(1)["started"], plane.row(1)["configured"]) == (0x800A, 1, 1)
    assert os.eventfd_read(plane.files[12]) == 1, "it may have died between publishing and calling"
    second.close()


@pytest.mark.parametrize(
    "used, available, runs", [(0, 0, False), (0, 4, False), (4, 4, False), (4, 6, True), (0xFFFF, 2, True)]
)
def test_a_split_ring_goes_on_where_the_driver_believes(plane, used, available, runs):
    plane.apply(snapshot(ring(1)))
    memory_of(plane, 1, "device")[1] = used
    memory_of(plane, 1, "driver")[1] = available
    plane.apply(snapshot(ring(1, serial=2, base=9)))
    assert (plane.row(1)["next"], plane.row(1)["started"]) == (used, runs)


def test_a_packed_driver_that_was_asked_for_silence_will_not_kick(plane):
    plane.apply(snapshot(ring(1), features=PACKED))
    assert plane.row(1)["started"] == 0
    memory_of(plane, 1, "device")[1] = 1  # disable
    plane.apply(snapshot(ring(1, serial=2), features=PACKED))
    assert plane.row(1)["started"] == 1


@pytest.mark.parametrize("features, words", [(0, 8), (PACKED, 16)])
def test_the_in_flight_buffer_is_begun_and_forgotten(plane, features, words):
    size = queue_bytes(16, bool(features))
    plane.files[5] = create(2 * size)
    area = [5, 0, 2 * size, 2, 16]
    plane.apply(snapshot(ring(1), features=features, inflight=area))
    region = np.memmap(os.fdopen(os.dup(plane.files[5]), "r+b"), np.uint16, offset=0, shape=size)[size // 2 :]
    assert int(plane.row(1)["inflight"]) % 64 == 0
    assert region[4:6].tolist() == [1, 16], "version, descriptors"
    if features:
        assert region[16 + 1 :: words][:15].tolist() == list(range(1, 16)), "the free list"
    # the front-end reads the base and may start the ring anywhere
    plane.apply(snapshot(ring(1, live=False), features=features, inflight=area))
    assert region[4] == 0
    plane.apply(snapshot(ring(1, serial=2), features=features, inflight=area))
    assert region[4] == 1
    # the connection is lost: what the buffer says stays
    plane.apply(NOTHING_SET_UP)
    assert region[4] == 1


@pytest.mark.parametrize("old, new, expected", [(3, 3, 3), (16, 3, 0), (3, 16, 0), (0xFFFF, 0xFFFF, 0)])
def test_a_buffer_that_lies_is_not_believed(plane, old, new, expected):
    size = queue_bytes(16, True)
    plane.files[5] = create(size)
    words = np.memmap(os.fdopen(os.dup(plane.files[5]), "r+b"), np.uint16, shape=size // 2)
    words[4:6], words[8], words[9] = (1, 16), new, old
    plane.apply(snapshot(ring(0), features=PACKED, inflight=[5, 0, size, 1, 16]))
    assert plane.row(0)["next"] == expected


def refused(plane, wrong, error, text):
    """A snapshot is refused, and everything is as it was."""
    plane.apply(snapshot(ring(1)))
    before = plane.shared.rings.tobytes(), plane.shared.regions.tobytes(), plane.shared.devices.tobytes()
    fds, mapped = sorted(os.listdir("/proc/self/fd")), dict(plane.guard._mapped)
    with pytest.raises(error, match=text):
        plane.apply(wrong)
    after = plane.shared.rings.tobytes(), plane.shared.regions.tobytes(), plane.shared.devices.tobytes()
    assert before == after
    assert plane.said == []
    assert sorted(os.listdir("/proc/self/fd")) == fds
    assert plane.guard._mapped == mapped
    plane.apply(snapshot(ring(1)))


def test_a_region_past_its_file_is_refused(plane):
    plane.memory(2)
    plane.memory(3, 4096)
    more = ((GUEST, SIZE, USER, 0, 2), (GUEST + SIZE, 8192, USER + SIZE, 0, 3))
    refused(plane, snapshot(ring(1), regions=more), ValueError, "do not lie in the memory file")


def test_a_ring_outside_memory_is_refused(plane):
    plane.memory(2)
    moved = ((GUEST, SIZE, USER + SIZE, 0, 2),)
    refused(plane, snapshot(ring(1), regions=moved), ValueError, "lies in no region")


def test_a_ring_that_there_is_not_is_refused(plane):
    refused(plane, snapshot(ring(RINGS_MAX, desc=USER), extra=(13,)), ValueError, "ring 32, there are 32")


def test_a_token_without_its_descriptor_is_refused(plane):
    for name in ("call", "kick", "err"):
        wrong = snapshot(ring(1, **{name: 99}))
        wrong["fds"].remove(99)
        refused(plane, wrong, ValueError, r"no descriptors came for the tokens \[99\]")


def test_more_descriptors_than_tokens_are_refused_and_closed(plane):
    plane.apply(snapshot(ring(1)))
    before = sorted(os.listdir("/proc/self/fd"))
    for count in (0, 1, 5):
        with pytest.raises(ValueError, match=f"{count} descriptors came with 3 tokens"):
            plane.backend.apply(snapshot(ring(1)), [os.dup(0) for _ in range(count)])
        assert sorted(os.listdir("/proc/self/fd")) == before


def test_closing_twice_is_allowed(plane):
    plane.apply(snapshot(ring(0), ring(1)))
    plane.backend.close()
    plane.backend.close()
    assert not plane.shared.rings["configured"].any()
    assert plane.regions() == []
