"""AF_PACKET ports, sending to a real interface: frames as they were, in their order, and what does not go."""

import ctypes
import errno
import random
import struct

import numpy as np
import pytest

from dpu_runtime.drivers.af_packet.if_packet import (
    PACKET_STATUS,
    SOL_PACKET,
    TP_STATUS_SEND_REQUEST,
    PacketOption,
)
from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.layout import BATCH_SIZE, HEADER_BYTES, HEADROOM_BYTES, PAYLOAD_PIECES_MAX
from dpu_runtime.kernels.offload.virtio_net import decode_vnet
from dpu_runtime.kernels.parse.parse import parse
from tests.drivers.af_packet.frames import frame, gso_frame, tagged
from tests.drivers.af_packet.packet_bursts import Plane
from tests.kernels.batches import Batch
from tests.kernels.offload.merging import merged_stream
from tests.kernels.pieces import scatter
from tests.wires import next_frame

pytestmark = [pytest.mark.root, pytest.mark.compiled]

TX = (PortCounter.TX_PACKETS, PortCounter.TX_BYTES, PortCounter.TX_DROPPED)


def offload_batch(packets):
    """A batch of (virtio-net header of ten octets, frame), parsed as the worker does."""
    batch = Batch([one for _, one in packets])
    for row, (header, _) in zip(batch.headers, packets, strict=True):
        row[HEADROOM_BYTES - 12 : HEADROOM_BYTES] = list(header + bytes(2))
    decode_vnet(batch.headers, batch.meta, len(packets))
    parse(batch.headers, batch.meta, len(packets), np.zeros(64, np.uint64))
    return batch


def received(wire):
    """The next frame as it came: (virtio-net header, frame)."""
    data = wire.recv(1 << 17)
    return data[:10], data[10:]


def test_sent_frames_arrive_in_their_order(veth):
    """Those that no slot holds go another way, and still in their turn."""
    pair = veth(mtu=9000)
    worker = pair.open()
    sizes = [14, 60, 255, 256, 257, 1514, 1990, 1991, 9014]
    order = [8, 0, 1, 7, 2, 3, 8, 7, 4, 5, 6, 7]
    batch = Batch([frame(size) for size in sizes])
    worker.transmit(batch, order)
    assert [next_frame(pair.wire) for _ in order] == [frame(sizes[i]) for i in order]
    assert worker.counted(*TX) == [len(order), sum(sizes[i] for i in order), 0]
    assert worker.dropped() == {}


