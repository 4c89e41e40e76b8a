"""The services of the frame: emit, hold, task, punt and a row of its own; their bounds, and the balance."""

import asyncio

import numpy as np
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from dpu_runtime.kernels.burst import HOLD_MAX, PUNT_BYTES, PUNT_DTYPE, PUNT_SLOTS, PUNT_TAIL, SPARE_ROWS
from dpu_runtime.kernels.layout import BATCH_SIZE
from dpu_runtime.plane.punts import Punts, read
from tests.functions.device import Device
from tests.functions.services import function as declared
from tests.functions.services.kernels import HOLD_NS, OCTETS, PORT

HOST = "02:00:00:00:00:0{}"
BROADCAST = "ff:ff:ff:ff:ff:ff"


def frame(number=0, size=60, dst=BROADCAST, src=1):
    packet = (
        Ether(dst=dst, src=HOST.format(src))
        / IP(src="10.0.0.1", dst="10.0.0.2", id=number)
        / UDP(sport=number)
    )
    return bytes(packet / Raw(bytes(max(0, size - len(packet)))))


def arp(src=1):
    return bytes(Ether(dst=BROADCAST, src=HOST.format(src)) / ARP())


@pytest.fixture
def device(monkeypatch):
    """Make a device on which these stages of the test function are on."""

    def make(*on, tasks=(), ports=3):
        stages = [f"services_{name}" for name in on]
        made = Device([declared.FUNCTION], stages, tasks, ports, monkeypatch)
        made.settings = made.shared.of("services").settings
        made.drops = made.shared.of("services").drops[0]
        return made

    return make


def drops(device):
    return dict(zip(declared.FUNCTION.drops, device.drops.tolist(), strict=True))


def test_an_answer_leaves_by_the_port_its_packet_came_by(device):
    dpu = device("reply")
    sent = dpu.send(1, [frame(1), frame(2)])
    answers = [octets for port, octets in sent if port == 1]
    assert [Ether(octets).dst for octets in answers] == [HOST.format(1)] * 2
    assert [Ether(octets)[IP].id for octets in answers] == [1, 2]
    assert sorted(port for port, _ in sent) == [0, 0, 1, 1, 2, 2]
    left, counts = dpu.balance()
    assert (left, counts["made"]) == (0, 2)


def test_copies_are_cut_and_what_was_made_is_not_copied(device):
    dpu = device("copy_in", "copy_out", ports=4)
    dpu.settings[PORT], dpu.settings[OCTETS] = 3, 100
    sent = dpu.send(0, [frame(7, size=1000)])
    assert sorted((port, len(octets)) for port, octets in sent) == [
        (1, 1000),
        (2, 1000),
        *[(3, 100)] * 4,  # in, and out by each port that was flooded to
        (3, 1000),
    ]
    assert {octets[:100] for _, octets in sent} == {frame(7, size=1000)[:100]}
    assert dpu.balance()[0] == 0


@pytest.mark.parametrize("octets", [14, 60, 255, 256, 257, 900, 1000, 1001, 65000])
def test_a_copy_has_as_many_octets_as_were_asked_for(device, octets):
    dpu = device("copy_in")
    dpu.settings[PORT], dpu.settings[OCTETS] = 2, octets
    sent = dpu.send(0, [frame(7, size=1000)])
    assert min(len(copy) for port, copy in sent if port == 2) == min(octets, 1000)


def test_a_copy_that_finds_no_room_is_its_own_drop(device):
    dpu = device("copy_out", ports=4)
    dpu.settings[PORT] = 3
    sent = dpu.send(0, [frame(n) for n in range(BATCH_SIZE)])
    assert [port for port, _ in sent].count(3) == BATCH_SIZE + SPARE_ROWS
    assert drops(dpu)["services_no_room"] == 3 * BATCH_SIZE - SPARE_ROWS
    assert [port for port, _ in sent].count(1) == BATCH_SIZE, "the original is never lost"
    assert dpu.balance()[0] == 0
    assert len(dpu.send(0, [frame(1)])) == 6, "the rows are free again"


def test_a_copy_to_a_port_that_is_down_is_dropped(device):
    dpu = device("copy_in")
    dpu.settings[PORT] = 9
    assert len(dpu.send(0, [frame()])) == 2
    assert dpu.balance()[0] == 0


