"""What front-ends say, and how it goes wrong: octets, sizes, flags, descriptors, order.

A function of the random numbers given; messages are (request, payload, descriptors, flags).
"""

import os
import socket
import struct

from dpu_runtime.drivers.vhost_user import features as f
from dpu_runtime.drivers.vhost_user.messages import HEADER, Request
from tests.drivers.vhost_user import raw_frontend as raw
from tests.drivers.vhost_user.raw_frontend import GUEST, MEMORY_BYTES, USER, state, u64

R = Request
INTERESTING = (
    0,
    1,
    2,
    3,
    7,
    8,
    0xFF,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFF,
    1 << 31,
    (1 << 32) - 1,
    1 << 63,
    (1 << 64) - 1,
)
PLACES = (GUEST, GUEST + MEMORY_BYTES, USER, USER + MEMORY_BYTES, USER + MEMORY_BYTES - 8, 4096, MEMORY_BYTES)
MASK = (1 << 64) - 1


class Pool:
    """Descriptors of all sorts, for one run."""

    def __init__(self):
        read_end, write_end = os.pipe()
        self.memory = [raw.memory() for _ in range(3)]
        self.events = [os.eventfd(0) for _ in range(3)]
        read_only = os.open(f"/proc/self/fd/{self.memory[0]}", os.O_RDONLY)
        folder = os.open("/", os.O_RDONLY)
        self.odd = [read_end, write_end, read_only, folder]
        self.sockets = socket.socketpair()
        self.every = [*self.memory, *self.events, *self.odd, *(sock.fileno() for sock in self.sockets)]

    def close(self):
        """Give all back."""
        for fd in (*self.memory, *self.events, *self.odd):
            os.close(fd)
        for sock in self.sockets:
            sock.close()


def conversation(rng, pool):
    """A valid one: [(request, payload, descriptors, flags)], from hello to a few changes of mind."""
    said = []

    def say(request, payload=b"", fds=()):
        said.append((request, payload, list(fds), 1 | rng.choice((0, 8))))

    features = raw.FEATURES | rng.getrandbits(64) & f.RING_FEATURES
    say(R.GET_FEATURES)
    say(R.GET_PROTOCOL_FEATURES)
    say(R.SET_PROTOCOL_FEATURES, u64(f.PROTOCOL_FEATURES & ~(rng.random() < 0.1)))
    say(R.GET_QUEUE_NUM)
    say(R.SET_OWNER)
    say(R.SET_FEATURES, u64(features))
    if rng.random() < 0.3:
        say(R.GET_INFLIGHT_FD, raw.inflight(queues=4, queue_size=256))
    if rng.random() < 0.5:
        say(R.SET_MEM_TABLE, raw.table((GUEST, MEMORY_BYTES, USER, 0)), pool.memory[:1])
    else:
        say(R.ADD_MEM_REG, raw.single(), pool.memory[:1])
    for ring in range(rng.randrange(1, 5)):
        start_ring(rng, pool, say, ring)
    for _ in range(rng.randrange(8)):
        rng.choice(CHANGES)(rng, pool, say, features)
    return said


def start_ring(rng, pool, say, ring):
    """Set a ring up."""
    say(R.SET_VRING_NUM, state(ring, rng.choice((1, 2, 64, 256))))
    say(R.SET_VRING_BASE, state(ring, rng.choice((0, 0x8000, 0x8000_8000))))
    say(R.SET_VRING_ADDR, raw.addr(ring))
    for request in (R.SET_VRING_CALL, R.SET_VRING_ERR, R.SET_VRING_KICK):
        no_fd = rng.random() < 0.2
        say(request, u64(ring | no_fd << 8), [] if no_fd else [rng.choice(pool.events)])
    say(R.SET_VRING_ENABLE, state(ring, 1))


def restart(rng, pool, say, _features):
    """Stop a ring and start it again."""
    ring = rng.randrange(4)
    say(R.GET_VRING_BASE, state(ring))
    start_ring(rng, pool, say, ring)


