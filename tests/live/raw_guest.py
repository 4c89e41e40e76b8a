"""A guest that plays by no rules: a vhost-user front-end and split rings in a memfd that it can shrink."""

import mmap
import os
import struct
import time

from dpu_runtime.drivers.vhost_user.messages import Request
from tests.drivers.vhost_user.raw_frontend import (
    FEATURES,
    GUEST,
    MEMORY_BYTES,
    RING_BYTES,
    USER,
    Frontend,
    addr,
    state,
    table,
    u64,
)

RING_SIZE = 64
AVAIL_OFFSET = 0x2000  # of a ring's place, as raw_frontend.addr() has them
USED_OFFSET = 0x3000
BUFFERS_OFFSET = 0x10000
BUFFER_BYTES = 2048
FRAME = bytes.fromhex("020000000199 020000000188 88b5") + bytes(50)
TX = 1  # ring that the device reads


class RawGuest(Frontend):
    """A connection with one region of memory and one queue pair."""

    def __init__(self, path):
        super().__init__(path)
        self.fd = self.memory()
        self.map = mmap.mmap(self.fd, MEMORY_BYTES)
        self.kick_fd = [self.eventfd(), self.eventfd()]
        self.call_fd = [self.eventfd(), self.eventfd()]
        self.err_fd = self.eventfd()
        self.sent = 0

    def set_up(self):
        """Negotiate, share the memory, start both rings; the receive ring has no buffers."""
        self.ask_u64(Request.GET_FEATURES)
        self.send(Request.SET_OWNER)
        self.send(Request.SET_FEATURES, u64(FEATURES))
        self.ask_u64(Request.GET_PROTOCOL_FEATURES)
        self.send(Request.SET_PROTOCOL_FEATURES, u64(1 << 3))  # REPLY_ACK
        assert self.ack(Request.SET_MEM_TABLE, table((GUEST, MEMORY_BYTES, USER, 0)), [self.fd]) == 0
        for ring in (0, 1):
            self.send(Request.SET_VRING_NUM, state(ring, RING_SIZE))
            self.send(Request.SET_VRING_BASE, state(ring, 0))
            self.send(Request.SET_VRING_ADDR, addr(ring))
            self.send(Request.SET_VRING_CALL, u64(ring), [self.call_fd[ring]])
            self.send(Request.SET_VRING_ERR, u64(ring), [self.err_fd])
            self.send(Request.SET_VRING_KICK, u64(ring), [self.kick_fd[ring]])
            assert self.ack(Request.SET_VRING_ENABLE, state(ring, 1)) == 0

    def put(self, offset, data):
        """Write to the shared memory."""
        self.map[offset : offset + len(data)] = data

    def send_frames(self, count, guest_addr=None, length=None, flags=0, following=0):
        """Offer `count` one-descriptor frames and kick; the keywords make the descriptors lie."""
        place = TX * RING_BYTES
        for _ in range(count):
            slot = self.sent % RING_SIZE
            buffer = BUFFERS_OFFSET + slot * BUFFER_BYTES
            self.put(buffer, bytes(12) + FRAME)
            where = GUEST + buffer if guest_addr is None else guest_addr
            size = 12 + len(FRAME) if length is None else length
            self.put(place + 16 * slot, struct.pack("<QIHH", where, size, flags, following))
            self.put(place + AVAIL_OFFSET + 4 + 2 * slot, struct.pack("<H", slot))
            self.sent += 1
        self.put(place + AVAIL_OFFSET + 2, struct.pack("<H", self.sent & 0xFFFF))
        self.kick()

    def kick(self):
        """Ask the device to look at the transmit ring."""
        os.eventfd_write(self.kick_fd[TX], 1)

    def errors(self):
        """How often the device has told of an error."""
        try:
            return os.eventfd_read(self.err_fd)
        except BlockingIOError:  # the other side has made it so
            return 0

    def fill_call(self):
        """Fill the transmit ring's call eventfd up: the next write to it blocks."""
        os.eventfd_read(self.call_fd[TX])
        os.eventfd_write(self.call_fd[TX], (1 << 64) - 2)

    def used(self):
        """Index of the transmit ring's used ring."""
        return struct.unpack_from("<H", self.map, TX * RING_BYTES + USED_OFFSET + 2)[0]

    def shrink(self):
        """Take all memory away while it is mapped on the other side."""
        self.map.close()
        os.ftruncate(self.fd, 0)

    def hung_up(self, timeout_s):
        """Whether the other side closes the connection in time."""
        self.sock.settimeout(timeout_s)
        end = time.monotonic() + timeout_s
        try:
            while time.monotonic() < end:
                if not self.sock.recv(256):
                    return True
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return False