def test_held_packets_leave_by_the_clock_as_they_were(device):
    dpu = device("delay", tasks=["services_let_go"], ports=4)
    dpu.settings[HOLD_NS] = 50_000_000_000  # no test takes that long
    frames = [frame(n, size=60 + 300 * n) for n in range(5)]
    assert dpu.send(0, frames) == []
    left, counts = dpu.balance()
    assert (left, counts["held"]) == (0, 15)
    assert dpu.pass_time(1) == []
    sent = dpu.pass_time(3600_000)
    assert sorted(sent) == sorted((port, octets) for octets in frames for port in (1, 3))
    assert drops(dpu)["services_given_up"] == 5
    left, counts = dpu.balance()
    assert (left, counts["held"]) == (0, 0)


def test_what_cannot_be_held_is_dropped_and_places_come_back(device):
    dpu = device("delay", tasks=["services_let_go"], ports=2)
    for _ in range(3):
        for _ in range(HOLD_MAX // BATCH_SIZE + 1):
            assert dpu.send(0, [frame(n) for n in range(BATCH_SIZE)]) == []
        sent = []
        while more := dpu.pass_time(3600_000):  # no more than there are spare rows at a time
            sent += more
        assert len(sent) == HOLD_MAX
    assert drops(dpu)["services_hold_full"] == 3 * BATCH_SIZE
    assert dpu.balance()[0] == 0


def test_packets_held_by_a_dead_data_plane_are_booked_as_lost(device):
    dpu = device("delay")
    dpu.send(0, [frame()])
    assert dpu.shared.book_lost_packets() == 2
    left, counts = dpu.balance()
    assert (left, counts["held"], counts["dropped"]) == (0, 0, 2)


def test_a_task_runs_when_it_is_due(device):
    dpu = device("delay", tasks=["services_let_go"], ports=2)
    dpu.pass_time(1)
    dpu.send(0, [frame()])
    dpu.settings[HOLD_NS] = 0
    assert dpu.pass_time(9) == []
    assert len(dpu.pass_time(2)) == 1


def test_punted_packets_reach_their_handler(device):
    dpu = device("tell")
    frames = [frame(1, size=3000), arp()]
    assert [port for port, _ in dpu.send(1, frames)] == [0, 2], "the copy's packet goes on"
    got = []

    async def handler(packet):
        got.append(packet)
        raise ValueError("a bug")

    number = dpu.functions.index(declared.FUNCTION)
    asyncio.run(Punts(dpu.shared, 1, {number: handler}).read_all())
    assert [(packet.in_port, packet.tag, packet.frame_len) for packet in got] == [(1, 4, 3000), (1, 6, 42)]
    assert got[0].octets == frames[0][: PUNT_BYTES - PUNT_DTYPE.itemsize] and got[1].octets == frames[1]
    left, counts = dpu.balance()
    assert (left, counts["punted"], counts["made"]) == (0, 2, 1)


def test_a_full_ring_drops_and_never_waits(device):
    dpu = device("tell")
    for n in range(PUNT_SLOTS // BATCH_SIZE):
        assert dpu.send(0, [frame(n)] * BATCH_SIZE) == []
    assert drops(dpu)["services_punt_full"] == 0
    assert [port for port, _ in dpu.send(0, [frame(), arp()])] == [1, 2]
    assert drops(dpu)["services_punt_full"] == 2
    assert sum(len(read(dpu.shared, 0)) for _ in range(PUNT_SLOTS // BATCH_SIZE)) == PUNT_SLOTS
    assert dpu.send(0, [frame()]) == [] and len(read(dpu.shared, 0)) == 1
    assert dpu.balance()[0] == 0


def test_a_tail_that_lies_is_a_full_ring(device):
    dpu = device("tell")
    dpu.shared.punt_words[0, PUNT_TAIL] = np.uint64(1 << 40)
    dpu.send(0, [frame()])
    assert drops(dpu)["services_punt_full"] == 1


def test_copies_are_rewritten_in_rows_of_their_own(device):
    dpu = device("stamp", ports=4)
    sent = dpu.send(0, [frame(n) for n in range(BATCH_SIZE)])
    assert len(sent) == 3 * BATCH_SIZE
    assert {(port, octets[5]) for port, octets in sent} == {(1, 1), (2, 2), (3, 3)}
    assert {octets[:5] + b"\xff" + octets[6:] for _, octets in sent} == {frame(n) for n in range(BATCH_SIZE)}
    assert drops(dpu)["services_no_room"] == 0
    assert dpu.balance()[0] == 0


def test_a_rewrite_without_a_free_row_is_a_drop(device):
    dpu = device("copy_out", "stamp", ports=3)
    dpu.settings[PORT] = 2
    dpu.send(0, [frame(n) for n in range(BATCH_SIZE)])
    assert drops(dpu)["services_no_room"] > 0
    assert dpu.balance()[0] == 0
