"""What a hostile driver puts into its rings: bad chains go back and are counted, nothing else is touched.

Every region lies between pages that fault, so an access outside ends the test process.
"""

import numpy as np
import pytest

from dpu_runtime.drivers.port import PortCounter as Count
from dpu_runtime.drivers.vhost_user.layout import FAULT_AVAIL_INDEX, FAULT_BUFFER, FAULT_CHAIN_ID
from tests.drivers.vhost_user.guest_memory import FILL, GuestMemory
from tests.drivers.vhost_user.ring_bursts import Bench, lay
from tests.drivers.vhost_user.ring_model import INDIRECT, NEXT, WRITE
from tests.drivers.vhost_user.test_queue import EAGAIN, KINDS, frame_of
from tests.kernels.batches import Batch

pytestmark = pytest.mark.three_modes
RINGS = (0x10_0000, 1 << 17)
FRONT, BACK = (0x40_0000, 8192), (0x40_2000, 8192)  # one behind the other for the guest, not for us
END = FRONT[0] + FRONT[1]
HOLE = 0x60_0000
TOP = 1 << 64


def make(kind, number, size=16):
    bench = Bench(GuestMemory(RINGS, FRONT, BACK))
    return bench, bench.ring(kind, number, size)


def offer(driver, entries):
    """Descriptors [(address, octets, flags)] as one chain, without NEXT where the flags lack it."""
    if driver.packed:
        number = driver.ids.popleft()
        driver.chains[number] = len(entries)
        driver.free -= len(entries)
        driver.offer_raw(entries, number)
        return number
    taken = [driver.free.popleft() for _ in entries]
    for k, (addr, length, flags) in enumerate(entries):
        driver.desc[taken[k]] = addr, length, flags, taken[(k + 1) % len(taken)]
    driver.chains[taken[0]] = taken
    return driver.offer_head(taken[0])


def table(bench, driver, entries):
    """An indirect table of [(address, octets, flags, next)], as a descriptor."""
    at = bench.memories[0].allocate(16 * len(entries), 16)
    rows = bench.memories[0].view(at, 16 * len(entries)).view(driver.desc.dtype)
    for row, (addr, length, flags, behind) in zip(rows, entries, strict=True):
        row["addr"], row["len"], row["flags"] = addr, length, flags
        row["id" if driver.packed else "next"] = behind
    return at, 16 * len(entries), INDIRECT


GOOD = (FRONT[0], 100, 0)
# name -> (descriptors, reason)
BAD_BUFFERS = {
    "in front of a region": [(FRONT[0] - 1, 100, 0)],
    "past the end": [(BACK[0] + BACK[1] - 99, 100, 0)],
    "at the end": [(BACK[0] + BACK[1], 1, 0)],
    "in a hole": [(HOLE, 64, 0)],
    "at zero": [(0, 64, 0)],
    "at the top": [(TOP - 64, 64, 0)],
    "around the top": [(TOP - 32, 64, 0)],
    "around to a region": [(TOP - 1, FRONT[0] + 2 & 0xFFFF_FFFF, 0)],
    "over two regions": [(END - 50, 100, 0)],
    "of 4 GB": [(FRONT[0], 0xFFFF_FFFF, 0)],
    "behind a good one": [(*GOOD[:2], NEXT), (HOLE, 64, 0)],
    "in front of a good one": [(HOLE, 64, NEXT), GOOD],
    "as a table": [(HOLE, 32, INDIRECT)],
    "as a table over two regions": [(END - 16, 32, INDIRECT)],
}
BAD_CHAINS = {
    "nothing": [(FRONT[0], 0, 0)],
    "nothing at all": [(0, 0, NEXT), (HOLE, 0, 0)],
    "writable": [(FRONT[0], 100, WRITE)],
    "writable behind readable": [(*GOOD[:2], NEXT), (FRONT[0], 100, WRITE)],
    "a table and a next": [(FRONT[0], 16, INDIRECT | NEXT), GOOD],
    "an odd table": [(FRONT[0], 24, INDIRECT)],
    "a short table": [(FRONT[0], 15, INDIRECT)],
    "an empty table": [(FRONT[0], 0, INDIRECT)],
}


def check_bad(bench, driver, number, reason):
    """The chain is dropped for this reason, goes back, and the one behind it comes through."""
    good = driver.offer(lay(bench.memories[0], bytes(12) + frame_of(60), [72]))
    assert bench.receive() == (1, 0)
    assert bench.frame(0) == frame_of(60)
    bench.done()
    assert driver.collect() == [(number, 0), (good, 0)]
    assert bench.dropped() == {reason: 1}
    assert bench.counted(Count.RX_PACKETS, Count.RX_DROPPED) == [2, 1]
    assert bench.rings[0, 1]["bad_chains"] == 1
    assert bench.rings[0, 1]["fault"] == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BAD_BUFFERS)
def test_a_buffer_outside_memory(kind, name):
    bench, driver = make(kind, 1)
    check_bad(bench, driver, offer(driver, BAD_BUFFERS[name]), "RING_ADDRESS")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BAD_CHAINS)
