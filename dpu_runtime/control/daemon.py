"""The daemon: one process that ties configuration, device and API together.

In:   a configuration, or none. Out: a served socket, a state directory, lines on stderr.
Not:  packets. This process never imports the compiler; the data plane is another process.

A clean end (SIGTERM, SIGINT) takes everything down. SIGHUP reads the configuration file again. A killed
daemon leaves the data plane running; the next one adopts it and goes on with what ran, what was made at run
time included. A file that differs is reported, and applied when `dpu apply` or `dpu reload` says so. What a
start of nothing goes by: basis.py.
"""

import asyncio
import functools
import importlib
import logging
import signal
import time

from dpu_runtime.api.methods import Api
from dpu_runtime.api.rpc import Server
from dpu_runtime.config.errors import ApplyError, ConfigError, DaemonError, NotAdoptedError
from dpu_runtime.config.models import Config
from dpu_runtime.control import plan
from dpu_runtime.control.basis import Basis, forget
from dpu_runtime.control.config_file import ConfigFile
from dpu_runtime.control.control import Control
from dpu_runtime.control.interface import REFUSALS, Device
from dpu_runtime.control.notify import sd_notify, watchdog_interval_s
from dpu_runtime.control.origin import Kept
from dpu_runtime.control.signals import RELOADING, Signals, Terminal
from dpu_runtime.control.state import StateDir
from dpu_runtime.control.words import how_many, in_numbers

__all__ = ["Daemon", "Device", "run"]

log = logging.getLogger("dpu.daemon")

REAP_S = 0.25  # between looks for ports whose container ended


