"""vhost-user port, control half: waits for front-ends, or goes to one, and serves one at a time.

Spec: vhost-user "Communication".
Not:  messages, `session.py`; rings and packets, the data plane.
"""

import asyncio
import contextlib
import logging
import os
import random
import socket
import threading

from dpu_runtime.drivers.linux.peer import peer_pid
from dpu_runtime.drivers.port import Kind
from dpu_runtime.drivers.vhost_user import QUEUE_PAIRS_MAX, capabilities, endpoint
from dpu_runtime.drivers.vhost_user.context import Offer
from dpu_runtime.drivers.vhost_user.descriptors import Descriptors
from dpu_runtime.drivers.vhost_user.features import PROTOCOL_FEATURES
from dpu_runtime.drivers.vhost_user.session import Session
from dpu_runtime.drivers.vhost_user.state import State
from dpu_runtime.drivers.vhost_user.stream import MessageStream, until_readable

log = logging.getLogger("dpu.vhost_user")

RECONNECT_S_MIN = 0.1
RECONNECT_S_MAX = 5.0
HANGUP_GRACE_S = 0.5  # a front-end that comes back may be here before its end is noticed
ERROR_PAUSE_S = 0.1  # after a connection that was closed for an error


class VhostUserPort:
    """One vhost-user device: a listening socket at `path`, or with `client` a connection to it.

    queues   pairs offered
    mtu      octets; NET_SET_MTU is held against it, and it may change at any time
    access   (mode, group) of a listening socket's file; endpoint.listen
    """

    kind = Kind.VHOST_USER

    def __init__(
        self,
        name,
        path,
        client=False,
        queues=QUEUE_PAIRS_MAX,
        offload=True,
        mtu=1500,
        access=(endpoint.MODE, None),
    ):
        assert 1 <= queues <= QUEUE_PAIRS_MAX, queues
        self.name = name
        self.path = path
        self.client = client
        self.queues = queues
        self.offload = offload
        self.mtu = mtu
        self.access = access
        self.fds = []  # no queue has one; `snapshot` has the connection's
        self.connections = 0
        self._state = State.disconnected(queues)
        self._descriptors = Descriptors()
        self._listener = None
        self._identity = None  # of our socket file
        self._plane = None
        self._session = None
        self._peer_pid = None
        self._tasks = set()

    # life

    def open(self):
        """Make the listening socket; a client connects in `start`.

        Raises PortError: somebody listens there already, it is another file, no right, path too long.
        """
        endpoint.check_path(self.name, self.path)
        if not self.client:
            sock = endpoint.listen(self.name, self.path, *self.access)
            self._identity = endpoint.identity(self.path)
            self._state.listener = self._descriptors.add(sock.detach())
        return self.fds

    def adopt(self, snapshot, fds):
        """Go on with what an earlier control process had; `fds` are those of snapshot["fds"], now ours."""
        notes = snapshot["notes"]
        self._state = State.from_notes(notes["state"])
        self._identity = notes["identity"]
        self.connections = notes["connections"]
        self._descriptors.adopt(dict(zip(snapshot["fds"], fds, strict=True)), notes["next_token"])
        self._descriptors.keep(self._state.tokens())

    async def start(self, plane):
        """Serve front-ends from now on, in the running loop; `plane` is told what they want."""
        self._plane = plane
        resumed = None
        if self._state.socket is not None:
            plane.connected(True)
            plane.negotiated(self._state.features or 0)
            resumed = self._spawn(self._serve())
        self._spawn(self._connect_on(resumed) if self.client else self._listen_on(resumed))

    async def stop(self):
        """Serve nobody any more. The data plane is not told: it is about to drop the port."""
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._forget()
        self._descriptors.keep(self._state.tokens())

    def close(self):
        """Give the socket up, and its file if it is still ours; twice is allowed."""
        self._descriptors.keep([])
        self._state = State.disconnected(self.queues, before=self._state)
        if self._identity and endpoint.identity(self.path) == self._identity:
            os.unlink(self.path)
        self._identity = None

    def hang_up(self, why):
        """End the connection there is; the front-end may come again."""
        if self._now.socket is None:
            return
        log.warning("port %s: connection closed: %s", self.name, why)
        sock = socket.socket(fileno=self._descriptors.fd(self._now.socket))
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is gone already
        finally:
            sock.detach()

    def signal_error(self, ring):
        """Tell the driver, if it asked to be told, that a ring was stopped; vhost-user SET_VRING_ERR.

        In a thread: a hostile driver can make a write to its eventfd wait.
        """
        token = self._now.rings[ring].err
        if token is not None:
            fd = os.dup(self._descriptors.fd(token))
            threading.Thread(target=_write_and_close, args=(fd,), daemon=True).start()

    # what there is

    @property
    def capabilities(self):
        """What the driver on the other side negotiated, and what it did not."""
        waiting = f"trying {self.path}" if self.client else f"waiting on {self.path}"
        return capabilities.describe(self._now, self.queues, self.offload, waiting)

    def info(self):
        """The connection, for `dpu port show`."""
        state = self._now
        live = [ring.ring for ring in state.rings if ring.live]
        return {
            "socket": self.path,
            "mode": "client" if self.client else "server",
            "connected": state.socket is not None,
            "peer_pid": self._peer_pid,
            "connections": self.connections,
            "reconnects": max(self.connections - 1, 0),
            "features": capabilities.feature_names(state.features or 0),
            "protocol_features": capabilities.protocol_feature_names(state.protocol_features),
            "ring_format": None if state.features is None else "packed" if state.packed else "split",
            "queue_pairs_live": sum(1 for ring in live if ring % 2 == 0 and ring + 1 in live),
            "rings_live": live,
            "memory_regions": len(state.regions),
            "memory_bytes": sum(region.size for region in state.regions),
            "driver_mtu": state.mtu,
        }

    def snapshot(self):
        """(snapshot, descriptors) for a fresh data plane; README.md "The snapshot"."""
        return self._describe(self._now)

    @property
    def _now(self):
        return self._session.state if self._session else self._state

    def _describe(self, state):
        snapshot = state.snapshot()
        snapshot["notes"] = {
            "state": state.notes(),
            "next_token": self._descriptors.next_token,
            "connections": self.connections,
            "identity": self._identity,
        }
        return snapshot, [self._descriptors.fd(token) for token in snapshot["fds"]]

    # connections

    def _spawn(self, coroutine):
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task):
        self._tasks.discard(task)
        if not task.cancelled() and task.exception():
            log.error("port %s: serves nobody any more", self.name, exc_info=task.exception())

    def _offer(self):
        return Offer(capabilities.offer(self.offload), PROTOCOL_FEATURES, self.queues, self.mtu)

    def _connected(self, sock):
        self.connections += 1
        self._state.socket = self._descriptors.add(sock.detach())
        self._plane.connected(True)

    async def _serve(self):
        """Serve the connection there is to its end; returns whether anything was negotiated on it."""
        sock = socket.socket(fileno=self._descriptors.fd(self._state.socket))
        try:
            self._peer_pid = peer_pid(sock)
            log.info("port %s: connected to process %d", self.name, self._peer_pid)
            self._session = Session(
                self.name,
                MessageStream(sock),
                self._state,
                self._descriptors,
                self._offer,
                self._plane,
                self._describe,
            )
            why = await self._session.run()
            negotiated = self._now.features is not None
            self._forget()
            await self._let_go()
            with contextlib.suppress(OSError):  # the data plane may still have a copy
                sock.shutdown(socket.SHUT_RDWR)
        finally:
            sock.detach()  # its descriptor has a token
        self._descriptors.keep(self._state.tokens())
        if why is not None:
            await asyncio.sleep(ERROR_PAUSE_S)
        return negotiated

    async def _let_go(self):
        """Tell our surroundings that nobody is connected."""
        self._plane.negotiated(0)
        self._plane.connected(False)
        try:
            await self._plane.apply(*self._describe(self._state))
        except Exception as error:
            log.error("port %s: the data plane does not let go of a connection: %s", self.name, error)

    def _forget(self):
        """Nobody is connected; descriptors are still open."""
        self._state = State.disconnected(self.queues, self._now.listener, self._now)
        self._session = None
        self._peer_pid = None

    async def _listen_on(self, serving):
        """Accept front-ends for ever; `serving` is the task of the one there is already."""
        listener = socket.socket(fileno=self._descriptors.fd(self._state.listener))
        try:
            while True:
                await until_readable(listener)
                try:
                    sock, _ = listener.accept()
                except OSError as error:
                    log.error("port %s: accept: %s", self.name, error)
                    await asyncio.sleep(ERROR_PAUSE_S)
                    continue
                with sock:
                    if serving and not serving.done():
                        await asyncio.wait({serving}, timeout=HANGUP_GRACE_S)
                        if not serving.done():
                            log.warning("port %s: a second front-end is turned away", self.name)
                            continue
                    self._connected(sock)
                serving = self._spawn(self._serve())
        finally:
            listener.detach()

    async def _connect_on(self, serving):
        """Connect for ever, with back-off and jitter; `serving` is the task of a connection there is."""
        delay, failed = RECONNECT_S_MIN, None
        if serving:
            await serving
        while True:
            try:
                with endpoint.connect(self.path) as sock:
                    self._connected(sock)
                failed = None
                if await self._serve():
                    delay = RECONNECT_S_MIN
            except OSError as error:
                if error.errno != failed:
                    log.info("port %s: connect %s: %s; trying again", self.name, self.path, error.strerror)
                failed = error.errno
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(2 * delay, RECONNECT_S_MAX)


def _write_and_close(fd):
    try:
        os.eventfd_write(fd, 1)
    except BlockingIOError:
        pass  # it has not read what it was told before
    finally:
        os.close(fd)