def test_a_chain_that_is_none(kind, name):
    bench, driver = make(kind, 1)
    check_bad(bench, driver, offer(driver, BAD_CHAINS[name]), "RING_CHAIN")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 8192])
def test_the_last_octets_of_a_region_are_good(kind, size):
    bench, driver = make(kind, 1)
    octets = bytes(12) + frame_of(60)
    bench.memories[0].write(BACK[0], octets)
    bench.memories[0].view(BACK[0] + BACK[1] - size, size)[:] = np.resize(
        np.frombuffer(frame_of(size), "u1"), size
    )
    offer(driver, [(BACK[0], 72, NEXT), (BACK[0] + BACK[1] - size, size, 0)])
    assert bench.receive() == (1, 0)
    assert bench.frame(0)[60:] == bench.memories[0].read(BACK[0] + BACK[1] - size, size)
    bench.done()


@pytest.mark.parametrize("kind", KINDS)
def test_bad_indirect_tables(kind):
    for entries, reason in (
        ([(*GOOD, 0), (HOLE, 64, INDIRECT, 0)], "RING_CHAIN"),
        ([(FRONT[0], 16, INDIRECT, 0)], "RING_CHAIN"),
        ([(FRONT[0], 100, NEXT, 1), (HOLE, 64, 0, 0)], "RING_ADDRESS"),
        ([(FRONT[0], 0, 0, 0)], "RING_CHAIN"),
    ):
        bench, driver = make(kind, 1)
        if not driver.packed and entries[0][2] == 0 and len(entries) > 1:
            entries = [(*GOOD[:2], NEXT, 1), *entries[1:]]  # noqa: PLW2901
        check_bad(bench, driver, offer(driver, [table(bench, driver, entries)]), reason)


def test_what_is_marked_writable_in_a_table_to_be_read():
    """A split table's mark counts; a packed one's is what DPDK's driver writes, and is only read."""
    entries = [(FRONT[0], 72, WRITE, 0)]
    bench, driver = make("split", 1)
    check_bad(bench, driver, offer(driver, [table(bench, driver, entries)]), "RING_CHAIN")
    bench, driver = make("packed", 1)
    bench.memories[0].write(FRONT[0], bytes(12) + frame_of(60))
    number = offer(driver, [table(bench, driver, entries)])
    assert bench.receive() == (1, 0)
    assert bench.frame(0) == frame_of(60)
    bench.done()
    assert driver.collect() == [(number, 0)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_table_with_a_next(kind):
    """2.7.5.3.1, 2.8.8: a driver must not set both flags."""
    bench, driver = make(kind, 1)
    addr, length, flags = table(bench, driver, [(FRONT[0], 72, 0, 0)])
    check_bad(bench, driver, offer(driver, [(addr, length, flags | NEXT), GOOD]), "RING_CHAIN")


def test_what_is_not_marked_writable_in_a_table_to_be_written():
    for kind in KINDS:
        bench, driver = make(kind, 0)
        offer(driver, [table(bench, driver, [(FRONT[0], 100, 0, 0)])])
        bench.transmit(Batch([frame_of(60)]))
        assert bench.rings[0, 0]["fault"] == FAULT_BUFFER
        assert bench.memories[0].read(FRONT[0], 100) == bytes([FILL]) * 100


@pytest.mark.parametrize("entries", [[(*GOOD[:2], NEXT, 0)], [(*GOOD[:2], NEXT, 1), (*GOOD[:2], NEXT, 0)]])
def test_a_split_table_that_loops(entries):
    bench, driver = make("split", 1)
    check_bad(bench, driver, offer(driver, [table(bench, driver, entries)]), "RING_CHAIN")


@pytest.mark.parametrize("behind", [2, 3, 0xFFFF])
def test_a_split_table_that_leads_out_of_itself(behind):
    bench, driver = make("split", 1)
    entries = [(*GOOD[:2], NEXT, behind), (*GOOD[:2], 0, 0)]
    check_bad(bench, driver, offer(driver, [table(bench, driver, entries)]), "RING_CHAIN")


@pytest.mark.parametrize("behind", [0, 1, 16, 17, 0xFFFF])
def test_a_split_chain_that_loops_or_leads_out_of_the_table(behind):
    bench, driver = make("split", 1)
    number = offer(driver, [(*GOOD[:2], NEXT), (*GOOD[:2], NEXT)])
    driver.desc[1]["next"] = behind
    check_bad(bench, driver, number, "RING_CHAIN")


def test_a_packed_ring_that_is_one_endless_chain():
    bench, driver = make("packed", 1, 16)
    offer(driver, [(*GOOD[:2], NEXT)] * 16)
    assert bench.receive() == (0, 0)
    bench.done()
    assert bench.dropped() == {"RING_CHAIN": 1}
    assert bench.rings[0, 1]["next"] == 0, "a lap: the wrap counter has changed"
    assert bench.receive() == (0, EAGAIN)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [16, 17, 0x8000, 0xFFFF])
