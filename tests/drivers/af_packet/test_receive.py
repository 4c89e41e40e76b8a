"""AF_PACKET ports, receiving from a real interface: frames as they were sent, and what came with them."""

import errno
import struct
import time

import pytest

from dpu_runtime.drivers.af_packet.if_packet import SOL_PACKET, TPACKET_V2, PacketOption
from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.layout import BATCH_SIZE, HEADER_BYTES, HEADROOM_BYTES
from tests.drivers.af_packet.frames import frame, gso_frame, tagged
from tests.drivers.af_packet.packet_bursts import IN_PORT, WAIT_S, Plane

pytestmark = [pytest.mark.root, pytest.mark.compiled]

RX = (PortCounter.RX_PACKETS, PortCounter.RX_BYTES, PortCounter.RX_DROPPED)
NO_VNET = bytes(12)


@pytest.fixture(params=[True, False], ids=["blocks", "slots"])
def veth(veth, request):
    """The fixture, whose ports have a receive ring of either form."""

    def make(**keys):
        pair = veth(**keys)
        pair.keys["blocks"] = request.param
        return pair

    return make


@pytest.mark.parametrize("size", [14, 15, 60, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 1, 1514])
def test_received_frame_lies_where_the_record_says(veth, size):
    pair = veth()
    worker = pair.open()
    pair.wire.send(frame(size))
    assert worker.wait() == [frame(size)]
    assert worker.vnet(0) == NO_VNET
    m = worker.meta[0]
    assert int(m["frame_len"]) == size
    assert int(m["payload_len"]) == max(0, size - HEADER_BYTES)
    assert int(m["l2_offset"]) == HEADROOM_BYTES
    assert int(m["header_end"]) == HEADROOM_BYTES + min(size, HEADER_BYTES)
    assert (int(m["payload_iov"]), int(m["in_port"])) == (0, IN_PORT)
    assert worker.counted(*RX) == [1, size, 0]
    assert worker.receive() == (0, errno.EAGAIN)


def test_frames_come_in_their_order_and_bursts_end_with_the_batch(veth):
    pair = veth()
    worker = pair.open()
    sent = [frame(100 + number) for number in range(BATCH_SIZE + 10)]
    for one in sent:
        pair.wire.send(one)
    assert worker.wait(len(sent)) == sent
    assert worker.dropped() == {}


def test_the_ring_goes_round(veth):
    """Three times its blocks or slots, given back after the burst; small frames among large ones."""
    pair = veth(mtu=9000)
    worker = pair.open()
    units = int(worker.row["rx_units"])
    number = octets = 0
    while int(worker.row["rx_given"]) <= 3 * units:
        sent = [frame(9000 if number % 10 == 0 or units < 100 else 60, number + i) for i in range(28)]
        for one in sent:
            pair.wire.send(one)
        assert worker.wait(len(sent)) == sent
        worker.done()
        number += len(sent)
        octets += sum(map(len, sent))
    assert worker.counted(*RX, PortCounter.RX_MISSED) == [number, octets, 0, 0]


