"""How a device goes on with what there was before it: a data plane that runs, or one that died.

In:   the memory and the ports of another process, perhaps of another version.
Out:  `shared`, `ports`, and a data-plane process that has all of it.

An upgrade: the data plane of another version goes on as it is, while this process makes the regions that
do not fit, its caller fills them, and a fresh process is prepared. Then the old one pauses, and the fresh one
gets memory and ports, and starts. Packets wait in the queues meanwhile. Ports of a kind whose region does
not fit go and come again. A hand-over that fails leaves the old one going on.
Not:  who waits for whom, supervisor.py; the other side of it, dpu_runtime/plane/ownership.py.
"""

import asyncio
import contextlib
import logging
import os

from pydantic import TypeAdapter

from dpu_runtime.config.errors import DataPlaneError, DataPlaneGoneError, NotAdoptedError
from dpu_runtime.config.models import AnyPort
from dpu_runtime.device.live_port import LivePort, has_rings, make_driver, uses_interface
from dpu_runtime.device.port_queues import add_message
from dpu_runtime.drivers.port import Kind, PortError
from dpu_runtime.kernels import layout
from dpu_runtime.observe import perf_map
from dpu_runtime.plane.regions import RegionError
from dpu_runtime.plane.shared import SharedState

log = logging.getLogger("dpu.device")

AT_REST = (Kind.TAP, Kind.NULL)  # kinds whose queues two processes can have while only one of them works

_any_port = TypeAdapter(AnyPort)


