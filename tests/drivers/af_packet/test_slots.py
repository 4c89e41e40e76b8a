"""AF_PACKET rings of slots in plain memory: what a kernel may write into them, and what a dead process left.

Runs in all three modes; the socket's queue is that of a Unix socket.
"""

import errno
import os
import socket
import struct

import numpy as np
import pytest

from dpu_runtime.drivers.af_packet import receive, slots
from dpu_runtime.drivers.af_packet.if_packet import (
    SLOT_SECONDS,
    TP_STATUS_COPY,
    TP_STATUS_KERNEL,
    TP_STATUS_USER,
    TP_STATUS_VLAN_VALID,
    TPACKET_V2,
    VNET_BYTES,
)
from dpu_runtime.drivers.af_packet.recovery import forget_read_packets, give_finished_slots
from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.compile.jit import PYTHON_MODE
from tests.drivers.af_packet.frames import frame, gso_frame
from tests.drivers.af_packet.packet_bursts import IN_PORT, Worker, shared_rows
from tests.drivers.bursts import NOBODYS_FD
from tests.kernels.pieces import FILL

pytestmark = pytest.mark.three_modes
SLOTS = 8
SLOT_BYTES = 2048
MAC = 76  # where the kernel puts an Ethernet frame behind a virtio-net header
RX = (PortCounter.RX_PACKETS, PortCounter.RX_BYTES, PortCounter.RX_DROPPED)

if PYTHON_MODE:
    receive.getsockopt = slots.readv = lambda *_: -1
    receive.errno = slots.errno = lambda: errno.EBADF


class Slots:
    """The kernel's side of a receive ring of TPACKET_V2."""

    def __init__(self):
        self.memory = np.full((SLOTS, SLOT_BYTES), FILL, np.uint8)
        self.memory[:, :4] = 0
        self.number = 0
        shared = shared_rows()
        row = shared.packet_queues[IN_PORT, 0]
        row["rx_addr"] = self.memory.ctypes.data
        row["rx_version"], row["rx_units"], row["rx_unit_bytes"] = TPACKET_V2, SLOTS, SLOT_BYTES
        self.worker = Worker(shared, [NOBODYS_FD])

    def put(self, data, vnet=bytes(VNET_BYTES), status=0, tci=0, tpid=0, length=None):
        """Hand over a packet."""
        length = len(data) if length is None else length
        words = struct.pack("<IIIHH", TP_STATUS_USER | status, length, len(data), MAC, MAC + 14)
        words += struct.pack("<IIHH", 0, 0, tci, tpid)
        octets = words.ljust(MAC - VNET_BYTES, b"\xa5") + vnet + data
        slot = self.memory[self.number % SLOTS]
        assert self.status(self.number) == TP_STATUS_KERNEL
        slot[: len(octets)] = np.frombuffer(octets, np.uint8)
        self.slot_word(self.number, SLOT_SECONDS)[0] = self.number & 0xFFFF_FFFF
        self.number += 1

    def slot_word(self, number, at):
        """Four octets of a slot."""
        return self.memory[number % SLOTS, at : at + 4].view("<u4")

    def keep(self, sock, size, seed):
        """Hand over a packet that is kept in the queue of `sock`; returns it."""
        data = frame(size, seed)
        sock.send(bytes(VNET_BYTES) + data)
        self.put(data[: SLOT_BYTES - MAC], length=size, status=TP_STATUS_COPY)
        return data

    def status(self, number):
        """Whose a slot is."""
        return int(self.slot_word(number, 0)[0])


def test_slots_hold_frames_of_every_size_and_go_round():
    rings = Slots()
    worker = rings.worker
    for size in [*range(14, 80), 255, 256, 257, 300, 1514, 1900]:
        rings.put(frame(size))
        rings.put(frame(size, 1))
        assert worker.receive() == (2, errno.EAGAIN)
        assert [worker.frame(i) for i in range(2)] == [frame(size), frame(size, 1)]
        assert rings.status(rings.number - 1) & TP_STATUS_USER
        worker.done()
        assert {rings.status(n) for n in range(SLOTS)} == {TP_STATUS_KERNEL}
    assert worker.counted(PortCounter.RX_DROPPED) == [0]


