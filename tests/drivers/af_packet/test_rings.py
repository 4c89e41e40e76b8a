"""AF_PACKET rings in plain memory: what a kernel may write into them, and what it finds in them.

Runs in all three modes; system calls are answered with "no such descriptor", so that nothing is ever sent.
"""

import errno
import struct

import numpy as np
import pytest

from dpu_runtime.drivers.af_packet import receive, transmit
from dpu_runtime.drivers.af_packet.if_packet import (
    BLOCK_HEADER_BYTES,
    BLOCK_STATUS,
    PACKET_HEADER_BYTES,
    PACKET_STATUS,
    TP_STATUS_AVAILABLE,
    TP_STATUS_KERNEL,
    TP_STATUS_LOSING,
    TP_STATUS_SENDING,
    TP_STATUS_USER,
    TP_STATUS_VLAN_TPID_VALID,
    TP_STATUS_VLAN_VALID,
    TPACKET_V3,
    VNET_BYTES,
)
from dpu_runtime.drivers.af_packet.recovery import give_finished_blocks, withdraw_unsent
from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.compile.jit import PYTHON_MODE
from dpu_runtime.kernels.layout import (
    BATCH_SIZE,
    BURST_BYTES_MAX,
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    HEADROOM_BYTES,
)
from tests.drivers.af_packet.frames import frame, gso_frame, tagged
from tests.drivers.af_packet.packet_bursts import IN_PORT, Worker, shared_rows
from tests.drivers.bursts import NOBODYS_FD
from tests.kernels.batches import Batch
from tests.kernels.pieces import FILL

pytestmark = pytest.mark.three_modes
BLOCKS = 4
BLOCK_BYTES = 128 << 10
SLOTS = 8
SLOT_BYTES = 2048
MAC = 92  # in a block, where the kernel puts an Ethernet frame behind a virtio-net header
RX = (PortCounter.RX_PACKETS, PortCounter.RX_BYTES, PortCounter.RX_DROPPED)
TX = (PortCounter.TX_PACKETS, PortCounter.TX_BYTES, PortCounter.TX_DROPPED)

if PYTHON_MODE:
    receive.getsockopt = transmit.send = transmit.writev = lambda *_: -1
    receive.errno = transmit.errno = lambda: errno.EBADF