class Takeover:
    """The part of a DpuDevice that takes over.

    upgrading  what runs has other regions than this version; `take_over` is to come
    """

    def __init__(self):
        self.upgrading = False
        self._ran = None  # the Process that was adopted
        self._again = []  # LivePorts of a kind whose region does not fit
        self._given = {}  # Process -> indices of the ports that it got before the old one paused

    # a data plane that runs

    async def _adopt(self, process):
        """Go on with a data plane that runs; False when it is gone. Raises NotAdoptedError: it goes on."""
        try:
            shared = SharedState.adopt(process.hello_fds[0], process.hello.get("regions", {}))
        except ValueError as error:
            log.error("data plane %d is ended, not adopted; all is made anew: %s", process.pid, error)
            with contextlib.suppress(DataPlaneError):
                await process.request({"do": "stop"})
            await process.exited()
            let_go(process)
            return False
        except RegionError as error:
            raise _not_adopted(process, error) from None
        self._kicks = process.hello_fds[1:]
        self._cpus = process.hello["cpus"]
        notes = shared.read_notes()
        self._map(shared, _of_regions_that_stay(notes.get("functions", {}), shared.succession))
        fresh = None
        try:
            fresh = await self._prepare_upgrade(process)
            await self._adopt_ports(process, notes)
        except DataPlaneGoneError as error:
            log.error("%s; all is made anew", error)
            for live in self.ports.values():
                live.driver.close()
            self.ports.clear()
            self.upgrading = False
            if fresh is not None:
                await fresh.end()
            let_go(process)
            return False
        except (DataPlaneError, PortError, asyncio.CancelledError) as error:
            self._leave_alone()
            raise _not_adopted(process, error) from None
        self._ran = process
        self._supervisor.adopt(process, fresh)
        await perf_map.ask(process, self.runtime.perf_map)
        for live in self.ports.values():
            if live.plane and not live.lost:
                await live.driver.start(live.plane)
        return True

    def _leave_alone(self):
        """What runs goes on without this process: its ports are not to be closed, its regions stay."""
        self.ports.clear()
        self.shared.succession.undo()

    async def _prepare_upgrade(self, process):
        """Have a process of this version ready if the one that runs has other regions; None if it has not."""
        succession = self.shared.succession
        self.upgrading = bool(succession.made or succession.gone)
        if not self.upgrading:
            return None
        log.warning("data plane %d is of another version; regions %s", process.pid, succession.describe())
        self._supervisor.expected |= process.entries
        succession.carry_over()  # for books: what a counter says that nobody has any more
        return await self._supervisor.spawn()

    async def _adopt_ports(self, process, notes):
        hello = process.hello
        for name, (index, config, base) in notes.get("ports", {}).items():
            port = _any_port.validate_json(config)
            driver = make_driver(port, len(self._cpus), self._umem)
            live = LivePort(index, port, driver, base, self._make_plane(name, index, port, driver))
            live.open = bool(int(self.shared.ports[index]["flags"]) & layout.PORT_UP)
            live.lost = uses_interface(port) and index not in hello["ports"]
            if port.kind in self.shared.succession.made:
                live.lost = True
                self._again.append(live)
            if not live.lost:
                await self._adopt_port(process, live)
            self.ports[name] = live
            self._rows.known(live)
            self._interfaces.look_at(name)
        if not self.upgrading:
            self._rows.list(self.ports)  # whoever wrote it last may not have ended
        self.functions.programs.adopted(
            {live.index: live.config for live in self.ports.values()}, to_come=self.upgrading
        )
        self._started = notes.get("daemon", {}).get("started", self._started)

    async def _adopt_port(self, process, live):
        reply, fds = await process.request({"do": "get_port", "index": live.index})
        if has_rings(live.config):
            live.driver.adopt(reply["snapshot"], fds)
        else:
            live.driver.adopt(fds, reply["layout"])
        if self.upgrading:
            self._rows.rewrite(live)  # into regions that are new

    # an upgrade

    async def take_over(self):
        """End an upgrade that `start` began; all tables are set by now. Raises NotAdoptedError."""
        if not self.upgrading:
            return
        async with self.changing:
            self.upgrading = False
            try:
                gap_ms = await self._supervisor.hand_over(self._ran, self._prepare, self._finish)
            except (Exception, asyncio.CancelledError) as error:  # whatever it is, traffic goes on
                self._leave_alone()
                raise _not_adopted(self._ran, error) from error
            if gap_ms is not None:
                log.warning("data plane %d made way within %.1f ms", self._ran.pid, gap_ms)
                await perf_map.ask(self._supervisor.active, self.runtime.perf_map)
            self.shared.succession.forget_before()
            for live in self._again:
                if live.plane:
                    await self._come_again(live)
            self._rows.open(self.ports)
            self._rows.list(self.ports)
        self._interfaces.start()  # which brings the interfaces back

    async def _come_again(self, live):
        """Make a port with rings anew; its driver connects again."""
        log.warning("port %s goes and comes again: its kind has another layout", live.config.name)
        try:
            await asyncio.to_thread(live.driver.open)
        except PortError as error:
            log.error("%s", error)
            live.state = f"lost: {error.text}"
            return
        live.lost = False
        self._rows.rewrite(live)
        await self._supervisor.request(add_message(live.index, live.driver), live.driver.fds)
        await live.plane.apply(*live.driver.snapshot())
        await self._supervisor.request({"do": "poll_rings", "index": live.index})
        await live.driver.start(live.plane)

    async def _prepare(self, process):
        """Give a fresh process all that it can have while another one forwards."""
        await self._give_memory(process)
        given = self._given[process] = set()
        for live in self.ports.values():
            if live.driver.kind in AT_REST and not live.lost:
                await process.request(add_message(live.index, live.driver), live.driver.fds)
                given.add(live.index)

    async def _finish(self, process):
        """Give it the rest; the old one has paused."""
        self._settle()
        await self._give_ports(process, self._given.pop(process))

    async def _give_memory(self, process):
        await process.request({"do": "map", "cpus": self._cpus}, [self.shared.fd, *self._kicks])
        await self.functions.programs.renew(process)

    # a data plane that no longer runs

    async def _restore(self, process):
        """Hand the shared memory and every port to a fresh data-plane process."""
        self.functions.books.repair()
        self._settle()
        await self._give_memory(process)
        await self._give_ports(process)
        await perf_map.ask(process, self.runtime.perf_map)

    async def _give_ports(self, process, given=()):
        # A port that is deleted meanwhile is deleted there once this is done; its queues are open until then.
        live_ports = [live for live in self.ports.values() if not live.lost and live.index not in given]
        if live_ports:
            await process.request({"do": "own"})
        rings = [live for live in live_ports if live.plane]
        for live in rings:
            await process.request({"do": "add_ring_port", "index": live.index})
            snapshot, fds = live.driver.snapshot()
            await process.request({"do": "set_rings", "index": live.index, "snapshot": snapshot}, fds)
            await process.request({"do": "poll_rings", "index": live.index})
        queues = [live for live in live_ports if not live.plane]
        for live in queues:  # all of them before the first is handed over: they may share memory
            await self._queues.renew(live)
        for live in queues:
            if not live.lost:
                await self._queues.restore(process, live)
            if live.lost:
                self._interfaces.look_at(live.config.name)
        # Last: no packet is for a port that is not there yet.
        await process.request({"do": "start", "adopt_path": self._adopt_path})

    def _settle(self):
        """Close the books of a data plane that runs no more."""
        shared = self.shared
        if shared.succession is not None:
            shared.succession.settle(shared.drops)
        if lost := shared.book_lost_packets():
            log.warning("%d packets were in the hands of the dead data plane", lost)
        if self.upgrading:  # it died before the tables were set: no packet passes until they are
            for live in self.ports.values():
                live.open = False
        if self.upgrading or self._again:
            self._rows.list(self.ports)


def _of_regions_that_stay(notes, succession):
    """What books noted, of the functions whose counters go on."""
    return {name: note for name, note in notes.items() if succession.counts_go_on(name)}


def let_go(process):
    """Close all that one has of a data plane; its memory goes with the last descriptor."""
    process.close()
    for fd in process.hello_fds:
        os.close(fd)


def _not_adopted(process, why):
    why = "stopped while starting" if isinstance(why, asyncio.CancelledError) else why
    return NotAdoptedError(f"data plane {process.pid} is not taken over, and goes on as it is: {why}")