def log(rng, pool, say, features):
    """Begin logging."""
    say(R.SET_LOG_BASE, struct.pack("=QQ", 4096, 0), [rng.choice(pool.memory)])
    say(R.SET_FEATURES, u64(features | 1 << f.VHOST_F_LOG_ALL))
    say(R.SET_VRING_ADDR, raw.addr(0, flags=1, log=4096))
    say(R.SET_LOG_FD, b"", [rng.choice(pool.events)])


def more_memory(rng, pool, say, _features):
    """Plug a region in, perhaps out again."""
    region = raw.single(guest=0, size=4096 * rng.randrange(1, 3), user=0)
    say(R.ADD_MEM_REG, region, [rng.choice(pool.memory)])
    if rng.random() < 0.7:
        say(R.REM_MEM_REG, region)


def reset(rng, pool, say, features):
    """Begin again."""
    say(rng.choice((R.RESET_DEVICE, R.RESET_OWNER)))
    say(R.SET_FEATURES, u64(features))
    start_ring(rng, pool, say, rng.randrange(4))


def small_talk(rng, pool, say, _features):
    """Other requests."""
    say(R.NET_SET_MTU, u64(rng.choice((68, 1500, 9000))))
    say(R.SET_STATUS, u64(rng.randrange(16)))
    say(R.GET_STATUS)
    say(R.GET_MAX_MEM_SLOTS)
    say(R.SET_INFLIGHT_FD, raw.inflight(MEMORY_BYTES, 0, 4, 256), [rng.choice(pool.memory)])
    say(R.SET_VRING_ENABLE, state(rng.randrange(4), rng.randrange(2)))


CHANGES = (restart, log, more_memory, reset, small_talk)


def damage_payload(rng, payload):
    """Other octets, or another length."""
    payload = bytearray(payload)
    how = rng.randrange(5)
    if how == 0 or not payload:
        return bytes(payload[: rng.randrange(len(payload) + 1)]) + rng.randbytes(rng.choice((0, 1, 8, 32)))
    if how == 1:
        payload[rng.randrange(len(payload))] ^= 1 << rng.randrange(8)
    elif len(payload) >= 8:
        at = rng.randrange(len(payload) // 4) * 4
        value = rng.choice(PLACES if how == 2 else INTERESTING) + rng.randrange(-2, 3)
        piece = struct.pack("=Q", value & MASK)[: min(rng.choice((4, 8)), len(payload) - at)]
        payload[at : at + len(piece)] = piece
    return bytes(payload)


def damage(rng, pool, message):
    """Octets of a damaged message, and its descriptors."""
    request, payload, fds, flags = message
    size = None
    how = rng.randrange(6)
    if how <= 1:
        payload = damage_payload(rng, payload)
    elif how == 2:
        request = rng.choice((rng.randrange(50), rng.getrandbits(32)))
    elif how == 3:
        flags = rng.choice((rng.randrange(16), rng.getrandbits(32)))
    elif how == 4:
        size = (
            rng.choice((len(payload) + rng.randrange(-3, 4), 4096, 4097, rng.getrandbits(32))) & 0xFFFF_FFFF
        )
    else:
        fds = rng.choices(pool.every, k=rng.choice((0, 1, 1, 2, 8, 9, 16, 17, 40)))
    return HEADER.pack(request, flags, len(payload) if size is None else size) + payload, fds


def disorder(rng, said):
    """Messages left out, repeated or exchanged."""
    for _ in range(rng.choice((0, 0, 0, 1, 3))):
        a, b = rng.randrange(len(said)), rng.randrange(len(said))
        how = rng.randrange(3)
        if how == 0 and len(said) > 1:
            del said[a]
        elif how == 1:
            said.insert(a, said[b])
        else:
            said[a], said[b] = said[b], said[a]
    return said
