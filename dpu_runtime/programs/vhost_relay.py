"""vhost-user messages from one socket to another, with their descriptors, until one side closes.

Spec: vhost-user "Header"; unix(7), SCM_RIGHTS.
Not:  what a message says. Of its header only the length is looked at, for where the next one begins:
      a read across that place would hand the descriptors of one message on with another.
"""

import contextlib
import os
import socket
import sys
import threading

HEADER_BYTES = 12  # request, flags, size of the payload: 32 bits each, in the machine's order
SIZE_OFFSET = 8
PIECE_BYTES = 1 << 16
FDS_MAX = 253  # SCM_MAX_FD, Linux: no more come with one read


class Relay:
    """A thread each way between the connected sockets `front` and `back`, which it takes over.

    Readable, as select(2) means it, when it is over; `closed_by` is "front" or "back" then.
    """

    def __init__(self, front, back):
        self.closed_by = None
        self._sockets = (front, back)
        self._over, self._end = socket.socketpair()
        self._lock = threading.Lock()
        ways = ((front, back, "front", "back"), (back, front, "back", "front"))
        self._threads = [threading.Thread(target=self._forward, args=way, daemon=True) for way in ways]

    def fileno(self):
        """Readable when a side has closed."""
        return self._over.fileno()

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._finish("us")
        for thread in self._threads:
            thread.join()
        for sock in (*self._sockets, self._over, self._end):
            sock.close()

    def _forward(self, source, target, source_name, target_name):
        try:
            while _pass_message(source, target):
                pass
            self._finish(source_name)
        except BrokenPipeError:
            self._finish(target_name)
        except OSError:
            self._finish(source_name)

    def _finish(self, name):
        """End both ways; the first to come is the one who closed."""
        with self._lock:
            if self.closed_by is not None:
                return
            self.closed_by = name
        for sock in self._sockets:
            with contextlib.suppress(OSError):  # it is gone already
                sock.shutdown(socket.SHUT_RDWR)
        self._end.send(b"\0")


def _pass_message(source, target):
    """Hand one message on; whether there was one."""
    header = b""
    while len(header) < HEADER_BYTES:
        piece = _pass_piece(source, target, HEADER_BYTES - len(header))
        if not piece:
            return False
        header += piece
    left = int.from_bytes(header[SIZE_OFFSET:], sys.byteorder)
    while left:
        piece = _pass_piece(source, target, min(left, PIECE_BYTES))
        if not piece:
            return False
        left -= len(piece)
    return True


def _pass_piece(source, target, size):
    """Hand up to `size` octets on, and with the first of them their descriptors; returns the octets."""
    data, fds, flags, _ = socket.recv_fds(source, size, FDS_MAX, socket.MSG_CMSG_CLOEXEC)
    try:
        if flags & socket.MSG_CTRUNC:
            raise OSError("descriptors were lost: the limit of open files")
        if data:
            sent = socket.send_fds(target, [data], fds) if fds else 0
            target.sendall(data[sent:])
    finally:
        for fd in fds:
            os.close(fd)
    return data
