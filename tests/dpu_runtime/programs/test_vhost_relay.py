"""The relay: octets unchanged, descriptors with the message they came with, and an end in order."""

import contextlib
import os
import select
import socket
import struct
import threading

import pytest

from dpu_runtime.programs.vhost_relay import HEADER_BYTES, Relay

TIMEOUT_S = 10.0
BIG_BYTES = 5 << 20  # more than any socket buffer


def message(request, payload=b""):
    """A vhost-user message: request, flags, size, payload."""
    return struct.pack("=III", request, 1, len(payload)) + payload


@pytest.fixture
def pipes():
    """Three descriptors of one file each, with numbers to know them by: their inodes."""
    made = [os.memfd_create(str(i)) for i in range(3)]
    yield made
    for fd in made:
        os.close(fd)


@pytest.fixture
def wired():
    """(front-end's socket, a relay that has not begun, daemon's socket)."""
    (here, front), (back, there) = socket.socketpair(), socket.socketpair()
    for sock in (here, there):
        sock.settimeout(TIMEOUT_S)
    yield here, Relay(front, back), there
    for sock in (here, front, back, there):
        sock.close()


def receive(sock, size):
    """(octets, inodes of the descriptors) of one message, read as a back-end does: to its end, no further."""
    got, inodes = b"", []
    while len(got) < size:
        data, fds, _, _ = socket.recv_fds(sock, size - len(got), 16)
        assert data, "closed"
        got += data
        for fd in fds:
            inodes.append(os.fstat(fd).st_ino)
            os.close(fd)
    return got, inodes


def inodes_of(fds):
    return [os.fstat(fd).st_ino for fd in fds]


@pytest.mark.parametrize("way", ["to the daemon", "to the front-end"])
def test_descriptors_stay_with_their_message(wired, pipes, way):
    """Several messages wait when the relay begins, and one read could take them all."""
    here, relay, there = wired
    sender, receiver = (here, there) if way == "to the daemon" else (there, here)
    sent = [
        (message(1), []),
        (message(5, b"x" * 40), pipes[:2]),
        (message(2, b"y" * 8), []),
        (message(12), pipes[2:]),
    ]
    for data, fds in sent:
        socket.send_fds(sender, [data], fds)
    with relay:
        for data, fds in sent:
            assert receive(receiver, len(data)) == (data, inodes_of(fds))


def test_octets_however_they_are_cut(wired, pipes):
    here, relay, there = wired
    data = message(5, b"abcdefgh")
    with relay:
        for i, octet in enumerate(data):
            socket.send_fds(here, [bytes([octet])], pipes[:1] if i == 0 else [])
        assert receive(there, len(data)) == (data, inodes_of(pipes[:1]))
        here.sendall(message(1)[:5])
        assert receive(there, 5)[0] == message(1)[:5], "half a header is not held back"


def test_a_large_message_and_an_answer_at_the_same_time(wired):
    """A size that is a lie is the daemon's to judge: the relay holds none of it."""
    here, relay, there = wired
    payload = os.urandom(BIG_BYTES)
    with relay:
        sending = threading.Thread(target=here.sendall, args=(message(9, payload),))
        sending.start()
        there.sendall(message(1, b"answer"))
        assert receive(here, HEADER_BYTES + 6)[0][HEADER_BYTES:] == b"answer"
        assert receive(there, HEADER_BYTES + BIG_BYTES)[0][HEADER_BYTES:] == payload
        sending.join(TIMEOUT_S)


@pytest.mark.parametrize("name", ["front", "back"])
def test_either_side_may_close(wired, name):
    here, relay, there = wired
    closing, other = (here, there) if name == "front" else (there, here)
    with relay:
        assert select.select([relay], [], [], 0)[0] == []
        closing.sendall(message(3, b"last"))
        closing.close()
        assert receive(other, HEADER_BYTES + 4)[0] == message(3, b"last"), (
            "what was sent before still arrives"
        )
        assert other.recv(1) == b""
        assert select.select([relay], [], [], TIMEOUT_S)[0] == [relay]
        assert relay.closed_by == name


def test_the_relay_may_be_ended_while_a_side_does_not_read(wired):
    here, relay, there = wired
    here.settimeout(1.0)  # nothing moves for so long: the relay waits in its own send
    with relay, pytest.raises(TimeoutError):
        while True:
            here.send(message(1, bytes(1 << 16)))
    assert there.recv(1) != b""


def test_no_descriptor_is_left_open(pipes):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        (here, front), (back, there) = socket.socketpair(), socket.socketpair()
        with here, there, Relay(front, back):
            socket.send_fds(here, [message(5)], pipes)
            assert len(receive(there, HEADER_BYTES)[1]) == 3
            there.close()
            with contextlib.suppress(BrokenPipeError):  # the relay may have noticed
                socket.send_fds(here, [message(5)], pipes)
    assert len(os.listdir("/proc/self/fd")) == before