class Daemon:
    """A daemon over `make_device(runtime)`, for `config` or for nothing yet.

    path   the configuration file that `config` came from, for a reload
    file   its digest (config/file.py)
    fresh  forget what was applied and what was made at run time
    """

    def __init__(
        self, make_device, config=None, socket=None, perf_map=False, *, path=None, file=None, fresh=False
    ):
        self._named_config = config is not None
        given = {**({"socket": str(socket)} if socket else {}), **({"perf_map": True} if perf_map else {})}
        self._file = ConfigFile(path, given)
        self.config = self._file.as_given(config or Config())
        self.runtime = self.config.runtime
        self.ready = asyncio.Event()
        self._make_device = make_device
        self._digest = file
        self._fresh = fresh
        self._basis = None
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._signals = Signals(self._signalled)
        self._terminal = Terminal()
        self._state = StateDir(self.runtime.state_dir)
        self._control = None
        self._server = None

    async def run(self, signals_after=None):
        """Serve until `stop()`, SIGTERM or SIGINT. Raises DaemonError, ApplyError, or what a device does.

        signals_after  what signals do once it has ended; default: what they did before
        """
        loop = asyncio.get_running_loop()
        self._signals.take()
        try:
            await self._run(loop)
        finally:
            self._signals.give_back(signals_after)

    async def _run(self, loop):
        self._state.lock()
        stopped = loop.create_task(self._stop.wait())
        try:
            starting = loop.create_task(self._start())
            await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
            try:
                await starting
            except asyncio.CancelledError:
                log.info("stopped while starting")
            else:
                await self._serve(stopped)
        finally:
            stopped.cancel()
            await self._end()

    def stop(self):
        """Ask `run` to end."""
        self._stop.set()

    def _signalled(self, number):
        name = signal.Signals(number).name
        if self._stop.is_set():
            return  # it does already
        if number == RELOADING and self._terminal.hung_up():
            log.info("%s: the terminal is closed, the daemon goes on", name)
        elif number == RELOADING:
            log.info("%s: reading the configuration file again", name)
            self._reload.set()
        else:
            log.info("%s: stopping", name)
            self.stop()

    async def _start(self):
        began = time.monotonic()
        if self._fresh:
            await forget(self._state, self._make_device(self.runtime))
        self._basis = Basis(self._state, self.config, self._digest)
        self.runtime = self._basis.config.runtime
        device = self._make_device(self.runtime)
        self._control = Control(device, self._state, self.runtime, self._digest)
        self._server = Server(self.runtime.socket, Api(self._control, self._file).call)
        await self._server.listen()
        try:
            await device.start(self._basis.config)
            adopted = device.status().get("adopted")
            if adopted:
                await self._adopt()
        except NotAdoptedError:
            self._control = None  # what runs goes on, and is not this process's to take down
            raise
        if not adopted:
            self._basis.settle()
            await self._control.start(self.config, self._kept(), self._basis.applied)
        await self._server.serve()
        log.info("ready after %.2f s, socket %s", time.monotonic() - began, self.runtime.socket)

    def _kept(self):
        """What was made at run time; what cannot be read is kept aside, and the daemon starts without it."""
        try:
            kept = self._state.load_kept()
            problems = kept.refused
        except DaemonError as error:
            kept, problems = Kept(), [str(error)]
        if problems:
            for problem in problems:
                log.error("made at run time, and lost: %s", problem)
            log.error("%s has what was made at run time, for you to look at", self._state.set_aside())
        return kept

    async def _adopt(self):
        """Go on with what a killed daemon left, whatever the file says."""
        try:
            running = self._state.load() or Config(runtime=self.runtime)
            kept = self._state.load_kept()
        except DaemonError:
            self._control = None  # what runs goes on: nobody knows what it is, but it forwards
            raise
        same = {key: getattr(running.runtime, key) for key in ("workers", *running.runtime.CHANGING)}
        runtime = self.runtime.model_copy(update=same)  # the rest is this process's own
        running = running.model_copy(update={"runtime": runtime})
        try:
            running = await self._control.adopt(running, kept, self._basis.found)
            await self._control.device.take_over()
        except REFUSALS as error:
            raise NotAdoptedError(str(error)) from error
        log.info("adopted a data plane with %s", in_numbers(how_many(running.parts()), running.SECTIONS))
        if self._named_config and self._basis.applied is None:
            self._report_differences(running)

    def _report_differences(self, running):
        """Say what the file asks for and does not run: ports that came since must not go unasked."""
        for problem in plan.fixed_changes(running.runtime, self.runtime):
            log.warning("not changed: %s", problem)
        lines = plan.summary(running, self.config.model_copy(update=plan.beside_owned(running, self.config)))
        for line in lines:
            log.warning("not applied: %s", line)
        if lines:
            log.warning("what ran goes on; `dpu apply FILE` makes the configuration file run")

    async def _serve(self, stopped):
        sd_notify("READY=1", "STATUS=forwarding")
        self.ready.set()
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(work()) for work in (self._watch, self._reap, self._reload_when_told)]
        try:
            await asyncio.wait((stopped, *tasks), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _reap(self):
        """Detach the ports of containers that ended."""
        while True:
            await asyncio.sleep(REAP_S)
            self._terminal.look()
            try:
                await self._control.reap()
            except ApplyError as error:
                log.error("a port whose container is gone stays: %s", error)

    async def _reload_when_told(self):
        """Read the file again after a SIGHUP; one that cannot be applied is logged, and what runs goes on."""
        while True:
            await self._reload.wait()
            self._reload.clear()
            try:
                if not await self._file.apply(self._control):
                    log.info("nothing to change")
            except (ConfigError, ApplyError) as error:
                for line in str(error).splitlines():
                    log.error("not reloaded: %s", line)
            except Exception:  # a bug, which must not end what runs
                log.exception("not reloaded")

    async def _watch(self):
        """Tell systemd that the daemon lives, as long as the device does."""
        interval_s = watchdog_interval_s()
        while True:
            if interval_s is None:
                await self._stop.wait()
                return
            try:
                healthy = await self._control.device.healthy()
            except Exception:
                log.exception("the health check failed")
                healthy = False
            if healthy:
                sd_notify("WATCHDOG=1")
            else:
                log.error("the data plane is not healthy; no sign of life for the service manager")
            await asyncio.sleep(interval_s)

    async def _end(self):
        sd_notify("STOPPING=1")
        try:
            if self._control is not None:
                await self._control.stop()
        finally:
            if self._server is not None:
                await self._server.stop()
            self._state.close()


def run(config=None, socket=None, perf_map=False, child=None, **more):
    """Run the daemon on this machine's device; returns when it was told to stop. Raises DaemonError.

    socket, perf_map  instead of what the configuration says, when given
    child             a data-plane process that was started already
    more              path, file and fresh, as of a `Daemon`
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    device = importlib.import_module("dpu_runtime.device.device")  # opens /dev/net/tun and more, only here

    async def main():
        make_device = functools.partial(device.DpuDevice, child=child)
        daemon = Daemon(make_device, config, socket, perf_map, **more)
        await daemon.run(signals_after=signal.SIG_IGN)  # all is taken down: what is left ends undisturbed

    try:
        asyncio.run(main())
    except REFUSALS as error:
        raise DaemonError(str(error)) from None
