"""Who is on the other end of a Unix socket: unix(7), SO_PEERCRED."""

import socket
import struct

_UCRED = struct.Struct("3i")  # pid, uid, gid


def peer_pid(sock):
    """Process that connected, or that listens where `sock` is connected to."""
    return _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[0]
