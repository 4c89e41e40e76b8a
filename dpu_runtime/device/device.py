"""The device: ports, functions and counters of one DPU, over the data plane and the shared memory.

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

from dpu_runtime.config.errors import DataPlaneError
from dpu_runtime.config.places import ADOPT_SOCKET
from dpu_runtime.device.functions import Functions
from dpu_runtime.device.interface_watch import InterfaceWatch
from dpu_runtime.device.live_port import LivePort, has_rings, make_driver, makes_interface, uses_interface
from dpu_runtime.device.port_info import port_info
from dpu_runtime.device.port_queues import PortQueues, add_message
from dpu_runtime.device.port_rows import PortRows
from dpu_runtime.device.process import Process
from dpu_runtime.device.ring_port import RingPlane
from dpu_runtime.device.supervisor import Supervisor
from dpu_runtime.device.takeover import Takeover, let_go
from dpu_runtime.device.wiring import change_mtu, rewire, wire_interface
from dpu_runtime.drivers.af_xdp.umem import Umem
from dpu_runtime.drivers.port import PortError, close_all
from dpu_runtime.drivers.tap.port import check_tun_device
from dpu_runtime.kernels import layout
from dpu_runtime.observe import perf_map
from dpu_runtime.observe.counters import read_stats
from dpu_runtime.observe.profile import Profiler
from dpu_runtime.plane.shared import SharedState
from dpu_runtime.plane.words import Control, WorkerWord

log = logging.getLogger("dpu.device")

WATCH_RINGS_S = 0.5
HEALTHY_TIMEOUT_S = 2.0
# the frame's keys of a port that change under traffic; others make it go and come again
FRAME_IN_PLACE = {"mtu", "verify_checksum", "gro", "owner"}


def _alone(method):
    """One change of a port at a time: the watch of interfaces makes some too."""

    @functools.wraps(method)
    async def alone(self, *args):
        async with self.changing:
            return await method(self, *args)

    return alone


class DpuDevice(Takeover):
    """The device of `runtime`, a RuntimeConfig; `child` is a data-plane process that was started already."""

    def __init__(self, runtime, child=None):
        super().__init__()
        self.runtime = runtime
        self.shared = None
        self._rows = None  # of `shared`
        self.ports = {}  # name -> LivePort
        self.changing = asyncio.Lock()
        self._cpus = list(runtime.workers)
        self._umem = Umem(runtime.xdp_frames, len(self._cpus))
        self._kicks = []
        self._started = time.time()
        self._tasks = []  # that run as long as the device does
        self._profiler = Profiler()
        self._adopt_path = str(Path(runtime.state_dir) / ADOPT_SOCKET)
        self._supervisor = Supervisor(self._restore, runtime.standby, child)
        self.functions = Functions(self._supervisor.request, self._supervisor.have, runtime)
        self._queues = PortQueues(self.ports, self._supervisor.request)
        self._interfaces = InterfaceWatch(self, self._queues)

    async def runs_already(self):
        """Return the process number of the data plane that `start` would adopt, None without."""
        process = await asyncio.to_thread(Process.connect, self._adopt_path)
        if process is None:
            return None
        pid = process.pid
        let_go(process)
        return pid

    async def start(self, config):
        """Adopt the data plane that runs in this state directory, or start one that can run `config`.

        `take_over` must follow, once the tables are set. Raises NotAdoptedError: one runs, and goes on.
        """
        check_tun_device()
        self._supervisor.expected = self.functions.programs.expected(config)
        self._run(self._watch_rings())
        process = await asyncio.to_thread(Process.connect, self._adopt_path)
        if process is not None and await self._adopt(process):
            self._run(self.functions.serve())
            if not self.upgrading:
                self._interfaces.start()
            return
        self._interfaces.start()
        self._map(SharedState.create(len(self._cpus)), {})
        self.functions.begin()
        self._kicks = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in self._cpus]
        await self._supervisor.start()
        self._run(self.functions.serve())

    def _run(self, coroutine):
        self._tasks.append(asyncio.get_running_loop().create_task(coroutine))

    def _map(self, shared, notes):
        self.shared = shared
        shared.control[Control.IDLE_SPIN_US] = self.runtime.idle_spin_us
        self.functions.map(shared, len(self._cpus), notes)
        self._rows = self._queues.rows = PortRows(shared, self.functions.books)

    def give_up(self):
        """Give up what takes long: the daemon is about to stop."""
        self._supervisor.give_up()

    async def stop(self):
        """End the data plane and give every port back."""
        await self._interfaces.stop()
        for task in self._tasks:
            task.cancel()
        rings = [live.driver for live in self.ports.values() if live.plane]
        await asyncio.gather(*(driver.stop() for driver in rings))
        await self._supervisor.stop()
        perf_map.remove_stale()
        close_all(live.driver for live in self.ports.values())
        self.ports.clear()
        for fd in self._kicks:
            os.close(fd)
        self._kicks = []

    def _note(self, **change):
        """Keep a change for the next control process."""
        if not self.shared.change_notes(change):
            ports = {name: self._port_note(name) for name in self.ports}
            daemon = {"started": self._started}
            notes = {"ports": ports, "functions": self.functions.books.notes(), "daemon": daemon}
            self.shared.write_notes(notes)

    def _note_port(self, name):
        self._note(ports={name: self._port_note(name)})

    def _port_note(self, name):
        live = self.ports.get(name)
        return live and (live.index, live.config.model_dump_json(exclude_defaults=True), live.base)

    # ports

    @_alone
    async def add_port(self, port):
        """Make a port and wire it; closed until `open_ports`. Raises PortError, nothing left behind."""
        index = self._free_index(port.name)
        await self.functions.programs.make_ready_for(port)
        driver = make_driver(port, len(self._cpus), self._umem)
        await asyncio.to_thread(driver.open)
        try:
            if makes_interface(port):
                await asyncio.to_thread(wire_interface, port, self.functions.hooks())
            elif uses_interface(port) and port.mtu:
                await asyncio.to_thread(change_mtu, port)
            base = self.shared.port_counters[: len(self._cpus), index].sum(axis=0).tolist()
            self.shared.port_errors[index] = 0
            self.shared.rings[index]["serial"] = 0  # cursors of an earlier port there are nobody's
            self._rows.write(index, port, driver)
            await self.functions.programs.port(index, port)
            plane = self._make_plane(port.name, index, port, driver)
            await self._supervisor.request(add_message(index, driver), driver.fds)
            self.ports[port.name] = LivePort(index, port, driver, base, plane)
            if plane:
                await plane.apply(*driver.snapshot())
                await self._supervisor.request({"do": "poll_rings", "index": index})
                await driver.start(plane)
        except BaseException:
            if self.ports.pop(port.name, None):
                with contextlib.suppress(DataPlaneError):
                    await self._supervisor.request({"do": "del_port", "index": index})
            await self._forget(index)
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
            live = self.ports.get(name)
            if live is not None and live.driver is driver:
                self._rows.rewrite(live)

        return RingPlane(name, index, self.shared, self._supervisor.request, changed)

    async def _watch_rings(self):
        """Hang up on guests that took their memory away; say which rings were stopped."""
        while True:
            await asyncio.sleep(WATCH_RINGS_S)
            for live in list(self.ports.values()):
                if live.plane:
                    for ring in live.plane.new_faults():
                        live.driver.signal_error(ring)
                    if why := live.plane.fatal():
                        live.driver.hang_up(why)

    @_alone
    async def del_port(self, name):
        """Take a port down; its learned addresses go with it."""
        self.close_port(name)
        live = self.ports[name]
        if live.plane:
            await live.driver.stop()
        await self._supervisor.request({"do": "del_port", "index": live.index})
        del self.ports[name]  # until here it can be asked about
        live.driver.close()
        await self._forget(live.index)
        self._note_port(name)

    async def _forget(self, index):
        self._rows.clear(index)
        with contextlib.suppress(DataPlaneError):
            await self.functions.programs.port(index, None)

    @_alone
    async def update_port(self, old, new):
        """Change what can be changed under traffic; False when the port must go and come again."""
        changed = {key for key in type(new).model_fields if getattr(old, key) != getattr(new, key)}
        if not changed <= FRAME_IN_PLACE | self.functions.in_place:
            return False
        live = self.ports[old.name]
        await self.functions.programs.make_ready_for(new)
        try:
            await self._change_interface(new, old, changed)
            tables, undo = (functools.partial(self._rewrite, live, config) for config in (new, old))
            await self.functions.programs.port(live.index, new, tables, undo)
        except BaseException:
            with contextlib.suppress(PortError):
                await self._change_interface(old, new, changed)
            raise
        self._note_port(old.name)
        return True

    async def _change_interface(self, new, old, changed):
        if "mtu" in changed and new.mtu and (makes_interface(new) or uses_interface(new)):
            await asyncio.to_thread(change_mtu, new)
        hooks = self.functions.hooks(changed)
        if hooks and makes_interface(new):
            await asyncio.to_thread(rewire, new, old, hooks)

    async def _rewrite(self, live, config):
        self._rows.change(live, config)

    def lost_ports(self):
        """Names of the tap ports whose interface somebody else took away."""
        lost = set(self.shared.port_errors.nonzero()[0].tolist())
        if not lost:
            return []
        return [
            name for name, live in self.ports.items() if live.index in lost and makes_interface(live.config)
        ]

    async def relocate_port(self, old, new):
        """Take `new` as the place of a tap port's interface. Raises PortError when it is elsewhere."""
        live = self.ports[old.name]
        await asyncio.to_thread(live.driver.relocate, new.netns, new.ifname)
        await asyncio.to_thread(rewire, new, None, self.functions.hooks())  # Linux drops what was done there
        live.config = new
        self._rows.known(live)
        self._note_port(old.name)

    def _free_index(self, name):
        taken = {live.index for live in self.ports.values()}
        for index in range(layout.PORTS_MAX):
            if index not in taken:
                return index
        raise PortError(name, "add", text=f"all {layout.PORTS_MAX} ports are in use")

    def open_ports(self):
        """Let packets through to the ports that were added; what names them is in force by now."""
        self._rows.open(self.ports)

    def close_port(self, name):
        """Let no packet through to a port any more; it stays until `del_port`."""
        self._rows.close(self.ports, name)

    async def set_section(self, name, items, settings):
        """Replace all items and the settings of a function at once; workers take them at their next burst."""
        ports = {port: live.index for port, live in self.ports.items()}
        notes = await self.functions.set_section(name, items, settings, ports, self._pass_epoch)
        self._note(functions=notes)

    async def _pass_epoch(self):
        """Wait until every worker has seen all that was written before; those of a successor have."""
        await self._supervisor.request({"do": "pass_epoch"})

    # what there is

    def port_configs(self):
        """Configurations of the ports there are."""
        return [live.config for live in self.ports.values()]

    def port_info(self, name):
        """What a port got, and why not more."""
        return port_info(self.ports[name], self.shared)

    def stats(self):
        """Counters in the form of `dpu stats -j`."""
        return read_stats(self.shared, self.ports, self._cpus)

    async def profile(self, seconds):
        """Where the workers' time went, as `dpu profile -j` prints it."""
        return await self._profiler.profile(self.shared, self._cpus, self._kicks, seconds)

    def item_counters(self, name):
        """{section: {item: counters}} of a function."""
        return self.functions.books.counters(name)

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
