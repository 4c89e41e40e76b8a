"""A vhost-user back-end in plain Python, which does what a test tells it: the oracle for libdpu's rings.

Spec: vhost-user (back-end side), virtio 1.2 2.7 (split virtqueues, device side).
"""

import array
import contextlib
import mmap
import os
import select
import socket
import struct
import threading
import time

import numpy as np

from dpu_runtime.drivers.vhost_user import features as f

GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 1, 2, 3, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL = range(8, 14)
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE = range(15, 19)

PROTOCOL = f.mask(f.VHOST_USER_PROTOCOL_F_MQ, f.VHOST_USER_PROTOCOL_F_REPLY_ACK)
ALL = (f.RING_FEATURES | f.OFFLOAD_FEATURES) & ~f.mask(f.VIRTIO_F_RING_PACKED)
DESC_DTYPE = np.dtype([("addr", "u8"), ("len", "u4"), ("flags", "u2"), ("next", "u2")])
USED_DTYPE = np.dtype([("id", "u4"), ("len", "u4")])
VNET_HDR = struct.Struct(
    "<BBHHHHH"
)  # 5.1.6: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num
PLAIN = (0, 0, 0, 0, 0, 0, 1)
NEXT, WRITE = 1, 2


class Ring:
    """One virtqueue, as the device sees it."""

    def __init__(self):
        self.size = self.base = 0
        self.kick = self.call = None
        self.enabled = False
        self.kicked_early = None  # whether there was a kick already when SET_VRING_KICK came
        self.taken = 0

    def place(self, memory, desc, avail, used):
        """Find the three areas in `memory: uint8[octets]`, by offset."""
        self.memory = memory
        self.desc = memory[desc : desc + 16 * self.size].view(DESC_DTYPE)
        self.avail = memory[avail : avail + 6 + 2 * self.size].view("u2")  # flags, idx, ring, used_event
        self.used_head = memory[used : used + 4].view("u2")  # flags, idx
        self.used = memory[used + 4 : used + 4 + 8 * self.size].view(USED_DTYPE)
        self.avail_event = memory[used + 4 + 8 * self.size :][:2].view("u2")

    @property
    def available(self):
        """Heads that were made available and not taken."""
        return (int(self.avail[1]) - self.base - self.taken) & 0xFFFF

    @property
    def used_event(self):
        return int(self.avail[2 + self.size])

    def take(self):
        """The next head: (id, [(offset, octets, flags)])."""
        assert self.available, "nothing is available"
        head = int(self.avail[2 + ((self.base + self.taken) & (self.size - 1))])
        self.taken += 1
        chain, at = [], head
        while True:
            desc = self.desc[at]
            chain.append((int(desc["addr"]) - self.memory_base, int(desc["len"]), int(desc["flags"])))
            if not desc["flags"] & NEXT:
                return head, chain
            at = int(desc["next"])

    def put(self, head, length=0):
        """Write a used element and publish it."""
        index = int(self.used_head[1])
        self.used[index & (self.size - 1)] = (head, length)
        self.used_head[1] = (index + 1) & 0xFFFF

    def signal(self):
        os.eventfd_write(self.call, 1)

    def was_kicked(self):
        """Whether there was a kick since the last look."""
        try:
            return os.eventfd_read(self.kick) > 0
        except BlockingIOError:
            return False


