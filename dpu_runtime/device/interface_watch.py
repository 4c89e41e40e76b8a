"""Watches the interfaces that ports use and did not make: they go, come again, go down, change name or MTU.

A port follows its interface, found by index, so also under another name. When that is gone the port leaves
the data plane but keeps its index, counters and rules; an interface of the configured name opens it again.

In:   link messages of each namespace that has such a port, and a look at the namespaces themselves.
Out:  `state`, `notes` and `lost` of slots; port_queues.py takes a port out and brings it back.
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
        self._retry_at = weakref.WeakKeyDictionary()  # Slot -> time.monotonic() of the next attempt to open
        self._ended = weakref.WeakSet()  # Slots whose namespace cannot come again
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

    def _slots(self, netns=None):
        """Slots over interfaces, all or those in one namespace as a list of it."""
        slots = [slot for slot in self._device.ports.values() if uses_interface(slot.config)]
        return slots if netns is None else [slot for slot in slots if slot.config.netns == netns[0]]

    async def _run(self):
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(NAMESPACES_S if self._slots() or self._events else None):
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
        wanted = {slot.config.netns for slot in self._slots()}
        for netns in set(self._events) | wanted:
            events = self._events.get(netns)
            if events is not None and not (netns in wanted and events.is_current()):
                self._drop(netns)
                events = None
                self._due.update(slot.config.name for slot in self._slots([netns]))
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
        self._due.update(slot.config.name for slot in self._slots([netns]))

    def _drop(self, netns):
        events = self._events.pop(netns)
        asyncio.get_running_loop().remove_reader(events)
        events.close()

    def _heard(self, netns):
        changed = self._events[netns].read()
        for slot in self._slots([netns]):
            if changed is None or self._is_meant(slot, *changed):
                self.look_at(slot.config.name)

    @staticmethod
    def _is_meant(slot, indices, names):
        return slot.config.ifname in names if slot.lost else slot.driver.link.index in indices

    def _look_at_queues(self):
        """Ports whose queue the data plane gave up, and those that did not open at the last attempt."""
        now = time.monotonic()
        for slot in self._slots():
            if self._queue_error(slot) or self._retry_at.get(slot, now + 1) <= now:
                self._due.add(slot.config.name)

    def _queue_error(self, slot):
        """Whether the data plane gave up a queue whose interface is up; one that is down is waited for."""
        return not slot.lost and slot.driver.link.up and self._device.shared.port_errors[slot.index]

    # looking

    async def _look(self, name):
        """Bring a port to what its interface is now, and say so when that is something else."""
        async with self._device.changing:
            slot = self._device.ports.get(name)
            if slot is None or not uses_interface(slot.config) or slot in self._ended:
                return
            try:
                self._say(slot, await self._update(slot))
            except (PortError, DataPlaneError, OSError) as error:
                self._retry_at[slot] = time.monotonic() + RETRY_S
                why = error.text if isinstance(error, PortError) else error
                self._say(slot, f"lost: {why}" if slot.lost else slot.state)
            except Exception:  # a bug, which must not end the watch
                log.exception("port %s: its interface could not be looked at", name)

    @staticmethod
    def _say(slot, state):
        if state != slot.state:
            slot.state = state
            log.log(
                logging.INFO if state == "up" else logging.WARNING, "port %s: %s", slot.config.name, state
            )

    async def _update(self, slot):
        """Take a port out, bring it back, or neither; returns its state in words."""
        self._retry_at.pop(slot, None)
        if not slot.lost:
            gone, link = await self._own_link(slot)
            if gone is None:
                state = self._follow(slot, link)
                gone = self._unusable(slot)
                if gone is None:
                    return state
            self._say(slot, f"lost: {gone}")
            await self._queues.take_out(slot)
        config = slot.config
        events = self._events.get(config.netns)
        if events is None or slot in self._ended:
            return f"lost: network namespace {config.netns!r} is gone"
        with socket_netns(events.fileno()) as path:
            link = await asyncio.to_thread(find_link, path, config.ifname, port=config.name)
        if link is None:
            return f"lost: interface {config.ifname!r} is gone"
        await self._queues.bring_back(slot)
        return self._follow(slot, slot.driver.link)

    async def _own_link(self, slot):
        """The interface an open port uses: (None, Link), or (why it is gone, None)."""
        netns, own = slot.config.netns, slot.driver.fds[0]
        if netns is not None and namespace_now(netns) != namespace_of(own):
            if netns.startswith("pid:"):  # a process of this number would be another one
                self._ended.add(slot)
            return f"network namespace {netns!r} is gone", None
        before = slot.driver.link
        with socket_netns(own) as path:
            link = await asyncio.to_thread(find_link, path, index=before.index, port=slot.config.name)
        return (f"interface {before.name!r} is gone", None) if link is None else (None, link)

    def _unusable(self, slot):
        """Why a port's open queues are no good although its interface is there, None: they are."""
        if error := self._queue_error(slot):
            return os.strerror(int(error))
        if not slot.driver.fits(slot.driver.link):
            return f"its queues do not fit the MTU of {slot.driver.link.mtu}"
        return None

    def _follow(self, slot, link):
        """Take over what the interface is now; returns the port's state in words."""
        before, slot.driver.link = slot.driver.link, link
        ifname, mtu = slot.config.ifname, slot.config.mtu
        if mtu is None and link.mtu != int(self._device.shared.ports[slot.index]["mtu"]):
            log.info("port %s: MTU %d, as interface %r has it", slot.config.name, link.mtu, ifname)
            self._queues.rows.rewrite(slot)
        slot.notes = []
        if mtu is not None and link.mtu != mtu:
            slot.notes.append(f"interface {ifname!r} has an MTU of {link.mtu}; the port's own is {mtu}")
            if link.mtu != before.mtu:
                log.warning("port %s: %s", slot.config.name, slot.notes[0])
        if link.name != ifname:
            slot.notes.append(f"interface {ifname!r} was renamed to {link.name!r}; the port goes on with it")
        if not link.up:
            return f"down: interface {link.name!r} is administratively down"
        if not link.carrier:
            return f"down: interface {link.name!r} has no carrier"
        return "up" if link.name == ifname else f"up: interface {ifname!r} is called {link.name!r} now"
