"""A vhost-user front-end that says what a test wants, right or wrong, and what a port's surroundings hear."""

import array
import asyncio
import json
import os
import socket
import struct
import threading
import time

from dpu_runtime.drivers.vhost_user import features as f
from dpu_runtime.drivers.vhost_user.messages import HEADER, NEED_REPLY, VERSION, Request

TIMEOUT_S = 10.0
MEMORY_BYTES = 1 << 20
GUEST = 0x4000_0000
USER = 0x7F00_0000_0000
RING_BYTES = 0x4000  # where the test puts each ring: room for 512 descriptors
FEATURES = f.mask(f.VIRTIO_F_VERSION_1, f.VIRTIO_NET_F_MRG_RXBUF, f.VHOST_USER_F_PROTOCOL_FEATURES)


def open_fds():
    """Descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def wait_for(condition):
    """Wait until a condition holds; a test fails that waits in vain."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def memory(size=MEMORY_BYTES):
    """A memfd of zeroes."""
    fd = os.memfd_create("guest")
    os.ftruncate(fd, size)
    return fd


def table(*regions):
    """Payload of SET_MEM_TABLE; a region is (guest, size, user, offset)."""
    return struct.pack("=I4x", len(regions)) + b"".join(struct.pack("=QQQQ", *r) for r in regions)


def single(guest=GUEST, size=MEMORY_BYTES, user=USER, offset=0):
    """Payload of ADD_MEM_REG and REM_MEM_REG."""
    return struct.pack("=8xQQQQ", guest, size, user, offset)


def u64(value):
    """Payload of one integer."""
    return struct.pack("=Q", value)


def state(ring, num=0):
    """Payload: vring state."""
    return struct.pack("=II", ring, num)


def addr(ring, desc=None, avail=None, used=None, flags=0, log=0):
    """Payload of SET_VRING_ADDR; by default a place of the ring's own in the first region."""
    place = USER + ring * RING_BYTES
    desc = place if desc is None else desc
    avail = place + 0x2000 if avail is None else avail
    used = place + 0x3000 if used is None else used
    return struct.pack("=IIQQQQ", ring, flags, desc, used, avail, log)


def inflight(size=0, offset=0, queues=2, queue_size=256):
    """Payload of GET_INFLIGHT_FD and SET_INFLIGHT_FD."""
    return struct.pack("=QQHH4x", size, offset, queues, queue_size)