def test_payloads_stay_until_the_burst_is_done(veth):
    """What the ring does not hold is lost in front of it, and counted; what was taken is not overwritten."""
    pair = veth(mtu=9000)
    worker = pair.open()
    slots = worker.row["rx_version"] == TPACKET_V2
    size = 60 if slots else 9000
    kept = frame(size)
    pair.wire.send(kept)
    end = time.monotonic() + 5
    while worker.receive()[0] == 0 and time.monotonic() < end:
        pass
    total = int(worker.row["rx_units"]) * (1 if slots else int(worker.row["rx_unit_bytes"]) // size) + 100
    other = frame(size, 1)
    for _ in range(total):
        pair.wire.send(other)
    assert worker.frame(0) == kept
    worker.done()
    received = 1
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and received + worker.counted(PortCounter.RX_MISSED)[0] < total + 1:
        pair.wire.send(frame(60))  # the next block or slot says that packets were lost
        total += 1
        received += len(worker.wait())
        worker.done()
    assert worker.counted(PortCounter.RX_MISSED)[0] >= 50
    assert received + worker.counted(PortCounter.RX_MISSED)[0] == total + 1
    assert worker.counted(PortCounter.RX_PACKETS) == [received]


@pytest.mark.parametrize("tpid", [0x8100, 0x88A8])
@pytest.mark.parametrize("size", [60, 300])
def test_a_tag_is_put_back(veth, tpid, size):
    pair = veth()
    worker = pair.open()
    sent = tagged(frame(size), 0x2ABC, tpid)
    pair.wire.send(sent)
    assert worker.wait() == [sent]
    m = worker.meta[0]
    assert int(m["l2_offset"]) == HEADROOM_BYTES - 4
    assert int(m["frame_len"]) == size + 4
    assert worker.vnet(0) == NO_VNET
    assert worker.counted(*RX) == [1, size + 4, 0]


@pytest.mark.parametrize("tag", [None, 100])
def test_a_large_frame_comes_whole_with_its_segment_size(veth, tag):
    pair = veth()
    worker = pair.open()
    header, sent = gso_frame(60000, tag=tag)
    pair.wire.setsockopt(SOL_PACKET, PacketOption.PACKET_VNET_HDR, 1)
    pair.wire.send(header + sent)
    assert worker.wait() == [sent]
    flags, kind, hdr_len, size, start, offset = struct.unpack("<BBHHHH", worker.vnet(0)[:10])
    assert (flags, kind, size, start, offset) == (1, 1, 1448, 34 + 4 * (tag is not None), 16)
    assert hdr_len >= start + 20
    assert worker.vnet(0)[10:] == bytes(2)


def test_an_owed_checksum_is_marked(veth):
    """UDP from the other side's own stack, whose interface does not compute checksums."""
    pair = veth()
    worker = pair.open()
    pair.run_in(pair.far, ["ip", "addr", "add", "10.1.0.1/24", "dev", "eth0"])
    neighbour = ["10.1.0.2", "lladdr", "02:00:00:00:00:02", "dev", "eth0"]
    pair.run_in(pair.far, ["ip", "neigh", "add", *neighbour])
    code = "import socket; socket.socket(2, 2).sendto(b'x' * 100, ('10.1.0.2', 5000))"
    pair.run_in(pair.far, ["python3", "-c", code])
    (got,) = worker.wait()
    assert got[-100:] == b"x" * 100
    assert struct.unpack("<BBHHHH", worker.vnet(0)[:10]) == (1, 0, 0, 0, 34, 6)


def test_a_successor_goes_on_where_a_dead_process_stopped(veth):
    pair = veth(mtu=9000)
    worker = pair.open()
    shift = 0 if worker.row["rx_version"] == TPACKET_V2 else 32
    sent = [frame(60 if number % 5 == 0 else 9000, number) for number in range(200)]
    got = []
    for begin in range(0, len(sent), 100):
        for one in sent[begin : begin + 100]:
            pair.wire.send(one)
        got += worker.wait(20)  # the burst was received, never done
        pair.plane.close()
        pair.plane = Plane(pair.port, pair.plane.shared)
        worker = pair.plane.worker()
        assert int(worker.row["rx_given"]) == int(worker.row["rx_cursor"]) >> shift
    got += worker.wait(len(sent) - len(got))
    assert got == sent


def test_another_socket_starts_anew(veth):
    pair = veth()
    worker = pair.open()
    pair.wire.send(frame(60))
    worker.wait()
    pair.plane.close()
    pair.port.close()
    pair.port.open()
    pair.plane = Plane(pair.port, pair.plane.shared)
    pair.wire.send(frame(61))
    assert pair.plane.worker().wait() == [frame(61)]


def test_what_the_namespace_itself_sends_does_not_come_in(veth):
    pair = veth()
    workers = pair.open(queues=2), pair.plane.worker(1, 2)
    pair.near("addr", "add", "10.1.0.2/24", "dev", "dpu0")
    pair.run_in(pair.netns, ["ping", "-c", "1", "-W", "1", "10.1.0.1"], check=False)  # ARP requests
    pair.wire.send(frame(60))
    end = time.monotonic() + 5
    got = []
    while not got and time.monotonic() < end:
        for worker in workers:
            got += [worker.frame(i) for i in range(worker.receive()[0])]
    assert got == [frame(60)]


def test_flows_are_spread_over_two_queues_and_none_comes_twice(veth):
    pair = veth()
    workers = pair.open(queues=2), pair.plane.worker(1, 2)
    flows, each = 32, 4
    for _ in range(each):
        for flow in range(flows):
            pair.wire.send(gso_frame(100, port=1000 + flow)[1])
    got = [[], []]
    end = time.monotonic() + WAIT_S
    while len(got[0]) + len(got[1]) < flows * each and time.monotonic() < end:
        for worker, frames in zip(workers, got, strict=True):  # each queue has its frames at times of its own
            frames += [worker.frame(i) for i in range(worker.receive()[0])]
            worker.done()
    assert not any(worker.receive()[0] for worker in workers)
    assert len(got[0]) + len(got[1]) == flows * each
    ports = [{one[34:36] for one in frames} for frames in got]
    assert ports[0] and ports[1] and not ports[0] & ports[1]


def test_an_interface_that_goes_down_and_up_again(veth):
    pair = veth()
    worker = pair.open()
    pair.near("link", "set", "dpu0", "down")
    for _ in range(3):
        assert worker.receive() == (0, errno.EAGAIN)
    pair.near("link", "set", "dpu0", "up")
    pair.wait_until_up()
    pair.wire.send(frame(60))
    assert worker.wait() == [frame(60)]


def test_an_interface_that_is_gone(veth):
    pair = veth()
    worker = pair.open()
    pair.near("link", "del", "dpu0")
    assert worker.receive() == (0, errno.ENODEV)
    assert worker.receive() == (0, errno.EAGAIN)  # said once; the control process takes the port away


def test_a_closed_descriptor(veth):
    worker = veth().open()
    worker.io.fds[IN_PORT] = -1
    assert worker.receive() == (0, errno.EBADF)
