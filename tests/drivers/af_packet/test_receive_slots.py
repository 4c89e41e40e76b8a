"""AF_PACKET ports that receive by slots: a worker that is away, a queue without room, a process that dies."""

import os
import time

import pytest

from dpu_runtime.drivers.af_packet.if_packet import SOL_PACKET, PacketOption
from dpu_runtime.drivers.port import PortCounter
from tests.drivers.af_packet.frames import frame, gso_frame
from tests.drivers.af_packet.packet_bursts import Plane

pytestmark = [pytest.mark.root, pytest.mark.compiled]

QUIET_S = 0.5


def receive_all(worker):
    """Every frame that is there."""
    frames = worker.wait()
    end = time.monotonic() + QUIET_S
    while time.monotonic() < end:
        worker.done()
        count, _ = worker.receive()
        frames += [worker.frame(i) for i in range(count)]
    worker.done()
    return frames


def test_a_worker_may_be_away_for_some_milliseconds(veth):
    pair = veth()
    worker = pair.open()
    sent = [frame(60, number) for number in range(4000)]
    for one in sent:
        pair.wire.send(one)
    assert worker.wait(len(sent)) == sent
    assert worker.dropped() == {}


def test_large_frames_beyond_the_room_of_the_queue_are_counted(veth):
    """Those that it takes come whole, and all in their order with small ones."""
    pair = veth()
    worker = pair.open()
    pair.wire.setsockopt(SOL_PACKET, PacketOption.PACKET_VNET_HDR, 1)
    large, each = 400, 3
    sent = []
    for number in range(large):
        header, one = gso_frame(60000 + number)
        small = [frame(60, number * each + i) for i in range(each)]
        sent += [one, *small]
        pair.wire.send(header + one)
        for other in small:
            pair.wire.send(bytes(10) + other)
    got = receive_all(worker)
    assert worker.counted(PortCounter.RX_PACKETS, PortCounter.RX_MISSED) == [len(sent), 0]
    truncated = worker.dropped()["RX_TRUNCATED"]
    assert worker.dropped() == {"RX_TRUNCATED": truncated}
    assert len(got) + truncated == len(sent)
    assert large - truncated > 50
    seen = set(got)
    assert got == [one for one in sent if one in seen]


@pytest.mark.parametrize("read", [0, 1, 4])
def test_a_process_that_died_with_frames_in_slots_and_in_the_queue(veth, read):
    """It had read some from the queue and not noted it: these are lost, and nothing else."""
    pair = veth(mtu=9000)
    worker = pair.open()
    first = frame(61)
    pair.wire.send(first)
    assert worker.wait() == [first]
    sent = [frame(9000 if number % 2 else 60, number) for number in range(20)]
    for one in sent:
        pair.wire.send(one)
    for _ in range(read):
        os.read(pair.port.fds[0], 16384)
    pair.plane.close()
    pair.plane = Plane(pair.port, pair.plane.shared)
    lost = [frame(9000, number) for number in range(1, 2 * read, 2)]
    worker = pair.plane.worker()
    assert receive_all(worker) == [one for one in sent if one not in lost]
    assert worker.dropped() == ({"RX_TRUNCATED": read} if read else {})
