"""Fuzz the vhost-user message channel: `python -m tests.fuzz.vhost_messages --messages 1000000 --seed 1`.

Conversations of `vhost_conversations.py` go to one port over a real socket, while a second port in the same
loop serves a well-behaved front-end. What must hold: nothing is raised, no descriptor is left, every state
handed to the data plane is one it can work with, the second port answers.
Exit status: 0 nothing found, 1 something found.
"""

import argparse
import array
import collections
import contextlib
import fcntl
import logging
import os
import random
import re
import socket
import sys
import tempfile
import time

from dpu_runtime.drivers.vhost_user import features as f
from dpu_runtime.drivers.vhost_user import port as port_module
from dpu_runtime.drivers.vhost_user.messages import HEADER, Request
from dpu_runtime.drivers.vhost_user.port import VhostUserPort
from tests.drivers.vhost_user import raw_frontend as raw
from tests.drivers.vhost_user.raw_frontend import MEMORY_BYTES, state
from tests.fuzz.vhost_conversations import Pool, conversation, damage, disorder

R = Request
CHECK_EVERY = 50  # conversations between looks at descriptors and the other port
DAMAGE_CHANCE = 0.06  # of a message; some conversations have none, some three times as much


class FoundError(Exception):
    """A port did what it must not."""


class Watch(logging.Handler):
    """Counts why messages were refused; keeps what is no refusal."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.reasons = collections.Counter()
        self.errors = []

    def emit(self, record):
        if record.levelno >= logging.ERROR:
            self.errors.append(self.format(record))
        elif record.levelno == logging.WARNING:
            self.reasons[re.sub(r"0x[0-9a-f]+|\d+", "N", record.getMessage())] += 1


class CheckingPlane(raw.RecordingPlane):
    """Checks every state against the specification, in its own words; refuses one now and then."""

    def __init__(self, rng=None):
        super().__init__()
        self.rng = rng
        self.live = collections.Counter()  # rings by format
        self.bad = []

    async def apply(self, snapshot, fds):
        if self.rng and snapshot["socket"] is not None and self.rng.random() < 0.01:
            self.refuses = "not now"
        await super().apply(snapshot, fds)
        del self.snapshots[:-1]
        self.bad += violations(snapshot, dict(zip(snapshot["fds"], fds, strict=True)))
        for ring in snapshot["rings"]:
            self.live["packed" if snapshot["features"] >> 34 & 1 else "split"] += ring["live"]


def violations(snapshot, fds):
    """Words for what no data plane could work with."""
    regions = snapshot["regions"]
    for number, (guest, size, user, offset, token) in enumerate(regions):
        if not 0 < offset + size <= 1 << 63 or not fcntl.fcntl(fds[token], fcntl.F_GETFL) & os.O_RDWR:
            yield f"region {number} cannot be mapped"
        for other in regions[:number]:
            if guest < other[0] + other[1] and other[0] < guest + size:
                yield "regions overlap in guest addresses"
            if user < other[2] + other[1] and other[2] < user + size:
                yield "regions overlap in user addresses"
    packed = snapshot["features"] >> f.VIRTIO_F_RING_PACKED & 1
    for ring in snapshot["rings"]:
        if ring["live"]:
            yield from ring_violations(ring, regions, packed, snapshot["features"])
        for name in ("kick", "call", "err"):
            if ring[name] is not None and "eventfd" not in os.readlink(f"/proc/self/fd/{fds[ring[name]]}"):
                yield f"{name} is no eventfd"


def ring_violations(ring, regions, packed, features):
    """Words for what a live ring must not be."""
    size = ring["size"]
    if not 0 < size <= 32768 or (not packed and size & (size - 1)):
        yield f"ring of {size}"
    if not features >> 32 & 1:
        yield "a live ring without VERSION_1"
    areas = [("desc", 16 * size, 16)]
    areas += (
        [("driver", 4, 4), ("device", 4, 4)]
        if packed
        else [("driver", 4 + 2 * size, 2), ("device", 4 + 8 * size, 4)]
    )
    for name, octets, alignment in areas:
        address = ring[name]
        if address % alignment:
            yield f"{name} is out of line"
        if not any(
            user <= address and address + octets <= user + length for _, length, user, _, _ in regions
        ):
            yield f"{name} is outside memory"
    if packed and (ring["base"] & 0x7FFF >= size or ring["base"] >> 16 & 0x7FFF >= size):
        yield f"base {ring['base']:#x} in a ring of {size}"


def drain(sock):
    """Take replies and what came with them; False when the connection was closed."""
    while True:
        try:
            flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            data, rights, _, _ = sock.recvmsg(65536, socket.CMSG_SPACE(64), flags)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        for fd in [fd for _, _, octets in rights for fd in array.array("i", octets)]:
            os.close(fd)
        if not data:
            return False


def send(rng, sock, data, fds):
    """Send a message, sometimes in pieces; False when nobody listens any more."""
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 0, 0, 1, 3))))
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        if begin == end:
            continue
        with_it = fds if begin == 0 or rng.random() < 0.02 else []
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", with_it))] if with_it else []
        try:
            sock.sendmsg([data[begin:end]], rights)
        except OSError:
            return False
    return drain(sock)


def hear_out(sock):
    """Say no more, and wait until the other side hangs up too."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        raw.wait_for(lambda: not drain(sock))