class Backend:
    """Listens on `path` (or connects to it) and serves one connection at a time, in a thread.

    features, protocol, queue_pairs   what it offers
    refuse                            request that is answered by an error
    silent                            request that is not answered
    """

    def __init__(self, path, features=ALL, queue_pairs=2, refuse=None, silent=None, connect=False):
        self.path, self.features, self.queue_pairs = path, features, queue_pairs
        self.refuse, self.silent, self.connect = refuse, silent, connect
        self.acked = self.protocol = 0
        self.requests = []
        self.rings = [Ring() for _ in range(2 * queue_pairs)]
        self.map = self.memory = self.peer = None
        self.fds = []
        self.stopping = threading.Event()
        self.listener = None
        if not connect:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(str(path))
            self.listener.listen(1)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def close(self):
        """Vanish as a killed process does: sockets and eventfds are closed, rings stay as they are."""
        self.stopping.set()
        self.thread.join(10)
        if self.listener:
            self.listener.close()
        self._forget()

    def _forget(self):
        for fd in self.fds:
            os.close(fd)
        self.fds = []
        if self.peer:
            self.peer.close()
        self.peer = None

    def wait_for(self, condition, seconds=10):
        """Wait until `condition()` holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "the front-end did not do it in time"
            time.sleep(0.001)
        return self

    # -- what tests do with the rings ---------------------------------------------------------------

    def sent(self, pair=0):
        """Take one packet off a transmitq: (head, header tuple, frame)."""
        ring = self.rings[2 * pair + 1]
        head, chain = ring.take()
        assert not any(flags & WRITE for _, _, flags in chain)
        octets = b"".join(self.memory[at : at + size].tobytes() for at, size, _ in chain)
        return head, VNET_HDR.unpack(octets[:12]), octets[12:]

    def deliver(self, frame, header=PLAIN, pair=0):
        """Put one packet into a receiveq, over as many buffers as it needs."""
        ring = self.rings[2 * pair]
        rest, used = bytes(12) + frame, []
        while rest:
            head, chain = ring.take()
            assert len(chain) == 1 and chain[0][2] == WRITE
            at, size, _ = chain[0]
            self.memory[at : at + min(size, len(rest))] = np.frombuffer(rest[:size], np.uint8)
            used.append((head, min(size, len(rest)), at))
            rest = rest[size:]
        first = used[0][2]
        self.memory[first : first + 12] = np.frombuffer(VNET_HDR.pack(*header[:6], len(used)), np.uint8)
        index = int(ring.used_head[1])
        for number, (head, size, _) in enumerate(used):
            ring.used[(index + number) & (ring.size - 1)] = (head, size)
        ring.used_head[1] = (index + len(used)) & 0xFFFF

    def echo(self, pair=0, limit=1 << 30):
        """Send what was sent back, unchanged; returns how many packets."""
        ring, count = self.rings[2 * pair + 1], 0
        while ring.available and self.rings[2 * pair].available and count < limit:
            head, header, frame = self.sent(pair)
            self.deliver(frame, header, pair)
            ring.put(head)
            count += 1
        return count

    # -- messages -----------------------------------------------------------------------------------

    def _serve(self):
        while not self.stopping.is_set():
            try:
                peer = self._next_peer()
                if peer:
                    self.peer = peer
                    self._talk(peer)
            except (ConnectionError, FileNotFoundError):
                pass
            if not self.stopping.is_set():
                self._forget()
                time.sleep(0.005)

    def _next_peer(self):
        if self.connect:
            peer = socket.socket(socket.AF_UNIX)
            peer.connect(str(self.path))
            return peer
        if select.select([self.listener], [], [], 0.02)[0]:
            return self.listener.accept()[0]
        return None

    def _talk(self, peer):
        self.rings = [Ring() for _ in self.rings]
        self.protocol = 0
        while not self.stopping.is_set():
            if not select.select([peer], [], [], 0.02)[0]:
                continue
            fds = array.array("i")
            head, control, _, _ = peer.recvmsg(12, socket.CMSG_SPACE(8 * 4))
            for level, kind, octets in control:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.frombytes(octets)
            if len(head) < 12:
                return
            request, flags, size = struct.unpack("III", head)
            payload = peer.recv(size, socket.MSG_WAITALL) if size else b""
            self.requests.append((request, payload))
            self.fds += fds
            answer = self._answer(request, payload, list(fds))
            if request == self.silent:
                continue
            if answer is None and flags & 8:
                answer = struct.pack("Q", int(request == self.refuse))
            if answer is not None:
                peer.sendall(struct.pack("III", request, 5, len(answer)) + answer)

    def _answer(self, request, payload, fds):
        """Do what a message says; octets if it has an answer of its own."""
        word = int.from_bytes(payload[:8], "little")
        index, value = word & 0xFFFFFFFF, word >> 32
        if request == GET_FEATURES:
            return struct.pack("Q", self.features)
        if request == GET_PROTOCOL_FEATURES:
            return struct.pack("Q", PROTOCOL)
        if request == GET_QUEUE_NUM:
            return struct.pack("Q", self.queue_pairs)
        if request == GET_VRING_BASE:
            ring = self.rings[index]
            return struct.pack("II", index, (ring.base + ring.taken) & 0xFFFF)
        if request == SET_FEATURES:
            self.acked = word
        elif request == SET_PROTOCOL_FEATURES:
            self.protocol = word
        elif request == SET_MEM_TABLE:
            self.guest, size, self.user, offset = struct.unpack_from("4Q", payload, 8)
            self.map = mmap.mmap(fds[0], size, offset=offset)
            self.memory = np.frombuffer(self.map, np.uint8)
        elif request == SET_VRING_ADDR:
            _, _, desc, used, avail, _ = struct.unpack("II4Q", payload)
            ring = self.rings[index]
            ring.memory_base = self.guest
            ring.place(self.memory, desc - self.user, avail - self.user, used - self.user)
        elif request in (SET_VRING_KICK, SET_VRING_CALL):
            setattr(self.rings[index & 0xFF], "kick" if request == SET_VRING_KICK else "call", fds[0])
            if request == SET_VRING_KICK:
                self.rings[index & 0xFF].kicked_early = self.rings[index & 0xFF].was_kicked()
        elif request in (SET_VRING_NUM, SET_VRING_BASE, SET_VRING_ENABLE):
            name = {SET_VRING_NUM: "size", SET_VRING_BASE: "base", SET_VRING_ENABLE: "enabled"}[request]
            setattr(self.rings[index], name, value)
        return None