def test_the_ring_goes_round(veth):
    pair = veth()
    worker = pair.open()
    slots = int(worker.row["tx_slots"])
    for number in range(3 * slots // BATCH_SIZE + 1):
        sent = [frame(60 + i, number) for i in range(BATCH_SIZE - 1)]
        worker.transmit(Batch(sent))
        assert [next_frame(pair.wire) for _ in sent] == sent
    assert worker.dropped() == {}


def test_sent_payloads_in_pieces_arrive_whole(veth):
    pair = veth(mtu=9000)
    worker = pair.open()
    cuts = [[1], [1, 1], [3, 5, 7], [1] * PAYLOAD_PIECES_MAX, [1] * 255 + [8000], [4096, 1, 4096], [0]]
    frames = [frame(HEADER_BYTES + sum(lengths)) for lengths in cuts]
    batch = Batch(frames)
    lists = []
    for m, whole, lengths in zip(batch.meta, frames, cuts, strict=True):
        lists.append(scatter(whole[HEADER_BYTES:], lengths, random.Random(1)))
        m["payload_iov"], m["payload_addr"] = lists[-1][0] if any(lengths) else 0, 8
    worker.transmit(batch)
    worker.transmit(batch, [4])  # a copy that is flooded uses the list once more
    assert [next_frame(pair.wire) for _ in range(len(cuts) + 1)] == [*frames, frames[4]]
    assert worker.dropped() == {}


@pytest.mark.parametrize("size", [20, 202, 900])
def test_merged_packets_leave_whole(veth, size):
    pair = veth()
    worker = pair.open()
    merge, whole = merged_stream(size)
    worker.transmit(merge.batch, merge.order)
    assert next_frame(pair.wire) == whole
    assert worker.counted(*TX) == [1, len(whole), 0]


@pytest.mark.parametrize("size", [1500, 60000])
@pytest.mark.parametrize("tag", [None, 100])
@pytest.mark.parametrize("kind", [1, 1 | 0x80, 5])
def test_a_large_packet_leaves_in_one_piece(veth, size, tag, kind):
    pair = veth()
    worker = pair.open()
    if kind == 5 and not pair.port.capabilities.uso:
        kind = 1
    header, sent = gso_frame(size, tag=tag, kind=kind, segment=700)
    pair.wire.setsockopt(SOL_PACKET, PacketOption.PACKET_VNET_HDR, 1)
    worker.transmit(offload_batch([(header, sent)]))
    got, data = received(pair.wire)
    # The tag travels beside the frame, so the wire's header is that of an untagged one.
    assert data == (sent if tag is None else sent[:12] + sent[16:])
    expected = struct.unpack("<BBHHHH", header)
    flags, gso, _, segment, start, offset = struct.unpack("<BBHHHH", got)
    assert (flags, gso, segment, offset) == (1, kind, 700, expected[5])
    assert start == 34
    assert worker.counted(*TX) == [1, size + 4 * (tag is not None), 0]


def test_a_checksum_stays_owed(veth):
    pair = veth()
    worker = pair.open()
    header, sent = gso_frame(600)
    header = struct.pack("<BBHHHH", 1, 0, 0, 0, 34, 16)
    pair.wire.setsockopt(SOL_PACKET, PacketOption.PACKET_VNET_HDR, 1)
    worker.transmit(offload_batch([(header, sent)]))
    assert received(pair.wire) == (header, sent)


def test_a_tagged_frame_keeps_its_tag(veth):
    pair = veth()
    worker = pair.open()
    sent = [tagged(frame(60), 100), tagged(frame(1514), 0xE064, 0x88A8), tagged(tagged(frame(90), 7), 8)]
    worker.transmit(Batch(sent))
    assert [next_frame(pair.wire) for _ in sent] == sent


def test_a_frame_larger_than_the_mtu_is_dropped_alone(veth):
    pair = veth()
    worker = pair.open()
    sent = [frame(60), frame(2600), frame(61)]
    worker.transmit(Batch(sent))
    assert [next_frame(pair.wire) for _ in range(2)] == [frame(60), frame(61)]
    assert worker.dropped() == {"TX_ERROR": 1}
    assert worker.counted(*TX) == [2, 121, 1]


def test_a_header_that_the_kernel_refuses_is_dropped_alone(veth):
    pair = veth()
    worker = pair.open()
    batch = Batch([frame(60 + i) for i in range(5)])
    batch.meta[2]["offload"] = 1  # a checksum owed behind the frame's end
    batch.meta[2]["csum_start"], batch.meta[2]["csum_offset"] = HEADROOM_BYTES + 400, 16
    worker.transmit(batch)
    assert [next_frame(pair.wire) for _ in range(4)] == [frame(60 + i) for i in (0, 1, 3, 4)]
    assert worker.dropped() == {"TX_ERROR": 1}
    worker.transmit(batch, [0])
    assert next_frame(pair.wire) == frame(60)


def test_a_full_ring_is_a_counted_drop_and_no_wait(veth):
    """Through a queueing discipline that lets nothing out, slots stay in use."""
    pair = veth()
    shaper = ["root", "tbf", "rate", "8bit", "burst", "70", "limit", "1mb"]
    pair.run_in(pair.netns, ["tc", "qdisc", "add", "dev", "dpu0", *shaper])
    worker = pair.open(qdisc=True)
    slots = int(worker.row["tx_slots"])
    batch = Batch([frame(60)] * BATCH_SIZE)
    bursts = slots // BATCH_SIZE + 2
    for _ in range(bursts):
        worker.transmit(batch)
    sent, _, lost = worker.counted(*TX)
    assert sent in (slots, slots + 1)  # the shaper may have let one go
    assert sent + lost == bursts * BATCH_SIZE
    assert worker.dropped() == {"TX_FULL": lost}
    pair.run_in(pair.netns, ["tc", "qdisc", "del", "dev", "dpu0", "root"])
    worker.transmit(batch, [0])
    assert worker.counted(PortCounter.TX_PACKETS) == [sent + 1]


def test_an_interface_that_is_down(veth):
    pair = veth()
    worker = pair.open()
    pair.near("link", "set", "dpu0", "down")
    worker.transmit(Batch([frame(60), frame(1400), frame(2500)]))
    assert worker.dropped() == {"PORT_DOWN": 3}
    assert worker.counted(*TX) == [0, 0, 3]
    assert worker.receive() == (0, errno.EAGAIN)
    pair.near("link", "set", "dpu0", "up")
    pair.wait_until_up()
    worker.transmit(Batch([frame(60)]))
    assert next_frame(pair.wire) == frame(60)
    assert worker.counted(*TX) == [1, 60, 3]


def test_an_interface_that_is_gone(veth):
    pair = veth()
    worker = pair.open()
    pair.near("link", "del", "dpu0")
    assert worker.receive() == (0, errno.ENODEV)
    worker.transmit(Batch([frame(60), frame(2500)]))
    assert worker.dropped() == {"PORT_DOWN": 2}


def test_a_worker_beyond_the_queues_sends_too(veth):
    pair = veth()
    pair.open()
    workers = [pair.plane.worker(number, 3) for number in range(3)]
    for number, worker in enumerate(workers):
        worker.transmit(Batch([frame(60, number)]))
    assert [next_frame(pair.wire) for _ in workers] == [frame(60, number) for number in range(3)]


def test_a_ring_that_another_worker_holds(veth):
    pair = veth()
    worker = pair.open()
    worker.row["tx_lock"] = 1
    worker.transmit(Batch([frame(60)] * 3))
    assert worker.dropped() == {"TX_FULL": 3}
    assert worker.counted(*TX) == [0, 0, 3]
    worker.row["tx_lock"] = 0
    worker.transmit(Batch([frame(61)]))
    assert next_frame(pair.wire) == frame(61)


@pytest.mark.parametrize("noted", [False, True])
def test_a_successor_takes_back_what_a_dead_process_did_not_send(veth, noted):
    """It was killed between filling slots and having them sent, before or after it noted how far it was."""
    pair = veth()
    worker = pair.open()
    worker.transmit(Batch([frame(60)] * 3))
    head = int(worker.row["tx_head"])
    worker.row["tx_fd"] = -1
    worker.transmit(Batch([frame(70 + i) for i in range(4)]))
    assert int(worker.row["tx_head"]) == head
    for i in range(4):  # as they were before it looked at the outcome
        address = int(worker.row["tx_addr"]) + (head + i) * int(worker.row["tx_slot_bytes"])
        ctypes.c_uint32.from_address(address + PACKET_STATUS).value = TP_STATUS_SEND_REQUEST
    worker.row["tx_head"] = head + 4 * noted
    worker.row["tx_lock"] = 1
    pair.plane.close()
    pair.plane = Plane(pair.port, pair.plane.shared)
    worker = pair.plane.worker()
    assert int(worker.row["tx_head"]) == head
    worker.transmit(Batch([frame(80), frame(81)]))
    assert [next_frame(pair.wire) for _ in range(5)] == [frame(60)] * 3 + [frame(80), frame(81)]
