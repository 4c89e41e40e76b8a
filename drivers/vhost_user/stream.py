"""Whole messages from a stream socket, however they are cut.

Not an octet beyond the message at hand is read, so descriptors (unix(7), SCM_RIGHTS) belong to the message
whose octets they came with. At most that one message is held: header, PAYLOAD_BYTES_MAX octets and FDS_MAX
descriptors.
"""

import array
import asyncio
import os
import socket

from dpu_runtime.drivers.vhost_user.errors import FramingError, PeerGoneError
from dpu_runtime.drivers.vhost_user.messages import FDS_MAX, HEADER, Message, parse_header

_RIGHTS_BYTES = array.array("i").itemsize


class MessageStream:
    """A connected Unix stream socket, non-blocking; the socket stays the caller's."""

    def __init__(self, sock):
        self.sock = sock
        sock.setblocking(False)
        self._fds = []  # of the message that is being read

    async def receive(self):
        """The next message. Raises PeerGoneError, FramingError; then nothing is left open."""
        try:
            request, flags, size = parse_header(await self._exactly(HEADER.size, begun=False))
            payload = await self._exactly(size, begun=True)
        except BaseException:
            self.close()
            raise
        fds, self._fds = self._fds, []
        return Message(request, flags, payload, fds)

    def close(self):
        """Close what came with half a message."""
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    async def _exactly(self, size, begun):
        got = bytearray()
        while len(got) < size:
            data = await self._some(size - len(got))
            if not data:
                raise PeerGoneError("in the middle of a message" if begun or got else "between messages")
            got += data
        return bytes(got)

    async def _some(self, size):
        while True:
            try:
                space = socket.CMSG_SPACE(FDS_MAX * _RIGHTS_BYTES)
                data, ancillary, flags, _ = self.sock.recvmsg(size, space, socket.MSG_CMSG_CLOEXEC)
                break
            except BlockingIOError:
                await until_readable(self.sock)
            except ConnectionError as error:
                raise PeerGoneError(str(error)) from None
        for level, kind, rights in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                usable = len(rights) // _RIGHTS_BYTES * _RIGHTS_BYTES
                self._fds.extend(array.array("i", rights[:usable]))
        if flags & socket.MSG_CTRUNC or len(self._fds) > FDS_MAX:
            raise FramingError(f"more than {FDS_MAX} descriptors with one message")
        return data

    async def send(self, data, fds=()):
        """Send octets, the descriptors with the first of them. Raises PeerGoneError."""
        rest = memoryview(data)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        while rest:
            try:
                rest = rest[self.sock.sendmsg([rest], rights) :]
                rights = []
            except BlockingIOError:
                loop = asyncio.get_running_loop()
                await _until(self.sock, loop.add_writer, loop.remove_writer)
            except OSError as error:
                raise PeerGoneError(str(error)) from None


async def until_readable(sock):
    """Wait until there is something to read or accept."""
    loop = asyncio.get_running_loop()
    await _until(sock, loop.add_reader, loop.remove_reader)


async def _until(sock, add, remove):
    """Wait until the socket is ready in one way."""
    ready = asyncio.get_running_loop().create_future()
    add(sock, lambda: ready.done() or ready.set_result(None))
    try:
        await ready
    finally:
        remove(sock)
