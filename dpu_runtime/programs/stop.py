"""`dpu stop`: end a daemon in order, or the data plane that a killed one left.

Source: pidfd_open(2), flock(2).
Not:  how a daemon ends (control/daemon.py), how a data plane does (plane/dataplane.py).
"""

import contextlib
import fcntl
import os
import select
import signal
import socket

from dpu_runtime.config.errors import DaemonError
from dpu_runtime.config.places import ADOPT_SOCKET, LOCK
from dpu_runtime.drivers.linux.peer import peer_pid
from dpu_runtime.plane import channel

DAEMON_TIMEOUT_S = 30.0
DATA_PLANE_TIMEOUT_S = 5.0  # to when it is killed


def end_daemon(sock):
    """End the daemon on the other end of `sock` and wait for it; returns its number. Raises DaemonError."""
    pid, pidfd = _listener(sock)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        if not _gone(pidfd, DAEMON_TIMEOUT_S):
            raise DaemonError(f"the daemon, process {pid}, does not end within {DAEMON_TIMEOUT_S:g} s")
    except ProcessLookupError:
        pass  # just now, by itself
    except OSError as error:
        raise DaemonError(f"the daemon, process {pid}: {error.strerror}") from None
    finally:
        os.close(pidfd)
    return pid


def end_data_plane(state_dir):
    """End the data plane that is alone in a state directory and wait for it.

    Returns its number, None: there is none. Raises DaemonError: it is not alone, or not this user's.
    """
    path = os.path.join(state_dir, ADOPT_SOCKET)
    with contextlib.ExitStack() as stack:
        try:
            lock = os.open(os.path.join(state_dir, LOCK), os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # no daemon adopts it meanwhile
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            sock.settimeout(DATA_PLANE_TIMEOUT_S)
            sock.connect(path)
        except BlockingIOError:
            pid = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
            text = f"a daemon (process {pid}) uses state directory {state_dir}, on another socket;"
            raise DaemonError(f"{text} `dpu --socket PATH stop` ends it") from None
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise DaemonError(f"{path}: {error.strerror or error}") from None
        pid, pidfd = _listener(sock)
        stack.callback(os.close, pidfd)
        with contextlib.suppress(channel.ChannelClosedError):
            channel.send(sock, {"do": "stop"})
        if not _gone(pidfd, DATA_PLANE_TIMEOUT_S):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            _gone(pidfd, None)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # and not running.json: it may have what was applied, which is kept
    return pid


def _listener(sock):
    """(number, pidfd) of the process that listens where `sock` is connected to. Raises DaemonError."""
    pid = peer_pid(sock)
    try:
        return pid, os.pidfd_open(pid)
    except (OSError, ValueError) as error:
        raise DaemonError(f"{sock.getpeername()}: process {pid}, which listens there: {error}") from None


def _gone(pidfd, timeout_s):
    """Whether the process ends in time; None: wait for it."""
    return bool(select.select([pidfd], [], [], timeout_s)[0])
