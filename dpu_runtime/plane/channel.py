"""Messages with file descriptors between the control process and the data plane.

A Unix SOCK_SEQPACKET socket: one JSON object a message, descriptors by SCM_RIGHTS (unix(7)).
Both ends are our own processes; a message that does not fit the protocol is a bug or another
version, and closes the channel.
Not:  anything of numba.
"""

import array
import json
import os
import socket

MESSAGE_BYTES_MAX = 64 * 1024
FDS_MAX = 250  # of SCM_MAX_FD = 253 (net/scm.h)


class ChannelClosedError(ConnectionError):
    """The other process is gone."""


def send(sock, message, fds=()):
    """Send one message with its descriptors. Raises ChannelClosedError."""
    data = json.dumps(message).encode()
    assert len(data) <= MESSAGE_BYTES_MAX, len(data)
    assert len(fds) <= FDS_MAX, len(fds)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    try:
        sock.sendmsg([data], rights)
    except OSError as error:
        raise ChannelClosedError(str(error)) from None


def receive(sock):
    """Receive one message: (object, descriptors). Raises ChannelClosedError at the end."""
    space = socket.CMSG_SPACE(FDS_MAX * 4)
    try:
        data, ancillary, flags, _ = sock.recvmsg(MESSAGE_BYTES_MAX, space, socket.MSG_CMSG_CLOEXEC)
    except OSError as error:
        raise ChannelClosedError(str(error)) from None
    fds = []
    for level, kind, rights in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.extend(array.array("i", rights[: len(rights) // 4 * 4]))
    try:
        if not data:
            raise ValueError("end of channel")
        if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
            raise ValueError("message too large")
        message = json.loads(data)
        if not isinstance(message, dict):
            raise ValueError("message is no object")
    except ValueError as error:  # of json.loads too
        for fd in fds:
            os.close(fd)
        raise ChannelClosedError(str(error)) from None
    return message, fds
