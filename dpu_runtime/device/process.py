"""One data-plane process as the control process has it: started or reached, asked, ended.

Not:  which one runs; `dpu_runtime/device/supervisor.py` decides. What the requests mean;
`dpu_runtime/plane/dataplane.py` answers them.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket

from dpu_runtime.config.errors import DataPlaneError, DataPlaneGoneError
from dpu_runtime.plane import channel
from dpu_runtime.plane.child import Child

log = logging.getLogger("dpu.supervisor")

READY_TIMEOUT_S = 900.0  # a first start compiles, on a busy machine too
REQUEST_TIMEOUT_S = 20.0
END_TIMEOUT_S = 3.0  # from when it may end to when it is killed


class Process:
    """One data-plane process and the channel to it.

    entries  names of stages and tasks that it has machine code of
    failed   {name: text of the error} of what it was to compile and could not
    """

    def __init__(self, pid, sock, entries=()):
        self.entries = frozenset(entries)
        self.failed = {}
        self.child = None  # subprocess.Popen of one that was spawned
        self.pid = pid
        self.sock = sock
        self.pidfd = os.pidfd_open(pid)
        self._lock = asyncio.Lock()
        self._gone = None  # the future that `exited` awaits

    @classmethod
    async def spawn(cls, wanted=(), child=None):
        """Start a process and wait until its machine code is there, that of stages and tasks `wanted` too.

        child  one that was started already, or None
        """
        child = child or Child()
        try:
            process = cls(child.process.pid, child.sock)
        except OSError:
            child.end()
            raise
        process.child, child.taken = child.process, True
        process.sock.settimeout(READY_TIMEOUT_S)
        try:
            channel.send(process.sock, {"prepare": sorted(wanted)})
            ready, _ = await asyncio.to_thread(channel.receive, process.sock)
        except channel.ChannelClosedError as error:
            code = await process.killed()  # it may hang rather than be gone
            raise DataPlaneError(f"data plane did not start (exit code {code}): {error}") from None
        except asyncio.CancelledError:
            await process.killed()
            raise
        process.sock.settimeout(REQUEST_TIMEOUT_S)
        process.prepare_s = ready["prepare_s"]
        process.entries, process.failed = frozenset(ready["entries"]), ready["failed"]
        return process

    @classmethod
    def connect(cls, path):
        """Reach a data plane that another control process left running; None when there is none."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(REQUEST_TIMEOUT_S)
        try:
            sock.connect(path)
            channel.send(sock, {"do": "hello"})
            hello, fds = channel.receive(sock)
        except (OSError, channel.ChannelClosedError):
            sock.close()
            return None
        process = cls(hello["pid"], sock, hello.get("entries", ()))
        process.hello, process.hello_fds = hello, fds
        return process

    async def request(self, message, fds=()):
        """Send a request and return (reply, descriptors). Raises DataPlaneError.

        One that is cancelled is answered first: the next would take that answer as its own, and
        the descriptors that go with it are the caller's.
        """
        async with self._lock:
            exchange = asyncio.ensure_future(asyncio.to_thread(self._exchange, message, fds))
            try:
                return await asyncio.shield(exchange)
            except channel.ChannelClosedError as error:
                raise DataPlaneGoneError(f"data plane {self.pid} is gone: {error}") from None
            except asyncio.CancelledError:
                await _come_to_its_end(exchange)
                raise

    def _exchange(self, message, fds):
        try:
            channel.send(self.sock, message, fds)
            reply, reply_fds = channel.receive(self.sock)
        except channel.ChannelClosedError:
            with contextlib.suppress(OSError):  # an answer that comes late is not the next one's
                self.sock.shutdown(socket.SHUT_RDWR)
            raise
        if not reply.get("ok"):
            raise DataPlaneError(reply.get("error", "refused"))
        return reply, reply_fds

    async def answered(self):
        """Wait until what it was asked before is answered."""
        async with self._lock:
            pass

    async def exited(self):
        """Wait until the process is gone; at once when it was closed. Several may wait."""
        if self.pidfd < 0:
            return
        if self._gone is None:
            loop = asyncio.get_running_loop()
            self._gone = loop.create_future()
            loop.add_reader(self.pidfd, self._is_gone)
        await asyncio.shield(self._gone)

    def _is_gone(self):
        if self._gone is not None and not self._gone.done():
            self._gone.get_loop().remove_reader(self.pidfd)
            self._gone.set_result(None)

    def kill(self):
        """End the process without asking."""
        if self.pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    async def killed(self):
        """Kill the process and forget it; returns the exit code of one that was spawned."""
        self.kill()
        try:
            await self.exited()
        finally:  # cancelled meanwhile, it is gone soon all the same
            code = self.child.wait() if self.child is not None else None
            self.close()
        return code

    async def end(self, timeout_s=END_TIMEOUT_S):
        """Have a process end that is told to, or that nobody else can reach; wait for it and forget it."""
        self.sock.close()  # a standby ends on this
        try:
            await asyncio.wait_for(self.exited(), timeout_s)
        except TimeoutError:
            log.error("data plane %d does not end within %.1f s; killed", self.pid, timeout_s)
        await self.killed()

    def close(self):
        """Forget the process."""
        self.sock.close()
        if self.child is not None:
            self.child.poll()  # one that is gone is no zombie for long
        if self.pidfd >= 0:
            self._is_gone()
            os.close(self.pidfd)
            self.pidfd = -1


async def _come_to_its_end(exchange):
    """Wait for an exchange whose caller was cancelled, and give back what it brought."""
    while not exchange.done():
        with contextlib.suppress(asyncio.CancelledError):  # once is enough
            await asyncio.wait({exchange})
    if exchange.exception() is None:
        _, fds = exchange.result()
        for fd in fds:
            os.close(fd)
