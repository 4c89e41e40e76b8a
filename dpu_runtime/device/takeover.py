"""How a device goes on with what there was before it: a data plane that runs, or one that died.

In:   the memory and the ports of another process.
Out:  `shared`, `ports`, and a data-plane process that has all of it.
"""

import logging

from pydantic import TypeAdapter

from dpu_runtime.config.models import AnyPort
from dpu_runtime.device.live_port import Slot, has_rings, make_driver, uses_interface
from dpu_runtime.kernels import layout
from dpu_runtime.observe import perf_map
from dpu_runtime.plane.shared import SharedState

log = logging.getLogger("dpu.device")

_any_port = TypeAdapter(AnyPort)


class Takeover:
    """The part of a DpuDevice that takes over."""

    async def _adopt(self, process):
        hello = process.hello
        try:
            shared = SharedState.attach(process.hello_fds[0])
        except ValueError as error:
            log.error("data plane %d is ended, not adopted: %s", process.pid, error)
            await process.request({"do": "stop"})
            await process.exited()
            return False
        self._kicks = process.hello_fds[1:]
        self._cpus = hello["cpus"]
        notes = shared.read_notes()
        self._map(shared, notes.get("functions", {}))
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
            self._rows.known(slot)
            self._interfaces.look_at(name)
        self._rows.list(self.ports)  # whoever wrote it last may not have ended
        self.functions.programs.adopted({slot.index: slot.config for slot in self.ports.values()})
        self._started = notes.get("daemon", {}).get("started", self._started)
        self._supervisor.adopt(process)
        await perf_map.ask(process, self.runtime.perf_map)
        for slot in self.ports.values():
            if slot.plane:
                await slot.driver.start(slot.plane)
        return True

    async def _restore(self, process):
        """Hand the shared memory and every port to a fresh data-plane process."""
        lost = self.shared.book_lost_packets(len(self._cpus))
        self.functions.books.repair()
        if lost:
            log.warning("%d packets were in the hands of the dead data plane", lost)
        message = {"do": "attach", "cpus": self._cpus, "adopt_path": self._adopt_path}
        await process.request(message, [self.shared.fd, *self._kicks])
        # A port that is deleted meanwhile is deleted there once this is done; its queues are open until then.
        slots = list(self.ports.values())
        await self.functions.programs.renew(process)
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
