"""Watches the interfaces that ports use and did not make: they go, come again, go down, change name or MTU.

A port follows its interface, found by index, so also under another name. When that is gone the port leaves
the data plane but keeps index, counters and what names it. One of its name opens it again.

In:   link messages of each namespace that has such a port, and a look at the namespaces themselves.
Out:  `state`, `notes` and `lost` of live ports; port_queues.py takes a port out and brings it back.
Not:  interfaces of tap ports.

Sockets hold the namespace they are in: the port's own do, and so does the one that hears of changes.
Deleting the namespace (`ip netns del`, the end of a container) would leave it and its interfaces there,
unnamed, for as long as the port is open, and the kernel would have nothing to tell. So the name decides: a
port whose namespace's name (or process) leads nowhere, or elsewhere, is lost. Its sockets are closed, and
with the last of them the namespace ends. Namespaces are compared by device and inode, which no other has
while a socket is in the one.
"""

import asyncio
import contextlib
import logging
import os
import time
import weakref

from dpu_runtime.config.errors import DataPlaneError
from dpu_runtime.device.live_port import uses_interface
from dpu_runtime.drivers.linux.link import find_link
from dpu_runtime.drivers.linux.link_events import LinkEvents, namespace_now, namespace_of
from dpu_runtime.drivers.linux.netns import socket_netns
from dpu_runtime.drivers.port import PortError

log = logging.getLogger("dpu.interfaces")

SETTLE_S = 0.02  # changes that come together are looked at together
NAMESPACES_S = 0.5  # between looks at whether the namespaces are there
RETRY_S = 2.0  # between attempts to open a port whose interface is there


