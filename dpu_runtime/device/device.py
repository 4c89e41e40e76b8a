"""The device: ports, rules and counters of one DPU, over the data plane and the shared memory.

Everything a later control process needs is in the shared memory's notes, so that `kill -9` of this
process loses nothing: the next one adopts the data plane and reads them.
Not:  what should run and in which order to get there; `dpu_runtime/control/control.py` decides.
"""

import asyncio
import contextlib
import functools
import logging
import os
import time
from pathlib import Path

from pydantic import TypeAdapter

from dpu_runtime.config.errors import DataPlaneError
from dpu_runtime.config.models import AnyPort
from dpu_runtime.device.interface_watch import InterfaceWatch
from dpu_runtime.device.live_port import Slot, has_rings, make_driver, makes_interface, uses_interface
from dpu_runtime.device.port_info import port_info
from dpu_runtime.device.port_queues import PortQueues, add_message
from dpu_runtime.device.port_rows import PortRows
from dpu_runtime.device.ring_port import RingPlane
from dpu_runtime.device.supervisor import Process, Supervisor
from dpu_runtime.device.wiring import change_mtu, change_shaper, wire_interface
from dpu_runtime.drivers.af_xdp.umem import Umem
from dpu_runtime.drivers.port import PortError
from dpu_runtime.drivers.tap.port import check_tun_device
from dpu_runtime.functions.acl.book import RuleBook
from dpu_runtime.kernels import layout
from dpu_runtime.kernels.switch import mac_table
from dpu_runtime.observe import perf_map
from dpu_runtime.observe.counters import read_stats
from dpu_runtime.observe.profile import Profiler
from dpu_runtime.plane.shared import STAGES, Control, SharedState, WorkerWord

log = logging.getLogger("dpu.device")

ADOPT_SOCKET = "dataplane.sock"  # in the state directory
PASS_TIMEOUT_S = 5.0
WATCH_RINGS_S = 0.5
HEALTHY_TIMEOUT_S = 2.0
# keys of a port that change under traffic; all others make it go and come again
IN_PLACE = {"mtu", "vlan", "trunk", "spoof_check", "verify_checksum", "gro", "owner"}
IN_PLACE |= {"rx_rate", "rx_burst", "tx_rate", "tx_burst"}

_any_port = TypeAdapter(AnyPort)


def _alone(method):
    """One change of a port at a time: the watch of interfaces makes some too."""

    @functools.wraps(method)
    async def alone(self, *args):
        async with self.changing:
            return await method(self, *args)

    return alone