def test_the_count_of_slots_wraps():
    rings = Slots()
    rings.worker.row["rx_cursor"] = rings.worker.row["rx_given"] = rings.number = (1 << 32) - 2
    for number in range(5):
        rings.put(frame(60, number))
        assert rings.worker.receive() == (1, errno.EAGAIN)
        assert rings.worker.frame(0) == frame(60, number)
        rings.worker.done()
    assert int(rings.worker.row["rx_cursor"]) == 3


def test_slots_without_a_whole_frame_are_dropped_alone():
    """Truncated, empty, and kept in a queue that cannot be read."""
    rings = Slots()
    rings.put(frame(1000), length=5000)
    rings.put(b"")
    rings.put(frame(1000), length=5000, status=TP_STATUS_COPY)
    rings.put(frame(60))
    assert rings.worker.receive() == (1, errno.EAGAIN)
    assert rings.worker.frame(0) == frame(60)
    assert rings.worker.dropped() == {"RX_TRUNCATED": 2, "RX_ERROR": 1}
    assert rings.worker.counted(*RX) == [4, 60, 3]


@pytest.mark.parametrize("tag", [None, 5])
def test_the_virtio_net_header_of_a_slot_is_that_of_the_frame_with_its_tag(tag):
    rings = Slots()
    header, data = gso_frame(1600)
    expected, whole = gso_frame(1600, tag=tag)
    keys = {} if tag is None else {"status": TP_STATUS_VLAN_VALID, "tci": tag}
    rings.put(data, header, **keys)
    assert rings.worker.receive() == (1, errno.EAGAIN)
    assert rings.worker.frame(0) == whole
    assert rings.worker.vnet(0) == expected + bytes(2)


def test_slots_that_a_dead_process_took_are_given_back():
    rings = Slots()
    for number in range(3):
        rings.put(frame(60, number))
    assert rings.worker.receive() == (3, errno.EAGAIN)
    rings.put(frame(61))
    give_finished_slots(rings.worker.row)
    assert [rings.status(n) & TP_STATUS_USER for n in range(4)] == [0, 0, 0, 1]
    assert rings.worker.receive() == (1, errno.EAGAIN)
    assert rings.worker.frame(0) == frame(61)


@pytest.mark.parametrize("filled_again", [False, True])
def test_a_slot_that_was_given_back_and_not_noted(filled_again):
    """The kernel may have filled it again, when the ring was full: then it is not to be given once more."""
    rings = Slots()
    for number in range(3):
        rings.put(frame(60, number))
    assert rings.worker.receive() == (3, errno.EAGAIN)
    rings.slot_word(0, 0)[0] = TP_STATUS_KERNEL
    if filled_again:
        for number in range(3, SLOTS + 1):
            rings.put(frame(60, number))
    give_finished_slots(rings.worker.row)
    assert [rings.status(n) & TP_STATUS_USER for n in range(3)] == [int(filled_again), 0, 0]
    expected = [frame(60, number) for number in range(3, rings.number)]
    assert rings.worker.receive()[0] == len(expected)
    assert [rings.worker.frame(i) for i in range(len(expected))] == expected


@pytest.mark.parametrize("read", range(4))
def test_packets_that_a_dead_process_read_are_forgotten(read):
    """Of three in the queue, between others, `read` are gone; the rest still belong to their slots."""
    rings = Slots()
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        for seed in range(3):
            rings.put(frame(60, seed))
            rings.keep(far, 3000, seed)
        for _ in range(read):
            os.read(near.fileno(), 4096)
        forget_read_packets(rings.worker.row, near.fileno())
        kept = [rings.status(n) & TP_STATUS_COPY != 0 for n in (1, 3, 5)]
        assert kept == [seed >= read for seed in range(3)]
        assert [rings.status(n) for n in (0, 2, 4)] == [TP_STATUS_USER] * 3
        assert rings.status(6) == TP_STATUS_KERNEL


def test_nothing_is_forgotten_without_packets_in_the_queue():
    rings = Slots()
    forget_read_packets(rings.worker.row, -1)
    for number in range(SLOTS - 1):
        rings.put(frame(60, number))
    forget_read_packets(rings.worker.row, -1)
    assert rings.worker.receive() == (SLOTS - 1, errno.EAGAIN)
