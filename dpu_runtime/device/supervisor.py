"""The control side of the data plane: start it, adopt it, replace it when it dies.

A warm standby process, its machine code loaded, waits beside the active one. When the active one
dies (a pidfd says so at once), the standby gets the shared memory and the port queues, and a new
standby is started. One that runs is replaced by `hand_over`.
Not:  what the requests mean; `dpu_runtime/device/device.py` makes them.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time

from dpu_runtime.config.errors import DataPlaneError, DataPlaneGoneError
from dpu_runtime.plane import channel

log = logging.getLogger("dpu.supervisor")

READY_TIMEOUT_S = 900.0  # a first start compiles, on a busy machine too
REQUEST_TIMEOUT_S = 20.0
END_TIMEOUT_S = 3.0  # from when it may end to when it is killed
POLL_S = 0.01
RETRY_S = 0.5  # between attempts to start a process that does not start
REQUEST_ATTEMPTS = 2  # a request to a process that dies is made again to its successor
TAKEOVER_TIMEOUT_S = 60.0  # how long a request waits for the successor


class Process:
    """One data-plane process and the channel to it."""

    def __init__(self, pid, sock):
        self.pid = pid
        self.sock = sock
        self.pidfd = os.pidfd_open(pid)
        self._lock = asyncio.Lock()

    @classmethod
    async def spawn(cls):
        """Start a process and wait until its machine code is there."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "dpu_runtime.plane.dataplane",
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except BaseException:  # cancelled, or no memory for a process
            ours.close()
            raise
        finally:
            theirs.close()
        process = cls(child.pid, ours)
        process.child = child
        ours.settimeout(READY_TIMEOUT_S)
        try:
            ready, _ = await asyncio.to_thread(channel.receive, ours)
        except channel.ChannelClosedError as error:
            process.kill()  # it may hang rather than be gone
            process.close()
            code = await child.wait()
            raise DataPlaneError(f"data plane did not start (exit code {code}): {error}") from None
        except asyncio.CancelledError:
            process.kill()
            process.close()
            await child.wait()
            raise
        ours.settimeout(REQUEST_TIMEOUT_S)
        process.prepare_s = ready["prepare_s"]
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
        process = cls(hello["pid"], sock)
        process.hello, process.hello_fds = hello, fds
        return process

    async def request(self, message, fds=()):
        """Send a request and return (reply, descriptors). Raises DataPlaneError."""
        async with self._lock:
            try:
                return await asyncio.to_thread(self._exchange, message, fds)
            except channel.ChannelClosedError as error:
                raise DataPlaneGoneError(f"data plane {self.pid} is gone: {error}") from None

    def _exchange(self, message, fds):
        channel.send(self.sock, message, fds)
        reply, reply_fds = channel.receive(self.sock)
        if not reply.get("ok"):
            raise DataPlaneError(reply.get("error", "refused"))
        return reply, reply_fds

    async def answered(self):
        """Wait until what it was asked before is answered."""
        async with self._lock:
            pass

    async def exited(self):
        """Wait until the process is gone; at once when it was closed."""
        if self.pidfd < 0:
            return
        loop = asyncio.get_running_loop()
        gone = loop.create_future()
        loop.add_reader(self.pidfd, lambda: gone.done() or gone.set_result(None))
        try:
            await gone
        finally:
            loop.remove_reader(self.pidfd)

    def kill(self):
        """End the process without asking."""
        if self.pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    async def end(self):
        """Have a process end that is told to, or that nobody else can reach; wait for it and forget it."""
        self.sock.close()  # a standby ends on this
        try:
            await asyncio.wait_for(self.exited(), END_TIMEOUT_S)
        except TimeoutError:
            log.error("data plane %d does not end; killed", self.pid)
            self.kill()
            await self.exited()
        child = getattr(self, "child", None)
        if child is not None:
            await child.wait()
        self.close()

    def close(self):
        """Forget the process."""
        self.sock.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def _log_failure(text, error):
    """Log why a process could not be had; what nobody foresaw with its trace."""
    log.error("%s: %s", text, error, exc_info=None if isinstance(error, DataPlaneError) else error)


class Supervisor:
    """Keeps one active data plane running.

    restore   coroutine function(process): hands everything that runs to a fresh process
    """

    def __init__(self, restore, standby=True):
        self._restore = restore
        self._want_standby = standby
        self.active = None
        self.standby = None
        self.restarts = 0
        self.adopted = False
        self.last_gap_ms = None
        self._present = asyncio.Event()  # `active` has everything and can be asked
        self._exchange = asyncio.Lock()  # while `active` becomes another one
        self._keeper = None
        self._tasks = set()
        self._stopping = False

    async def start(self):
        """Start a fresh active process."""
        self.active = await Process.spawn()
        await self._restore(self.active)
        self._present.set()
        log.info("data plane %d runs, machine code after %.2f s", self.active.pid, self.active.prepare_s)
        self._watch()

    def adopt(self, process, standby=None):
        """Go on with a process that runs already; `standby` may be a fresh one."""
        self.active, self.standby = process, standby
        self.adopted = True
        self._present.set()
        log.info("adopted data plane %d", process.pid)
        self._watch()

    def _watch(self):
        self._spawn_task(self._replace_when_gone(self.active))
        if self._want_standby and self.standby is None:
            self._keeper = self._spawn_task(self._keep_standby())

    def _spawn_task(self, coroutine):
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _keep_standby(self):
        """Start a standby, and another one should it die while it waits."""
        while not self._stopping:
            try:
                process = self.standby = await Process.spawn()
            except Exception as error:  # no memory, no descriptors: they may be there later
                _log_failure("no standby data plane", error)
                await asyncio.sleep(RETRY_S)
                continue
            await process.exited()
            log.warning("standby data plane %d died", process.pid)
            self.standby = None
            process.close()
            await asyncio.sleep(RETRY_S)

    async def _replace_when_gone(self, process):
        await process.exited()
        async with self._exchange:
            if not self._stopping and process is self.active:
                await self._replace(process)

    async def _replace(self, process):
        began = time.monotonic()
        self._present.clear()
        log.error("data plane %d died", process.pid)
        process.close()
        while not await self._take_over():
            await asyncio.sleep(RETRY_S)
        self.restarts += 1
        self.last_gap_ms = round((time.monotonic() - began) * 1e3, 1)
        log.warning("data plane %d took over after %.1f ms", self.active.pid, self.last_gap_ms)
        self._watch()

    async def _take_over(self):
        """Make the standby, or a fresh process, the active one; False when that failed."""
        while self.standby is None and self._keeper is not None and not self._keeper.done():
            await asyncio.sleep(POLL_S)  # one is starting already
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None
        replacement, self.standby = self.standby, None
        try:
            if replacement is None:
                replacement = await Process.spawn()
            self.active = replacement
            await self._restore(replacement)
        except Exception as error:  # whatever it is, without another attempt nothing would ever run again
            _log_failure("no data plane", error)
            if replacement is not None:
                replacement.kill()
                replacement.close()
            return False
        self._present.set()
        return True

    async def hand_over(self, old, prepare, finish):
        """Have a fresh process go on in place of `old`, if that is the active one; returns the gap in ms.

        prepare  coroutine function(process): what may be refused, while the old one forwards
        finish   coroutine function(process): the rest, while nobody does
        None when the old one died and has a successor all the same.
        Raises what they raise, or DataPlaneError; then the old one goes on.
        """
        async with self._exchange:
            gap_ms = await self._exchanged(old, prepare, finish) if self.active is old else None
        if gap_ms is None:
            await self._present.wait()
            return None
        with contextlib.suppress(DataPlaneError):
            await old.request({"do": "stop"})
        await old.end()
        self._watch()
        return gap_ms

    async def _exchanged(self, old, prepare, finish):
        fresh, self.standby = self.standby or await Process.spawn(), None
        paused = False
        try:
            await prepare(fresh)
            self._present.clear()
            await old.answered()
            began = time.monotonic()
            await old.request({"do": "pause"})
            paused = True
            await finish(fresh)
        except BaseException as error:
            await self._take_back(old, fresh, paused)
            if self._present.is_set() or not isinstance(error, Exception):
                raise
            return None
        gap_ms = round((time.monotonic() - began) * 1e3, 1)
        self.active = fresh
        self._present.set()
        return gap_ms

    async def _take_back(self, old, fresh, paused):
        """End a process that was not handed everything; the old one goes on."""
        await fresh.end()
        if self._present.is_set():
            return  # it was not asked anything
        try:
            if not paused:
                raise DataPlaneError("it was asked to pause and did not answer")
            await old.request({"do": "resume"})
            self._present.set()
        except DataPlaneError as error:
            log.error("data plane %d does not go on: %s", old.pid, error)
            old.kill()  # what follows a death follows this

    async def request(self, message, fds=()):
        """Ask the active process; when it dies, the one that takes over from it."""
        for attempt in range(1, REQUEST_ATTEMPTS + 1):
            try:
                await asyncio.wait_for(self._present.wait(), TAKEOVER_TIMEOUT_S)
            except TimeoutError:
                break
            process = self.active
            try:
                return await process.request(message, fds)
            except DataPlaneGoneError:
                if process is self.active:
                    self._present.clear()
                    process.kill()  # one that does not answer is replaced like one that died
                if attempt == REQUEST_ATTEMPTS:
                    raise
        raise DataPlaneError("no data plane is running")

    async def stop(self):
        """End both processes and wait for them."""
        self._stopping = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.active is not None:
            with contextlib.suppress(DataPlaneError):
                await self.active.request({"do": "stop"})
        processes = [process for process in (self.active, self.standby) if process is not None]
        self.active = self.standby = None
        for process in processes:
            await process.end()