def test_ids_beyond_the_ring(kind, number):
    bench, driver = make(kind, 1)
    first = driver.offer(lay(bench.memories[0], bytes(12) + frame_of(60), [72]))
    if kind == "split":
        driver.offer_head(number)
        assert bench.receive() == (1, 0)
        bench.done()
        assert driver.collect() == [(first, 0)]
        assert bench.rings[0, 1]["fault"] == FAULT_CHAIN_ID
        assert bench.receive() == (0, EAGAIN)
        return
    driver.offer_raw([GOOD], number)  # it gets the number back that it gave
    assert bench.receive() == (2, 0)
    bench.done()
    assert driver.desc[1]["id"] == number


@pytest.mark.parametrize("ahead", [17, 18, 0x8000, 0xFFFF])
@pytest.mark.parametrize("base", [0, 0xFFF8])
def test_an_available_index_that_jumps_too_far_stops_that_ring_alone(ahead, base):
    bench = Bench(GuestMemory(RINGS, FRONT, BACK))
    driver = bench.ring("split", 1, 16, base=base)
    other = bench.ring("split", 3, 16)
    driver.avail[1] = (base + ahead) & 0xFFFF
    good = other.offer(lay(bench.memories[0], bytes(12) + frame_of(60), [72]))
    assert bench.receive() == (1, 0)
    bench.done()
    assert other.collect() == [(good, 0)]
    assert bench.rings[0, 1]["fault"] == FAULT_AVAIL_INDEX
    assert bench.rings[0, 3]["fault"] == 0
    assert driver.used_head[1] == base
    assert bench.receive() == (0, EAGAIN)


def test_a_chain_offered_again_and_again_is_taken_each_time():
    bench, driver = make("split", 1)
    chain = lay(bench.memories[0], bytes(12) + frame_of(60), [72])
    number = driver.offer(chain)
    for _ in range(15):
        driver.offer_head(number)
    assert bench.receive() == (16, 0)
    bench.done()
    assert [used for used, _ in driver.collect()] == [number] * 16


RECEIVE = {
    "readable": [(FRONT[0], 100, 0)],
    "readable behind writable": [(FRONT[0], 50, WRITE | NEXT), (FRONT[0], 100, 0)],
    "nothing": [(FRONT[0], 0, WRITE)],
    "in a hole": [(HOLE, 100, WRITE)],
    "past the end": [(BACK[0] + BACK[1] - 99, 100, WRITE)],
    "over two regions": [(END - 50, 100, WRITE)],
    "around the top": [(TOP - 32, 100, WRITE)],
    "behind a good one": [(FRONT[0], 60, WRITE | NEXT), (HOLE, 100, WRITE)],
    "as a table": [(HOLE, 16, INDIRECT)],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", RECEIVE)
def test_a_receive_buffer_that_is_none_stops_the_ring(kind, name):
    bench, driver = make(kind, 0)
    at = bench.memories[0].allocate(100)
    good = driver.offer([(at, 100, True)])
    offer(driver, RECEIVE[name])
    bench.transmit(Batch([frame_of(60), frame_of(61), frame_of(62)]))
    assert driver.collect() == [(good, 72)]
    assert bench.memories[0].read(at + 12, 60) == frame_of(60)
    assert bench.rings[0, 0]["fault"] == FAULT_BUFFER
    assert bench.dropped() == {"TX_FULL": 2}
    for region in bench.memories[0].regions[1:]:
        assert (region.octets == FILL).all(), "something was written that was no buffer"
    bench.transmit(Batch([frame_of(60)]))
    assert bench.dropped() == {"TX_FULL": 2, "PORT_DOWN": 1}
    assert bench.counted(Count.TX_PACKETS, Count.TX_DROPPED) == [1, 3]


def test_an_available_index_that_jumps_too_far_stops_a_receive_ring():
    bench, driver = make("split", 0)
    driver.avail[1] = 17
    bench.transmit(Batch([frame_of(60)]))
    assert bench.rings[0, 0]["fault"] == FAULT_AVAIL_INDEX
    assert bench.dropped() == {"TX_FULL": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_a_burst_of_the_longest_chains_finds_room(kind):
    """64 chains of 256 pieces: the lists of a burst are full to the last entry."""
    bench = Bench()
    driver = bench.ring(kind, 1, 32768)
    at = bench.memories[0].allocate(512)
    for _ in range(64):
        driver.offer([(at + k, 1, False) for k in range(256)])
    assert bench.receive() == (64, 0)
    assert bench.frame(63) == bench.memories[0].read(at + 12, 244)
    bench.done()
    assert len(driver.collect()) == 64
    receiver = bench.ring(kind, 0, 32768)
    for _ in range(70):
        receiver.offer([(at + k, 1, True) for k in range(256)])
    bench.transmit(Batch([frame_of(200)] * 64))
    sent = len(receiver.collect())
    assert sent >= 63
    assert bench.counted(Count.TX_PACKETS, Count.TX_DROPPED) == [sent, 64 - sent]
