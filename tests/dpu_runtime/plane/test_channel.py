"""Messages with descriptors between the processes: ends, sizes, descriptors that are not leaked."""

import array
import os
import socket

import pytest

from dpu_runtime.plane import channel
from dpu_runtime.plane.channel import ChannelClosedError


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(2)
    theirs.settimeout(2)
    with ours, theirs:
        yield ours, theirs


def open_files():
    return len(os.listdir("/proc/self/fd"))


def test_message_and_descriptors_arrive(ends):
    ours, theirs = ends
    reader, writer = os.pipe()
    channel.send(ours, {"do": "add_port", "index": 3}, [writer])
    message, fds = channel.receive(theirs)
    assert message == {"do": "add_port", "index": 3}
    assert not os.get_inheritable(fds[0])
    os.write(fds[0], b"x")
    assert os.read(reader, 1) == b"x"
    for fd in (reader, writer, *fds):
        os.close(fd)


def test_messages_keep_their_borders(ends):
    ours, theirs = ends
    for number in range(5):
        channel.send(ours, {"n": number})
    assert [channel.receive(theirs)[0]["n"] for _ in range(5)] == list(range(5))


def test_as_many_descriptors_as_a_message_takes(ends):
    ours, theirs = ends
    before = open_files()
    channel.send(ours, {}, [ours.fileno()] * channel.FDS_MAX)
    _, fds = channel.receive(theirs)
    assert len(fds) == channel.FDS_MAX
    for fd in fds:
        os.close(fd)
    with pytest.raises(AssertionError):
        channel.send(ours, {}, [0] * (channel.FDS_MAX + 1))
    assert open_files() == before


def test_end_of_the_other_process(ends):
    ours, theirs = ends
    theirs.close()
    with pytest.raises(ChannelClosedError, match="end of channel"):
        channel.receive(ours)
    with pytest.raises(ChannelClosedError, match="Broken pipe"):
        channel.send(ours, {})


def test_closed_socket_is_a_closed_channel(ends):
    ours, _ = ends
    ours.close()
    with pytest.raises(ChannelClosedError):
        channel.receive(ours)
    with pytest.raises(ChannelClosedError):
        channel.send(ours, {})


def test_nobody_answers_in_time(ends):
    ours, _ = ends
    ours.settimeout(0.01)
    with pytest.raises(ChannelClosedError, match="timed out"):
        channel.receive(ours)


def test_message_that_is_too_large_closes_its_descriptors(ends):
    ours, theirs = ends
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    before = open_files()
    data = b'"' + b"x" * channel.MESSAGE_BYTES_MAX + b'"'
    ours.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
    with pytest.raises(ChannelClosedError, match="message too large"):
        channel.receive(theirs)
    assert open_files() == before
    with pytest.raises(AssertionError):
        channel.send(ours, {"x": "x" * channel.MESSAGE_BYTES_MAX})


@pytest.mark.parametrize("data", [b"{", b"\xff\xfe", b'{"do": "hel', b"[]", b"7"])
def test_message_that_is_no_json_object_closes_the_channel(ends, data):
    ours, theirs = ends
    before = open_files()
    ours.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))])
    with pytest.raises(ChannelClosedError):
        channel.receive(theirs)
    assert open_files() == before
