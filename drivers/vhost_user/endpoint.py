"""The Unix socket of a vhost-user port: made, found stale, connected to, taken away.

Source: unix(7), chown(2).
"""

import errno
import grp
import os
import socket
import stat

from dpu_runtime.drivers.port import PortError

PATH_BYTES_MAX = 107  # sun_path without its 0, unix(7)
BACKLOG = 4
MODE = 0o600


def check_path(port, path):
    """Refuse a path that no Unix socket can have. Raises PortError."""
    size = len(os.fsencode(path))
    if not 1 <= size <= PATH_BYTES_MAX or "\0" in path:
        text = f"socket path of {size} octets, allowed are 1 to {PATH_BYTES_MAX}"
        raise PortError(port, "bind", errno.ENAMETOOLONG, text)


def _new_socket():
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def identity(path):
    """(device, inode) of a file, None if there is none."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return [found.st_dev, found.st_ino]


def listen(port, path, mode=MODE, group=None):
    """Listening socket at `path`, in place of one that nobody listens on any more. Raises PortError.

    mode    of the socket's file; who may connect needs `w`
    group   name or number of the group that the file gets; None: the one of this process
    """
    number = _group_number(port, group)
    _remove_stale(port, path)
    sock = _new_socket()
    try:
        os.fchmod(sock.fileno(), MODE)  # what bind gives the file, so it is never open to others
        sock.bind(path)
        if number is not None:
            os.chown(path, -1, number, follow_symlinks=False)
        if mode != MODE:
            os.chmod(path, mode)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise PortError(port, f"bind {path}", error.errno) from None
    return sock


def _group_number(port, group):
    if group is None or group.isdecimal():
        return group and int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise PortError(port, "socket_group", errno.EINVAL, f"this machine has no group {group!r}") from None


def _remove_stale(port, path):
    try:
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return
    except OSError as error:
        raise PortError(port, f"stat {path}", error.errno) from None
    if not stat.S_ISSOCK(found.st_mode):
        raise PortError(port, f"bind {path}", errno.EEXIST, "it exists, and is no socket")
    with _new_socket() as probe:
        failed = probe.connect_ex(path)
    if failed != errno.ECONNREFUSED:
        why = "somebody listens on it" if failed in (0, errno.EAGAIN) else os.strerror(failed)
        raise PortError(port, f"bind {path}", errno.EADDRINUSE, why)
    os.unlink(path)


def connect(path):
    """Connected socket. Raises OSError; one whose backlog is full refuses too, so this never waits."""
    sock = _new_socket()
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock
