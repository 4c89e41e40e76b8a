"""The control side of the data plane: start it, adopt it, replace it when it dies.

A warm standby process, its machine code loaded, waits beside the active one. When the active one
dies (a pidfd says so at once), the standby gets the shared memory and the port queues, and a new
standby is started. One that runs is replaced by `hand_over`.
Not:  what the requests mean; `dpu_runtime/device/device.py` makes them.
"""

import asyncio
import contextlib
import logging
import time

from dpu_runtime.config.errors import DataPlaneError, DataPlaneGoneError
from dpu_runtime.device.process import Process

log = logging.getLogger("dpu.supervisor")

POLL_S = 0.01
RETRY_S = 0.5  # between attempts to start a process that does not start
REQUEST_ATTEMPTS = 2  # a request to a process that dies is made again to its successor
STOP_TIMEOUT_S = 0.7  # from when it is told to stop to when it is killed
TAKEOVER_TIMEOUT_S = 60.0  # how long a request waits for the successor


def _log_failure(text, error):
    """Log why a process could not be had; what nobody foresaw with its trace."""
    log.error("%s: %s", text, error, exc_info=None if isinstance(error, DataPlaneError) else error)


class Supervisor:
    """Keeps one active data plane running.

    restore   coroutine function(process): hands everything that runs to a fresh process
    standby   have a second one wait
    child     a process that was started already, for the first that is needed
    """

    def __init__(self, restore, standby=True, child=None):
        self._restore = restore
        self._child = child
        self._want_standby = standby
        self.expected = frozenset()  # names of stages and tasks that processes are to have from the start
        self._there = frozenset()  # names of those that a process had when it came: nothing is to be made
        self._making = None  # the start of a process that makes more
        self._given_up = False
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
        self.active = await self.spawn()
        await self._restore(self.active)
        self._present.set()
        log.info("data plane %d runs, machine code after %.2f s", self.active.pid, self.active.prepare_s)
        self._watch()

    def adopt(self, process, standby=None):
        """Go on with a process that runs already; `standby` may be a fresh one, of another version."""
        self.active, self.standby = process, standby
        self.expected |= process.entries
        if standby is None:
            self._there |= process.entries
        if self._child is not None and not self._want_standby:
            self._child.end()
        self.adopted = True
        self._present.set()
        log.info("adopted data plane %d", process.pid)
        self._watch()

    async def have(self, entries):
        """Have machine code of these stages and tasks: before a data plane is to run them.

        A fresh process makes it beside those that run, and becomes the standby if there is to be one. Raises
        DataPlaneError: which does not compile and why, or how the process ended.
        """
        missing = frozenset(entries) - self._there
        if not missing:
            return
        names = ", ".join(sorted(missing))
        log.info("making machine code of %s", names)
        process = await self._make(missing, names)
        failed = sorted(missing & process.failed.keys())
        if failed:
            await process.end()
            why = (f"{name} does not compile: {process.failed[name]}" for name in failed)
            raise DataPlaneError("; ".join(why))
        self.expected |= missing
        await self._replace_standby(process)

    async def _make(self, missing, names):
        try:
            self._making = asyncio.ensure_future(self.spawn(missing))
            return await self._making
        except asyncio.CancelledError:
            if not self._given_up:
                raise
            raise DataPlaneError(f"no machine code of {names}: the daemon is stopping") from None
        except DataPlaneError as error:
            raise DataPlaneError(f"no machine code of {names}: {error}") from None
        finally:
            self._making = None

    def give_up(self):
        """Make no more machine code, and wait no longer for a process that does not answer."""
        self._given_up = True
        if self._making is not None:
            self._making.cancel()
        self._spawn_task(self._answer_or_die())

    async def _answer_or_die(self):
        """Kill an active process that does not answer, to the end: what waits for it holds up the stop."""
        while not self._stopping and (process := self.active) is not None:
            try:
                await asyncio.wait_for(process.answered(), STOP_TIMEOUT_S)
            except TimeoutError:
                log.error("data plane %d does not answer within %.1f s; killed", process.pid, STOP_TIMEOUT_S)
                process.kill()
            await asyncio.sleep(POLL_S)

    async def spawn(self, more=frozenset()):
        """Start a process that has the machine code of what is expected, and more."""
        child, self._child = self._child, None
        process = await Process.spawn(self.expected | more, child)
        self._there |= process.entries
        return process

    def _watch(self):
        self._spawn_task(self._replace_when_gone(self.active))
        self._watch_standby()

    def _watch_standby(self):
        if self._want_standby and self._keeper is None and not self._stopping:
            self._keeper = self._spawn_task(self._keep_standby())

    def _take_standby(self):
        """The standby, which is watched no more; None when there is none."""
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None
        process, self.standby = self.standby, None
        return process

    async def _replace_standby(self, process):
        former = process
        if self._want_standby and not self._stopping:
            former, self.standby = self._take_standby(), process
            self._watch_standby()
        if former is not None:
            await former.end()

    def _spawn_task(self, coroutine):
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _keep_standby(self):
        """Start a standby, and another one should it die while it waits."""
        while not self._stopping:
            try:
                if self.standby is None:
                    self.standby = await self.spawn()
            except Exception as error:  # no memory, no descriptors: they may be there later
                _log_failure("no standby data plane", error)
                await asyncio.sleep(RETRY_S)
                continue
            process = self.standby
            await process.exited()
            if process is not self.standby:
                continue  # another took its place
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
        replacement = self._take_standby()
        try:
            if replacement is None:
                replacement = await self.spawn()
            self.active = replacement
            await self._restore(replacement)
        except Exception as error:  # whatever it is, without another attempt nothing would ever run again
            _log_failure("no data plane", error)
            if replacement is not None:
                await replacement.killed()
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
        fresh, paused = self._take_standby(), False
        try:
            fresh = fresh or await self.spawn()
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
        if fresh is not None:
            await fresh.end()
        self._watch_standby()
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
            if self._given_up and not self._present.is_set():
                break  # what follows is the end of all, not a successor
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
                if attempt == REQUEST_ATTEMPTS or self._given_up:
                    raise
        raise DataPlaneError("no data plane is running")

    async def stop(self):
        """End both processes and wait for them; one that is too slow is killed."""
        self._stopping = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        active, standby = self.active, self.standby
        self.active = self.standby = None
        if standby is not None:
            await asyncio.gather(_stop(active), standby.end(STOP_TIMEOUT_S))
        else:
            await _stop(active)


async def _stop(process):
    """Have the active process, if there is one, end its workers, then itself."""
    if process is None:
        return
    asked = asyncio.ensure_future(process.request({"do": "stop"}))
    await asyncio.wait({asked}, timeout=STOP_TIMEOUT_S)
    if not asked.done():
        log.error("data plane %d does not stop within %.1f s; killed", process.pid, STOP_TIMEOUT_S)
        process.kill()
    with contextlib.suppress(DataPlaneError):
        await asked
    await process.end(STOP_TIMEOUT_S)