class Fuzzer:
    """Two ports in one loop, and what happened so far."""

    def __init__(self, folder, seed):
        self.rng = random.Random(seed)
        self.pool = Pool()
        self.watch = Watch()
        self.messages = self.conversations = self.damaged = self.hung_up = 0
        plane = CheckingPlane(random.Random(seed + 1))
        self.fuzzed = raw.Served(VhostUserPort("fuzzed", f"{folder}/fuzzed.sock", queues=2), plane)
        self.steady = raw.Served(VhostUserPort("steady", f"{folder}/steady.sock", queues=2), CheckingPlane())
        self.steady.share_loop(self.fuzzed)

    def converse(self):
        """One front-end's life."""
        rng = self.rng
        chance = rng.choice((0, DAMAGE_CHANCE, DAMAGE_CHANCE, 3 * DAMAGE_CHANCE))
        with self.fuzzed.connect() as frontend:
            frontend.sock.setblocking(True)
            for message in disorder(rng, conversation(rng, self.pool)):
                data, fds = HEADER.pack(message[0], message[3], len(message[1])) + message[1], message[2]
                if rng.random() < chance:
                    data, fds = damage(rng, self.pool, message)
                    self.damaged += 1
                if rng.random() < 0.002:
                    data = data[: rng.randrange(len(data))]  # and never more of it
                if rng.random() < 0.002:
                    os.ftruncate(self.pool.memory[0], rng.choice((0, 4096, MEMORY_BYTES - 1)))
                self.messages += 1
                if not data or not send(rng, frontend.sock, data, fds):
                    self.hung_up += 1
                    break
            if rng.random() < 0.9:  # the others go without looking at the replies
                hear_out(frontend.sock)
        os.ftruncate(self.pool.memory[0], MEMORY_BYTES)
        self.conversations += 1
        self.fuzzed.gone(self.conversations)

    def check(self, frontend, fds):
        """Look at what must hold. Raises FoundError."""
        self.fuzzed.settle()
        if raw.open_fds() != fds:
            raise FoundError(f"{raw.open_fds() - fds} descriptors are left")
        if self.watch.errors:
            raise FoundError(self.watch.errors[0])
        for served in (self.fuzzed, self.steady):
            if served.plane.bad:
                raise FoundError(f"port {served.port.name}: {served.plane.bad[0]}")
            if served.plane.fds_wrong:
                raise FoundError("descriptors do not match their tokens")
        before = served.plane.last["rings"]
        frontend.ok(R.SET_VRING_ENABLE, state(0, self.conversations // CHECK_EVERY % 2))
        frontend.ok(R.SET_VRING_ENABLE, state(0, 1))
        if served.plane.last["rings"] != before or frontend.ask_u64(R.GET_QUEUE_NUM) != 2:
            raise FoundError("the other port's connection is not what it was")

    def run(self, messages):
        """Send so many. Raises FoundError."""
        with self.fuzzed, self.steady, self.steady.connect() as frontend:
            frontend.start()
            self.converse()
            fds, said_at = raw.open_fds(), time.monotonic()
            while self.messages < messages:
                self.converse()
                if self.conversations % CHECK_EVERY == 0:
                    self.check(frontend, fds)
                if time.monotonic() - said_at > 10:
                    said_at = time.monotonic()
                    print(f"{self.messages:,} messages", flush=True)
            self.check(frontend, fds)


def fuzz(messages, seed):
    """Run the fuzzer; returns it, for its figures. Raises FoundError."""
    logger = logging.getLogger("dpu.vhost_user")
    pause, propagate, level = port_module.ERROR_PAUSE_S, logger.propagate, logger.level
    port_module.ERROR_PAUSE_S = 0
    logger.propagate = False
    logger.setLevel(logging.INFO)
    with tempfile.TemporaryDirectory(prefix="dpu-") as folder:
        fuzzer = Fuzzer(folder, seed)
        logger.addHandler(fuzzer.watch)
        try:
            fuzzer.run(messages)
        finally:
            logger.removeHandler(fuzzer.watch)
            logger.propagate = propagate
            logger.setLevel(level)
            port_module.ERROR_PAUSE_S = pause
            fuzzer.pool.close()
    return fuzzer


def main():
    """Run and say how it ended."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.vhost_messages")
    parser.add_argument("--messages", type=int, default=100_000, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    args = parser.parse_args()
    began = time.monotonic()
    try:
        done = fuzz(args.messages, args.seed)
    except (FoundError, AssertionError) as found:
        print(f"FOUND: seed {args.seed}: {found}")
        return 1
    took = time.monotonic() - began
    live = done.fuzzed.plane.live
    print(f"conversations: {done.conversations:,}, {done.hung_up:,} of them ended early")
    print(f"damaged messages: {done.damaged:,}")
    print(f"rings live, summed over states: split {live['split']:,}, packed {live['packed']:,}")
    print(f"reasons of refusal: {len(done.watch.reasons)} kinds, {done.watch.reasons.total():,} times")
    print(f"nothing found: {done.messages:,} messages, seed {args.seed}, {took:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