class Frontend:
    """One connection; what it sends it gives no thought to. Descriptors it makes are closed at its end."""

    def __init__(self, path=None, sock=None):
        self.sock = sock or socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        if path:
            self.sock.connect(str(path))
        self.made = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()
        for fd in self.made:
            os.close(fd)
        self.made = []

    def memory(self, size=MEMORY_BYTES):
        """A memfd of this front-end's."""
        self.made.append(memory(size))
        return self.made[-1]

    def eventfd(self):
        """An eventfd of this front-end's."""
        self.made.append(os.eventfd(0, os.EFD_CLOEXEC))
        return self.made[-1]

    def send(self, request, payload=b"", fds=(), flags=VERSION, size=None):
        """Send a message."""
        header = HEADER.pack(request, flags, len(payload) if size is None else size)
        self.send_raw(header + payload, fds)

    def send_raw(self, data, fds=()):
        """Send octets."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sent = self.sock.sendmsg([data], rights)
        if data[sent:]:
            self.sock.sendall(data[sent:])

    def receive(self):
        """A reply: (request, flags, payload, descriptors); None when the connection was closed."""
        try:
            data, fds, _, _ = socket.recv_fds(self.sock, HEADER.size, 8)
            if not data:
                return None
            request, flags, size = HEADER.unpack(data)
            payload = self.sock.recv(size, socket.MSG_WAITALL) if size else b""
        except ConnectionError:
            return None
        self.made += fds
        return request, flags, payload, fds

    def ask(self, request, payload=b"", fds=()):
        """Payload of the reply to a request that has one of its own."""
        self.send(request, payload, fds)
        answer = self.receive()
        assert answer is not None, f"closed after {request!r}"
        assert answer[:2] == (request, VERSION | 4)
        return answer[2]

    def ask_u64(self, request, payload=b""):
        """The integer that a request is answered with."""
        return struct.unpack("=Q", self.ask(request, payload))[0]

    def ack(self, request, payload=b"", fds=()):
        """The acknowledgement asked for: 0 done, else refused."""
        self.send(request, payload, fds, flags=VERSION | NEED_REPLY)
        answer = self.receive()
        assert answer is not None, f"closed after {request!r}"
        assert answer[:2] == (request, VERSION | 4)
        return struct.unpack("=Q", answer[2])[0]

    def ok(self, request, payload=b"", fds=()):
        """Send what must succeed."""
        assert self.ack(request, payload, fds) == 0, request

    def closed(self):
        """Whether the other side hangs up, and says nothing more."""
        return self.receive() is None

    def negotiate(self, features=FEATURES, protocol=f.PROTOCOL_FEATURES):
        """Agree on features as QEMU does."""
        self.ask(Request.GET_FEATURES)
        self.ask(Request.GET_PROTOCOL_FEATURES)
        self.send(Request.SET_PROTOCOL_FEATURES, u64(protocol))
        self.send(Request.SET_OWNER)
        self.send(Request.SET_FEATURES, u64(features))
        return self

    def share(self):
        """One region of memory."""
        self.send(Request.SET_MEM_TABLE, table((GUEST, MEMORY_BYTES, USER, 0)), [self.memory()])

    def set_ring(self, ring, size=256, base=0):
        """Set one ring up, as far as its kick."""
        self.send(Request.SET_VRING_CALL, u64(ring), [self.eventfd()])
        self.send(Request.SET_VRING_NUM, state(ring, size))
        self.send(Request.SET_VRING_BASE, state(ring, base))
        self.send(Request.SET_VRING_ADDR, addr(ring))
        self.send(Request.SET_VRING_KICK, u64(ring), [self.eventfd()])

    def start(self, rings=2, **negotiated):
        """The whole conversation: rings live and enabled."""
        self.negotiate(**negotiated)
        self.share()
        for ring in range(rings):
            self.set_ring(ring)
            self.ok(Request.SET_VRING_ENABLE, state(ring, 1))
        return self


class RecordingPlane:
    """A data plane that notes what it is told. `refuses`: what it says to the next snapshot."""

    def __init__(self):
        self.snapshots = []
        self.features = []
        self.connections = []
        self.bases = {}
        self.refuses = None
        self.fds_wrong = 0

    async def apply(self, snapshot, fds):
        await asyncio.sleep(0)
        identities = [os.fstat(fd).st_ino for fd in fds]  # all are open
        self.fds_wrong += len(identities) != len(snapshot["fds"]) or len(set(fds)) != len(fds)
        if self.refuses:
            refuses, self.refuses = self.refuses, None
            raise OSError(refuses)
        self.snapshots.append(snapshot)

    def ring_base(self, ring):
        assert not self.ring(ring)["live"]
        return self.bases.get(ring, 0)

    def negotiated(self, features):
        self.features.append(features)

    def connected(self, connected):
        self.connections.append(connected)

    @property
    def last(self):
        """The snapshot in force."""
        return self.snapshots[-1]

    def ring(self, number):
        """A ring of it."""
        return next(ring for ring in self.last["rings"] if ring["ring"] == number)


class HoldingPlane(RecordingPlane):
    """Keeps descriptors by token, as the data plane does, so that they outlive the control process."""

    def __init__(self):
        super().__init__()
        self.held = {}

    async def apply(self, snapshot, fds):
        await super().apply(snapshot, fds)
        for token in self.held.keys() - set(snapshot["fds"]):
            os.close(self.held.pop(token))
        for token, fd in zip(snapshot["fds"], fds, strict=True):
            if token in self.held:
                assert os.path.sameopenfile(self.held[token], fd), "a token names another descriptor"
            else:
                self.held[token] = os.dup(fd)

    def hand_over(self):
        """What the next control process gets: the snapshot by way of JSON, and copies."""
        snapshot = json.loads(json.dumps(self.last))
        return snapshot, [os.dup(self.held[token]) for token in snapshot["fds"]]

    def close(self):
        for fd in self.held.values():
            os.close(fd)


class Served:
    """A port at work, its loop in a thread of its own."""

    def __init__(self, port, plane=None, opened=False):
        self.port = port
        self.plane = plane or RecordingPlane()
        self._opened = opened
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def share_loop(self, other):
        """Work in the loop of another one, which begins before and ends after this one."""
        self._loop.close()
        self._loop, self._thread = other._loop, None

    def call(self, coroutine):
        """Result of a coroutine in the port's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(TIMEOUT_S)

    def settle(self):
        """Let the loop do what it was about to do."""
        self.call(asyncio.sleep(0))

    def __enter__(self):
        if not self._opened:
            self.port.open()
        if self._thread:
            self._thread.start()
        self.call(self.port.start(self.plane))
        return self

    def __exit__(self, *_):
        if self._loop.is_running():
            self.leave()
        self.port.close()
        assert self.plane.fds_wrong == 0

    def leave(self):
        """Stop serving; as when a process ends, nothing is told to anybody."""
        self.call(self.port.stop())
        if self._thread:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(TIMEOUT_S)
            self._loop.close()

    def connect(self):
        """A new front-end."""
        return Frontend(self.port.path)

    def gone(self, times=1):
        """Wait until nobody is connected, for at least so many times, and nothing of it is left."""

        def nobody():
            said = self.plane.connections
            return said[-1:] == [False] and said.count(False) >= times and self.plane.last["socket"] is None

        wait_for(nobody)
        self.settle()


def listen(path):
    """A front-end's listening socket, for a port in client mode."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.bind(path)
    sock.listen()
    return sock