class DpuDevice:
    """The device of `runtime`, a RuntimeConfig."""

    def __init__(self, runtime):
        self.runtime = runtime
        self.shared = None
        self._rows = None  # of `shared`
        self.ports = {}  # name -> Slot
        self.rules = None
        self.changing = asyncio.Lock()
        self._cpus = list(runtime.workers)
        self._umem = Umem(runtime.xdp_frames, len(self._cpus))
        self._kicks = []
        self._started = time.time()
        self._watcher = None
        self._profiler = Profiler()
        self._adopt_path = str(Path(runtime.state_dir) / ADOPT_SOCKET)
        self._supervisor = Supervisor(self._restore, standby=runtime.standby)
        self._queues = PortQueues(self.ports, self._supervisor.request)
        self._interfaces = InterfaceWatch(self, self._queues)

    async def start(self):
        """Adopt the data plane that runs in this state directory, or start one."""
        check_tun_device()
        self._watcher = asyncio.get_running_loop().create_task(self._watch_rings())
        self._interfaces.start()
        process = await asyncio.to_thread(Process.connect, self._adopt_path)
        if process is not None and await self._adopt(process):
            return
        self._map(SharedState.create())
        self.rules = RuleBook(self.shared)
        self._kicks = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in self._cpus]
        self._write_settings()
        await self._supervisor.start()

    async def _adopt(self, process):
        hello = process.hello
        try:
            self._map(SharedState.attach(process.hello_fds[0]))
        except ValueError as error:
            log.error("data plane %d is ended, not adopted: %s", process.pid, error)
            await process.request({"do": "stop"})
            await process.exited()
            return False
        self._kicks = process.hello_fds[1:]
        self._cpus = hello["cpus"]
        notes = self.shared.read_notes()
        for name, (index, config, base) in notes.get("ports", {}).items():
            port = _any_port.validate_json(config)
            driver = make_driver(port, len(self._cpus), self._umem)
            slot = Slot(index, port, driver, base, self._make_plane(name, index, port, driver))
            slot.open = bool(int(self.shared.ports[index]["flags"]) & layout.PORT_UP)
            slot.lost = uses_interface(port) and index not in hello["ports"]
            if not slot.lost:
                reply, fds = await process.request({"do": "get_port", "index": index})
                if has_rings(port):
                    driver.adopt(reply["snapshot"], fds)
                else:
                    driver.adopt(fds, reply["layout"])
            self.ports[name] = slot
            self._interfaces.look_at(name)
        self._rows.list(self.ports)  # whoever wrote it last may not have ended
        self.rules = RuleBook(self.shared, **notes.get("rules", {}))
        self._started = notes.get("daemon", {}).get("started", self._started)
        self._write_settings()
        self._supervisor.adopt(process)
        await perf_map.ask(process, self.runtime.perf_map)
        for slot in self.ports.values():
            if slot.plane:
                await slot.driver.start(slot.plane)
        return True

    def _map(self, shared):
        self.shared = shared
        self._rows = self._queues.rows = PortRows(shared)

    async def stop(self):
        """End the data plane and give every port back."""
        await self._interfaces.stop()
        if self._watcher is not None:
            self._watcher.cancel()
        for slot in self.ports.values():
            if slot.plane:
                await slot.driver.stop()
        await self._supervisor.stop()
        perf_map.remove_stale()
        for slot in self.ports.values():
            slot.driver.close()
        self.ports.clear()
        for fd in self._kicks:
            os.close(fd)
        self._kicks = []

    async def _restore(self, process):
        """Hand the shared memory and every port to a fresh data-plane process."""
        lost = self.shared.book_lost_packets(len(self._cpus))
        mac_table.repair(self.shared.mac)
        if lost:
            log.warning("%d packets were in the hands of the dead data plane", lost)
        message = {"do": "attach", "cpus": self._cpus, "adopt_path": self._adopt_path}
        await process.request(message, [self.shared.fd, *self._kicks])
        # A port that is deleted meanwhile is deleted there once this is done; its queues are open until then.
        slots = list(self.ports.values())
        # First every guest can be sent to, then packets come in: none goes to a port that is not there yet.
        rings = [slot for slot in slots if slot.plane]
        for slot in rings:
            await process.request({"do": "add_ring_port", "index": slot.index})
            snapshot, fds = slot.driver.snapshot()
            await process.request({"do": "set_rings", "index": slot.index, "snapshot": snapshot}, fds)
        queues = [slot for slot in slots if not slot.plane and not slot.lost]
        for slot in queues:  # all of them before the first is handed over: they may share memory
            await self._queues.renew(slot)
        for slot in queues:
            if not slot.lost:
                await self._queues.restore(process, slot)
            if slot.lost:
                self._interfaces.look_at(slot.config.name)
        for slot in rings:
            await process.request({"do": "poll_rings", "index": slot.index})
        await perf_map.ask(process, self.runtime.perf_map)

    def _write_settings(self):
        control = self.shared.control
        control[Control.IDLE_SPIN_US] = self.runtime.idle_spin_us
        control[Control.MAC_AGEING_TICKS] = mac_table.ageing_ticks(self.runtime.mac_ageing_s)

    def _note(self, **change):
        """Keep a change for the next control process."""
        if not self.shared.change_notes(change):
            ports = {name: self._port_note(name) for name in self.ports}
            daemon = {"started": self._started}
            self.shared.write_notes({"ports": ports, "rules": self.rules.notes(), "daemon": daemon})

    def _note_port(self, name):
        self._note(ports={name: self._port_note(name)})

    def _port_note(self, name):
        slot = self.ports.get(name)
        return slot and (slot.index, slot.config.model_dump_json(exclude_defaults=True), slot.base)

    # ports

    @_alone
    async def add_port(self, port):
        """Make a port and wire it; closed until `open_ports`. Raises PortError, nothing left behind."""
        index = self._free_index(port.name)
        driver = make_driver(port, len(self._cpus), self._umem)
        await asyncio.to_thread(driver.open)
        try:
            if makes_interface(port):
                await asyncio.to_thread(wire_interface, port)
            elif uses_interface(port) and port.mtu:
                await asyncio.to_thread(change_mtu, port)
            base = self.shared.port_counters[: len(self._cpus), index].sum(axis=0).tolist()
            self.shared.port_errors[index] = 0
            self.shared.rings[index]["serial"] = 0  # cursors of an earlier port there are nobody's
            self._rows.write(index, port, driver)
            plane = self._make_plane(port.name, index, port, driver)
            await self._supervisor.request(add_message(index, driver), driver.fds)
            self.ports[port.name] = Slot(index, port, driver, base, plane)
            if plane:
                await plane.apply(*driver.snapshot())
                await self._supervisor.request({"do": "poll_rings", "index": index})
                await driver.start(plane)
        except BaseException:
            if self.ports.pop(port.name, None):
                with contextlib.suppress(DataPlaneError):
                    await self._supervisor.request({"do": "del_port", "index": index})
            self._rows.clear(index)
            driver.close()
            raise
        self._note_port(port.name)
        for note in driver.capabilities.notes:
            log.info("port %s: %s", port.name, note)
        self._interfaces.look_at(port.name)

    def _make_plane(self, name, index, config, driver):
        """What sessions of a port with rings talk to; None for other ports."""
        if not has_rings(config):
            return None

        def changed():
            slot = self.ports.get(name)
            if slot is not None and slot.driver is driver:
                self._rows.rewrite(slot)

        return RingPlane(name, index, self.shared, self._supervisor.request, changed)

    async def _watch_rings(self):
        """Hang up on guests that took their memory away; say which rings were stopped."""
        while True:
            await asyncio.sleep(WATCH_RINGS_S)
            for slot in list(self.ports.values()):
                if slot.plane:
                    for ring in slot.plane.new_faults():
                        slot.driver.signal_error(ring)
                    if why := slot.plane.fatal():
                        slot.driver.hang_up(why)

    @_alone
    async def del_port(self, name):
        """Take a port down; its learned addresses go with it."""
        self.close_port(name)
        slot = self.ports[name]
        if slot.plane:
            await slot.driver.stop()
        await self._supervisor.request({"do": "del_port", "index": slot.index})
        del self.ports[name]  # until here it can be asked about
        slot.driver.close()
        self._rows.clear(slot.index)
        self._note_port(name)

    @_alone
    async def update_port(self, old, new):
        """Change what can be changed under traffic; False when the port must go and come again."""
        changed = {key for key in type(new).model_fields if getattr(old, key) != getattr(new, key)}
        if not changed <= IN_PLACE:
            return False
        slot = self.ports[old.name]
        if "mtu" in changed and new.mtu and (makes_interface(new) or uses_interface(new)):
            await asyncio.to_thread(change_mtu, new)
        if changed & {"rx_rate", "rx_burst"} and makes_interface(new):
            await asyncio.to_thread(change_shaper, new)
        slot.config = new
        if uses_interface(new):
            slot.driver.config = new
        self._rows.rewrite(slot)
        self._note_port(old.name)
        return True

    def lost_ports(self):
        """Names of the tap ports whose interface somebody else took away."""
        lost = set(self.shared.port_errors.nonzero()[0].tolist())
        if not lost:
            return []
        return [
            name for name, slot in self.ports.items() if slot.index in lost and makes_interface(slot.config)
        ]

    async def relocate_port(self, old, new):
        """Take `new` as the place of a tap port's interface. Raises PortError when it is elsewhere."""
        slot = self.ports[old.name]
        await asyncio.to_thread(slot.driver.relocate, new.netns, new.ifname)
        if new.rx_rate is not None:
            await asyncio.to_thread(change_shaper, new)  # Linux drops a queueing discipline on the way
        slot.config = new
        self._note_port(old.name)

    def _free_index(self, name):
        taken = {slot.index for slot in self.ports.values()}
        for index in range(layout.PORTS_MAX):
            if index not in taken:
                return index
        raise PortError(name, "add", text=f"all {layout.PORTS_MAX} ports are in use")

    def open_ports(self):
        """Let packets through to the ports that were added; their rules are in force by now."""
        self._rows.open(self.ports)

    def close_port(self, name):
        """Let no packet through to a port any more; it stays until `del_port`."""
        self._rows.close(self.ports, name)

    async def set_section(self, _function, items, settings):
        """Replace all items of a function at once; workers take the new ones at their next burst."""
        if "rule" not in items:
            return
        rules, defaults = items["rule"], {stage: getattr(settings, f"default_{stage}") for stage in STAGES}
        port_index = {name: slot.index for name, slot in self.ports.items()}
        try:
            self.rules.publish(rules, defaults, port_index, len(self._cpus))
        except ValueError as error:
            raise PortError("", "rules", text=str(error)) from None
        await self._pass_epoch()
        self._note(rules=self.rules.notes())

    async def _pass_epoch(self):
        """Wait until every worker has seen all that was written before."""
        control = self.shared.control
        control[Control.EPOCH] += 1
        epoch = int(control[Control.EPOCH])
        for kick in self._kicks:
            os.eventfd_write(kick, 1)
        limit = time.monotonic() + PASS_TIMEOUT_S
        while int(self.shared.worker_state[: len(self._cpus), WorkerWord.SEEN_EPOCH].min()) < epoch:
            if time.monotonic() > limit:
                raise DataPlaneError("a worker does not take the new tables")
            await asyncio.sleep(0.0005)

    # what there is

    def port_configs(self):
        """Configurations of the ports there are."""
        return [slot.config for slot in self.ports.values()]

    def port_info(self, name):
        """What a port got, and why not more."""
        return port_info(self.ports[name], self.shared)

    def stats(self):
        """Counters in the form of `dpu stats -j`."""
        return read_stats(self.shared, self.ports, self._cpus)

    async def profile(self, seconds):
        """Where the workers' time went, as `dpu profile -j` prints it."""
        return await self._profiler.profile(self.shared, self._cpus, self._kicks, seconds)

    def item_counters(self, _section):
        """(packets, octets) by rule name."""
        return self.rules.hits(len(self._cpus))

    def status(self):
        """The data plane's process, workers and history."""
        active = self._supervisor.active
        standby = self._supervisor.standby
        return {
            "data_plane_pid": active.pid if active else None,
            "standby_pid": standby.pid if standby else None,
            "adopted": self._supervisor.adopted,
            "restarts": self._supervisor.restarts,
            "last_takeover_ms": self._supervisor.last_gap_ms,
            "workers": self._cpus,
            "started": self._started,
            "ports": len(self.ports),
        }

    async def healthy(self):
        """Whether every worker still goes round."""
        state = self.shared.worker_state[: len(self._cpus), WorkerWord.ROUNDS]
        before = state.copy()
        for kick in self._kicks:
            os.eventfd_write(kick, 1)
        limit = time.monotonic() + HEALTHY_TIMEOUT_S
        while (state == before).any():
            if time.monotonic() > limit:
                return False
            await asyncio.sleep(0.01)
        return True