class Rings:
    """The kernel's side of a queue whose memory is `memory`: blocks are written one after another."""

    def __init__(self):
        self.memory = np.full(BLOCKS * BLOCK_BYTES + SLOTS * SLOT_BYTES, FILL, np.uint8)
        self.blocks = self.memory[: BLOCKS * BLOCK_BYTES].reshape(BLOCKS, BLOCK_BYTES)
        self.slots = self.memory[BLOCKS * BLOCK_BYTES :].reshape(SLOTS, SLOT_BYTES)
        self.slots[:, :PACKET_HEADER_BYTES] = 0
        self.blocks[:, :BLOCK_HEADER_BYTES] = 0
        self.sequence = 1
        shared = shared_rows()
        row = shared.packet_queues[IN_PORT, 0]
        row["rx_addr"], row["tx_addr"] = self.blocks.ctypes.data, self.slots.ctypes.data
        row["rx_version"], row["rx_units"], row["rx_unit_bytes"] = TPACKET_V3, BLOCKS, BLOCK_BYTES
        row["tx_slots"], row["tx_slot_bytes"] = SLOTS, SLOT_BYTES
        row["rx_cursor"], row["rx_given"], row["tx_fd"] = 1 << 32, 1, -1
        self.worker = Worker(shared, [NOBODYS_FD])

    def block(self, packets, status=0):
        """Hand over a block of packets, each the arguments of `packet`."""
        block = self.blocks[(self.sequence - 1) % BLOCKS]
        assert self.status(self.sequence) == TP_STATUS_KERNEL
        at = BLOCK_HEADER_BYTES
        for k, keys in enumerate(packets):
            data = packet(**keys)
            room = -(-len(data) // 8) * 8
            data = struct.pack("<I", room if k + 1 < len(packets) else 0) + data[4:]
            block[at : at + len(data)] = np.frombuffer(data, np.uint8)
            at += room
        words = struct.pack(
            "<IIIIIIQ", 1, 0, TP_STATUS_USER | status, len(packets), BLOCK_HEADER_BYTES, at, self.sequence
        )
        block[: len(words)] = np.frombuffer(words, np.uint8)
        self.sequence += 1

    def status(self, sequence):
        """Whose a block is."""
        return int(self.blocks[(sequence - 1) % BLOCKS, BLOCK_STATUS : BLOCK_STATUS + 4].view("<u4")[0])

    def slot(self, number):
        """A slot's (status, virtio-net header, frame)."""
        octets = self.slots[number].tobytes()
        length, status = struct.unpack_from("<II", octets, 16)
        data = octets[PACKET_HEADER_BYTES : PACKET_HEADER_BYTES + length]
        return status, data[:VNET_BYTES], data[VNET_BYTES:]

    def set_slot(self, number, status):
        """Put a status into a slot."""
        self.slots[number, PACKET_STATUS : PACKET_STATUS + 4].view("<u4")[0] = status


def packet(data, vnet=bytes(VNET_BYTES), status=0, tci=0, tpid=0, length=None):
    """A packet as it lies in a block, without the octets to the next."""
    length = len(data) if length is None else length
    words = struct.pack("<IIIIIIHH", 0, 0, 0, len(data), length, TP_STATUS_USER | status, MAC, MAC + 14)
    words += struct.pack("<IIHH", 0, tci, tpid, 0) + bytes(8)
    return words.ljust(MAC - VNET_BYTES, b"\xa5") + vnet + data


@pytest.fixture
def rings():
    return Rings()


def test_frames_of_every_size_lie_where_the_record_says(rings):
    worker = rings.worker
    for size in [*range(1, 140), 255, 256, 257, 300, 1514, 9000, FRAME_BYTES_MAX]:
        rings.block([{"data": frame(14)[:size] if size < 14 else frame(size)}])
        assert worker.receive() == (1, errno.EAGAIN)
        assert worker.frame(0) == (frame(14)[:size] if size < 14 else frame(size))
        m = worker.meta[0]
        assert int(m["header_end"]) == HEADROOM_BYTES + min(size, HEADER_BYTES)
        assert worker.headers[0, int(m["header_end"]) :].tobytes().strip(bytes([FILL])) == b"" or size > 60
        worker.headers[0] = FILL
        worker.done()


@pytest.mark.parametrize("cut", [1, 60, 1000])
def test_truncated_and_empty_frames_are_dropped_alone(rings, cut):
    good = frame(1514)
    bad = [{"data": good[:-cut], "length": 1514}, {"data": b""}]
    bad.append({"data": good, "length": FRAME_BYTES_MAX + 1})
    rings.block([{"data": good}, *bad, {"data": frame(60)}])
    assert rings.worker.receive() == (2, errno.EAGAIN)
    assert [rings.worker.frame(i) for i in range(2)] == [good, frame(60)]
    assert rings.worker.dropped() == {"RX_TRUNCATED": 3}
    assert rings.worker.counted(*RX) == [5, 1574, 3]


def test_a_burst_ends_with_the_batch_and_the_next_goes_on_in_the_block(rings):
    sent = [frame(60 + number) for number in range(BATCH_SIZE + 10)]
    rings.block([{"data": one} for one in sent])
    worker = rings.worker
    assert worker.receive() == (BATCH_SIZE, 0)
    assert [worker.frame(i) for i in range(BATCH_SIZE)] == sent[:BATCH_SIZE]
    worker.done()
    assert rings.status(1) & TP_STATUS_USER
    assert worker.receive() == (10, errno.EAGAIN)
    assert [worker.frame(i) for i in range(10)] == sent[BATCH_SIZE:]
    assert rings.status(1) & TP_STATUS_USER
    worker.done()
    assert rings.status(1) == TP_STATUS_KERNEL


def test_a_burst_ends_with_its_octets(rings):
    fit = -(-BURST_BYTES_MAX // 60000)
    assert fit > BLOCKS
    sent = [frame(60000, number) for number in range(2 * BLOCKS)]
    for pair in zip(sent[::2], sent[1::2], strict=True):
        rings.block([{"data": one} for one in pair])
    assert rings.worker.receive() == (fit, 0)
    assert [rings.worker.frame(i) for i in range(fit)] == sent[:fit]
    rings.worker.done()
    assert [rings.status(n) & TP_STATUS_USER for n in range(1, BLOCKS + 1)] == [0, 0, 1, 1]


def test_a_burst_spans_blocks_and_the_ring_goes_round(rings):
    worker = rings.worker
    number = 0
    for _ in range(3 * BLOCKS):
        first = rings.sequence
        sent = []
        for size in (60, 300):
            sent += [frame(size, number), frame(size + 1, number)]
            rings.block([{"data": one} for one in sent[-2:]])
            number += 1
        assert worker.receive() == (4, errno.EAGAIN)
        assert [worker.frame(i) for i in range(4)] == sent
        worker.done()
        assert [rings.status(first + i) for i in range(2)] == [TP_STATUS_KERNEL] * 2


def test_the_sequence_number_wraps(rings):
    worker = rings.worker
    rings.sequence = (1 << 32) - 2
    worker.row["rx_cursor"], worker.row["rx_given"] = rings.sequence << 32, rings.sequence
    for number in range(6):
        rings.block([{"data": frame(60, number)}])
        assert worker.receive() == (1, errno.EAGAIN)
        assert worker.frame(0) == frame(60, number)
        worker.done()


def test_an_empty_block_is_passed_and_given_back(rings):
    rings.block([])
    rings.block([{"data": frame(60)}], status=TP_STATUS_LOSING)
    assert rings.worker.receive() == (1, errno.EAGAIN)
    rings.worker.done()
    assert [rings.status(1), rings.status(2)] == [TP_STATUS_KERNEL] * 2


def test_nothing_to_receive(rings):
    assert rings.worker.receive() == (0, errno.EBADF)  # what SO_ERROR of no descriptor says
    rings.worker.done()
    assert rings.worker.counted(*RX) == [0, 0, 0]


@pytest.mark.parametrize("size", [60, 255, 256, 300])
@pytest.mark.parametrize(("status", "tpid"), [(0, 0x8100), (TP_STATUS_VLAN_TPID_VALID, 0x88A8)])
def test_a_tag_is_put_back(rings, size, status, tpid):
    keys = {"status": TP_STATUS_VLAN_VALID | status, "tci": 0xE123, "tpid": 0x88A8}
    rings.block([{"data": frame(size), **keys}])
    assert rings.worker.receive() == (1, errno.EAGAIN)
    assert rings.worker.frame(0) == tagged(frame(size), 0xE123, tpid)
    assert rings.worker.vnet(0) == bytes(12)


@pytest.mark.parametrize("tag", [None, 5])
def test_the_virtio_net_header_is_that_of_the_frame_with_its_tag(rings, tag):
    header, data = gso_frame(5000)
    expected, whole = gso_frame(5000, tag=tag)
    keys = {} if tag is None else {"status": TP_STATUS_VLAN_VALID, "tci": tag}
    rings.block([{"data": data, "vnet": header, **keys}])
    assert rings.worker.receive() == (1, errno.EAGAIN)
    assert rings.worker.frame(0) == whole
    assert rings.worker.vnet(0) == expected + bytes(2)


def test_small_frames_lie_in_slots_all_header(rings):
    """Nobody sends them, so they are taken back; the slots still show what was in them."""
    worker = rings.worker
    worker.row["tx_head"] = 6
    sent = [frame(60), frame(HEADER_BYTES + 1), frame(SLOT_BYTES - PACKET_HEADER_BYTES - VNET_BYTES)]
    worker.transmit(Batch(sent))
    for number, one in zip((6, 7, 0), sent, strict=True):
        vnet = struct.pack("<BBHHHH", 0, 0, len(one), 0, 0, 0)
        assert rings.slot(number) == (TP_STATUS_AVAILABLE, vnet, one)
    assert int(worker.row["tx_head"]) == 6
    assert int(worker.row["tx_lock"]) == 0
    assert worker.dropped() == {"TX_ERROR": 3}
    assert worker.counted(*TX) == [0, 0, 3]


def test_an_owed_checksum_and_a_segment_size_lie_in_front(rings):
    header, data = gso_frame(1500)
    batch = Batch([data])
    m = batch.meta[0]
    m["offload"], m["gso_type"], _, m["gso_size"], start, m["csum_offset"] = struct.unpack("<BBHHHH", header)
    m["csum_start"], m["l5_offset"] = HEADROOM_BYTES + start, HEADROOM_BYTES + 54
    rings.worker.transmit(batch)
    _, vnet, _ = rings.slot(0)
    assert struct.unpack("<BBHHHH", vnet) == (1, 1, len(data), 1448, 34, 16)


def test_a_slot_that_is_in_use_ends_the_burst(rings):
    rings.set_slot(2, TP_STATUS_SENDING)
    rings.worker.transmit(Batch([frame(60 + i) for i in range(4)]))
    assert [rings.slot(number)[2] for number in (0, 1)] == [frame(60), frame(61)]
    assert rings.slot(2)[0] == TP_STATUS_SENDING
    rings.worker.row["tx_head"] = 2
    rings.worker.drops[:] = 0
    rings.worker.transmit(Batch([frame(60)] * 3))
    assert rings.worker.dropped() == {"TX_FULL": 3}


def test_more_packets_than_slots(rings):
    rings.worker.transmit(Batch([frame(60)] * BATCH_SIZE))
    assert sum(rings.worker.dropped().values()) == BATCH_SIZE
    assert {rings.slot(number)[0] for number in range(SLOTS)} == {TP_STATUS_AVAILABLE}


def test_a_frame_that_no_slot_holds_is_sent_beside_the_ring(rings):
    size = SLOT_BYTES - PACKET_HEADER_BYTES - VNET_BYTES + 1
    rings.worker.transmit(Batch([frame(size)] * 2))
    assert rings.worker.dropped() == {"TX_ERROR": 2}
    assert rings.slot(0)[2] == b""


@pytest.mark.parametrize("given_again", [False, True])
def test_blocks_that_a_dead_process_was_done_with_are_given_back(rings, given_again):
    for number in range(3):
        rings.block([{"data": frame(60, number)}])
    assert rings.worker.receive() == (3, errno.EAGAIN)
    if given_again:  # the first was given back, not noted, and filled again
        rings.blocks[0, BLOCK_STATUS] = TP_STATUS_KERNEL
        rings.sequence = 5
        rings.block([{"data": frame(61)}])
    give_finished_blocks(rings.worker.row)
    assert [rings.status(n) for n in (1, 2, 3)] == [int(given_again), TP_STATUS_KERNEL, TP_STATUS_KERNEL]
    assert int(rings.worker.row["rx_given"]) == 4


@pytest.mark.parametrize("head", [0, 3, 7])
@pytest.mark.parametrize("behind", range(4))
def test_slots_that_a_dead_process_filled_are_emptied(rings, head, behind):
    """`behind` of four were noted in the head."""
    rings.worker.row["tx_head"] = (head + behind) % SLOTS
    rings.set_slot((head - 1) % SLOTS, TP_STATUS_SENDING)
    for k in range(4):
        rings.set_slot((head + k) % SLOTS, 1)
    withdraw_unsent(rings.worker.row)
    assert int(rings.worker.row["tx_head"]) == head
    expected = [TP_STATUS_SENDING if n == (head - 1) % SLOTS else TP_STATUS_AVAILABLE for n in range(SLOTS)]
    assert [rings.slot(n)[0] for n in range(SLOTS)] == expected