class InterfaceWatch:
    """Keeps the ports of `device` in step with their interfaces.

    device  has `ports`, `shared`, and `changing`, a lock: one change of a port at a time
    queues  port_queues.py, which takes ports out and brings them back
    """

    def __init__(self, device, queues):
        self._device = device
        self._queues = queues
        self._events = {}  # netns as configured -> LinkEvents
        self._due = set()  # names of ports to look at
        self._retry_at = weakref.WeakKeyDictionary()  # LivePort -> time.monotonic() of its next attempt
        self._ended = weakref.WeakSet()  # LivePorts whose namespace cannot come again
        self._wake = asyncio.Event()
        self._task = None

    def start(self):
        """Watch from now on."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self):
        """Watch no more; twice is allowed."""
        if self._task is not None:
            async with self._device.changing:  # so not in the middle of a change
                self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        for netns in list(self._events):
            self._drop(netns)

    def look_at(self, name):
        """Have a port looked at soon: it is new, or may have changed."""
        self._due.add(name)
        self._wake.set()

    # noticing

    def _live_ports(self, netns=None):
        """LivePorts over interfaces, all or those in one namespace as a list of it."""
        live_ports = [live for live in self._device.ports.values() if uses_interface(live.config)]
        return live_ports if netns is None else [live for live in live_ports if live.config.netns == netns[0]]

    async def _run(self):
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(NAMESPACES_S if self._live_ports() or self._events else None):
                    await self._wake.wait()
                await asyncio.sleep(SETTLE_S)
            self._wake.clear()
            self._look_at_namespaces()
            self._look_at_queues()
            due, self._due = self._due, set()
            for name in sorted(due):
                await self._look(name)

    def _look_at_namespaces(self):
        """Find out which namespaces went and came; hear of changes in those that are there."""
        wanted = {live.config.netns for live in self._live_ports()}
        for netns in set(self._events) | wanted:
            events = self._events.get(netns)
            if events is not None and not (netns in wanted and events.is_current()):
                self._drop(netns)
                events = None
                self._due.update(live.config.name for live in self._live_ports([netns]))
            if events is None and netns in wanted:
                self._hear(netns)

    def _hear(self, netns):
        if netns is not None and namespace_now(netns) is None:
            return
        try:
            events = self._events[netns] = LinkEvents(netns)
        except (PortError, OSError) as error:  # it went just now, or there are too many descriptors
            log.warning("not watching the interfaces of netns %s: %s", netns or "of the host", error)
            return
        asyncio.get_running_loop().add_reader(events, self._heard, netns)
        self._due.update(live.config.name for live in self._live_ports([netns]))

    def _drop(self, netns):
        events = self._events.pop(netns)
        asyncio.get_running_loop().remove_reader(events)
        events.close()

    def _heard(self, netns):
        changed = self._events[netns].read()
        for live in self._live_ports([netns]):
            if changed is None or self._is_meant(live, *changed):
                self.look_at(live.config.name)

    @staticmethod
    def _is_meant(live, indices, names):
        return live.config.ifname in names if live.lost else live.driver.link.index in indices

    def _look_at_queues(self):
        """Ports whose queue the data plane gave up, and those that did not open at the last attempt."""
        now = time.monotonic()
        for live in self._live_ports():
            if self._queue_error(live) or self._retry_at.get(live, now + 1) <= now:
                self._due.add(live.config.name)

    def _queue_error(self, live):
        """Whether the data plane gave up a queue whose interface is up; one that is down is waited for."""
        return not live.lost and live.driver.link.up and self._device.shared.port_errors[live.index]

    # looking

    async def _look(self, name):
        """Bring a port to what its interface is now, and say so when that is something else."""
        async with self._device.changing:
            live = self._device.ports.get(name)
            if live is None or not uses_interface(live.config) or live in self._ended:
                return
            try:
                self._say(live, await self._update(live))
            except (PortError, DataPlaneError, OSError) as error:
                self._retry_at[live] = time.monotonic() + RETRY_S
                why = error.text if isinstance(error, PortError) else error
                self._say(live, f"lost: {why}" if live.lost else live.state)
            except Exception:  # a bug, which must not end the watch
                log.exception("port %s: its interface could not be looked at", name)

    @staticmethod
    def _say(live, state):
        if state != live.state:
            live.state = state
            log.log(
                logging.INFO if state == "up" else logging.WARNING, "port %s: %s", live.config.name, state
            )

    async def _update(self, live):
        """Take a port out, bring it back, or neither; returns its state in words."""
        self._retry_at.pop(live, None)
        if not live.lost:
            gone, link = await self._own_link(live)
            if gone is None:
                state = self._follow(live, link)
                gone = self._unusable(live)
                if gone is None:
                    return state
            self._say(live, f"lost: {gone}")
            await self._queues.take_out(live)
        config = live.config
        events = self._events.get(config.netns)
        if events is None or live in self._ended:
            return f"lost: network namespace {config.netns!r} is gone"
        with socket_netns(events.fileno()) as path:
            link = await asyncio.to_thread(find_link, path, config.ifname, port=config.name)
        if link is None:
            return f"lost: interface {config.ifname!r} is gone"
        await self._queues.bring_back(live)
        return self._follow(live, live.driver.link)

    async def _own_link(self, live):
        """The interface an open port uses: (None, Link), or (why it is gone, None)."""
        netns, own = live.config.netns, live.driver.fds[0]
        if netns is not None and namespace_now(netns) != namespace_of(own):
            if netns.startswith("pid:"):  # a process of this number would be another one
                self._ended.add(live)
            return f"network namespace {netns!r} is gone", None
        before = live.driver.link
        with socket_netns(own) as path:
            link = await asyncio.to_thread(find_link, path, index=before.index, port=live.config.name)
        return (f"interface {before.name!r} is gone", None) if link is None else (None, link)

    def _unusable(self, live):
        """Why a port's open queues are no good although its interface is there, None: they are."""
        if error := self._queue_error(live):
            return os.strerror(int(error))
        if not live.driver.fits(live.driver.link):
            return f"its queues do not fit the MTU of {live.driver.link.mtu}"
        return None

    def _follow(self, live, link):
        """Take over what the interface is now; returns the port's state in words."""
        before, live.driver.link = live.driver.link, link
        ifname, mtu = live.config.ifname, live.config.mtu
        if mtu is None and link.mtu != int(self._device.shared.ports[live.index]["mtu"]):
            log.info("port %s: MTU %d, as interface %r has it", live.config.name, link.mtu, ifname)
            self._queues.rows.rewrite(live)
        live.notes = []
        if mtu is not None and link.mtu != mtu:
            live.notes.append(f"interface {ifname!r} has an MTU of {link.mtu}; the port's own is {mtu}")
            if link.mtu != before.mtu:
                log.warning("port %s: %s", live.config.name, live.notes[0])
        if link.name != ifname:
            live.notes.append(f"interface {ifname!r} was renamed to {link.name!r}; the port goes on with it")
        if not link.up:
            return f"down: interface {link.name!r} is administratively down"
        if not link.carrier:
            return f"down: interface {link.name!r} has no carrier"
        return "up" if link.name == ifname else f"up: interface {ifname!r} is called {link.name!r} now"
