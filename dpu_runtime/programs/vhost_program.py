"""`dpu vhost-user`: a port of the running daemon that is there as long as this program.

Spec: vhost-user "Backend program conventions"; QEMU's docs/interop/vhost-user.json,
      VHostUserBackendCapabilities (what --print-capabilities prints).
In:   the daemon's socket, the port's keys, and where the front-end is: at a path, or behind a descriptor.
Not:  rings and packets, the daemon has them; what --fd passes on, vhost_relay.py.
"""

import contextlib
import os
import select
import shutil
import signal
import socket
import tempfile
import time

from dpu_runtime.api.client import Client, NoDaemonError
from dpu_runtime.config.errors import DaemonError, RpcError
from dpu_runtime.programs.vhost_relay import Relay

OWNER = "vhost-user"  # of the ports of this program, which are of no use without it
CAPABILITIES = {"type": "net", "features": []}  # the schema has no feature of type net
CALL_TIMEOUT_S = 5.0
CHECK_S = 5.0  # between looks at whether the port is still there
GRACE_S = 5.0  # a control process that was restarted has adopted the port by then
RETRY_S = 0.1


def run(daemon, keys, path, frontend, added):
    """Have a port until SIGTERM or SIGINT, or until the front-end behind `frontend` is gone.

    daemon    path of its socket
    keys      of the port, without its socket
    path      of the socket the port listens on, None with a `frontend`
    frontend  socket.socket, connected to a front-end, or listening for one after the other; or None
    added     called with {"name", "socket"} once the port is there

    Raises RpcError when the daemon refuses the port, NoDaemonError when the daemon is gone, DaemonError
    when the port or its connection is.
    """
    with contextlib.ExitStack() as stack:
        ended = stack.enter_context(_signals())
        if frontend is not None:
            path = f"{stack.enter_context(_private_folder(daemon))}/port"
        port = stack.enter_context(_Port(daemon, {**keys, "socket": path}))
        added({"name": port.name, "socket": path})
        if frontend is None:
            port.wait(ended)
        elif _listens(frontend):
            while frontend in port.wait(ended, frontend):
                with frontend.accept()[0] as sock, _relay(sock, path) as relay:
                    if ended in port.wait(ended, relay):
                        return
        else:
            with _relay(frontend, path) as relay:
                if ended not in port.wait(ended, relay) and relay.closed_by == "back":
                    port.check()
                    raise DaemonError(f"port {port.name}: the daemon closed the connection, its log says why")


def frontend_socket(fd):
    """The socket that --fd names. Raises DaemonError when it is none that a front-end could be behind."""
    try:
        sock = socket.socket(fileno=fd)
    except (OSError, OverflowError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a descriptor"
        raise DaemonError(f"--fd={fd}: {why}") from None
    if (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
        sock.detach()
        raise DaemonError(f"--fd={fd}: not a Unix stream socket")
    if not _listens(sock):
        try:
            sock.getpeername()
        except OSError as error:
            sock.detach()
            raise DaemonError(f"--fd={fd}: {error.strerror}") from None
    sock.setblocking(True)
    return sock


def _listens(sock):
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


@contextlib.contextmanager
def _signals():
    """A socket that becomes readable when the program is told to end; nothing else happens then."""
    here, there = socket.socketpair()
    there.setblocking(False)
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    woken = signal.set_wakeup_fd(there.fileno())
    try:
        yield here
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        here.close()
        there.close()


@contextlib.contextmanager
def _private_folder(daemon):
    """A folder of our own beside the daemon's socket: its /tmp may be another one than ours."""
    beside = os.path.dirname(daemon)
    try:
        folder = tempfile.mkdtemp(prefix="vhost-user-", dir=beside if os.access(beside, os.W_OK) else None)
    except OSError as error:
        raise DaemonError(f"no private folder in {beside}: {error.strerror}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _relay(frontend, path):
    back = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        back.connect(path)
    except OSError as error:
        back.close()
        raise DaemonError(f"connect {path}: {error.strerror}") from None
    return Relay(frontend, back)


class _Port:
    """A port of the daemon on `daemon`, ours while the context lasts."""

    def __init__(self, daemon, keys):
        self.name = keys["name"]
        self._daemon = daemon
        self._keys = keys
        self._there = False
        self._client = None

    def __enter__(self):
        self._client = Client(self._daemon, CALL_TIMEOUT_S)
        try:
            self._client.call("port.add", **self._keys)
        except BaseException:
            self._client.close()
            raise
        self._there = True
        return self

    def __exit__(self, kind, *_):
        try:
            if self._there:
                self._client.call("port.del", name=self.name)
        except NoDaemonError:
            pass  # the port went with it
        except RpcError:
            if kind is None:
                raise
        finally:
            self._client.close()

    def wait(self, *until):
        """Those of `until` that are readable, once one is. Raises when the daemon or the port is gone."""
        while True:
            ready, _, _ = select.select([*until, self._client], [], [], CHECK_S)
            found = [one for one in until if one in ready]
            if found:
                return found
            try:
                self.check()
            except NoDaemonError:
                self._connect_again(until)

    def check(self):
        """Raise NoDaemonError when the daemon is gone, DaemonError when the port is."""
        try:
            (view,) = self._client.call("port.show", name=self.name)
            self._there = view["config"].get("socket") == self._keys["socket"]
        except RpcError:
            self._there = False
        if not self._there:
            raise DaemonError(f"port {self.name} was deleted")

    def _connect_again(self, until):
        """Return when the daemon takes connections again, or `until` has one that is readable."""
        self._client.close()
        limit = time.monotonic() + GRACE_S
        while not select.select(until, [], [], RETRY_S)[0]:
            try:
                self._client = Client(self._daemon, CALL_TIMEOUT_S)
                return
            except NoDaemonError:
                if time.monotonic() > limit:
                    self._there = False
                    raise
