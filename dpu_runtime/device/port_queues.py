"""A port's queues in the data plane: handed over, taken out, brought back, and handed to the next process.

Not:  ports whose queues are rings in a guest's memory; their sessions tell of those, ring_port.py.
"""

import asyncio
import logging

from dpu_runtime.config.errors import DataPlaneError, DataPlaneGoneError
from dpu_runtime.device.live_port import uses_interface
from dpu_runtime.device.wiring import change_mtu
from dpu_runtime.drivers.interface import InterfaceDriver
from dpu_runtime.drivers.port import Kind, PortError

log = logging.getLogger("dpu.device")


def add_message(index, driver):
    """Request that makes a port in the data plane; the driver's descriptors go with it."""
    if driver.kind == Kind.VHOST_USER:
        return {"do": "add_ring_port", "index": index}
    return {"do": "add_port", "index": index, "kind": driver.kind, "layout": driver.layout}


class PortQueues:
    """The queues of `slots`, {name: Slot}.

    request  coroutine function (message, fds) of the supervisor
    rows     dpu_runtime/device/port_rows.py, once there is shared memory
    """

    def __init__(self, slots, request):
        self._slots = slots
        self._request = request
        self.rows = None

    async def take_out(self, slot):
        """Take a port out of the data plane; what it learned goes; its index, counters and rules stay."""
        self._lose(slot)
        try:
            await self._request({"do": "del_port", "index": slot.index})
        finally:
            slot.driver.close()
        self.rows.shared.ports[slot.index]["generation"] += 1

    async def bring_back(self, slot):
        """Open a port anew that was taken out. Raises PortError or DataPlaneError, and it stays out."""
        await asyncio.to_thread(slot.driver.open)
        try:
            if slot.config.mtu and slot.driver.link.mtu != slot.config.mtu:
                await asyncio.to_thread(change_mtu, slot.config)
            self.rows.shared.port_errors[slot.index] = 0
            self.rows.rewrite(slot)
            await self._request(add_message(slot.index, slot.driver), slot.driver.fds)
        except BaseException:
            slot.driver.close()
            raise
        slot.lost = False
        self.rows.list(self._slots)

    async def renew(self, slot):
        """Make what a fresh data plane cannot take over anew; a port whose interface just went is lost."""
        if not isinstance(slot.driver, InterfaceDriver):
            return
        try:
            await asyncio.to_thread(slot.driver.renew)
        except PortError as error:
            log.warning("%s", error)
            slot.driver.close()
            self._lose(slot)

    async def restore(self, process, slot):
        """Hand a port's queues to a fresh data plane; one whose interface just went is lost, no obstacle."""
        try:
            await process.request(add_message(slot.index, slot.driver), slot.driver.fds)
        except DataPlaneGoneError:
            raise
        except DataPlaneError as error:
            if not uses_interface(slot.config):
                raise
            log.warning("port %s: %s", slot.config.name, error)
            slot.driver.close()
            self._lose(slot)

    def _lose(self, slot):
        slot.lost = True
        self.rows.list(self._slots)
