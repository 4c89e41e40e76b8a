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
    """The queues of `live_ports`, {name: LivePort}.

    request  coroutine function (message, fds) of the supervisor
    rows     dpu_runtime/device/port_rows.py, once there is shared memory
    """

    def __init__(self, live_ports, request):
        self._live_ports = live_ports
        self._request = request
        self.rows = None

    async def take_out(self, live):
        """Take a port out of the data plane; what it learned goes; its index and counters stay."""
        self._lose(live)
        try:
            await self._request({"do": "del_port", "index": live.index})
        finally:
            live.driver.close()
        self.rows.shared.ports[live.index]["generation"] += 1

    async def bring_back(self, live):
        """Open a port anew that was taken out. Raises PortError or DataPlaneError, and it stays out."""
        await asyncio.to_thread(live.driver.open)
        try:
            if live.config.mtu and live.driver.link.mtu != live.config.mtu:
                await asyncio.to_thread(change_mtu, live.config)
            self.rows.shared.port_errors[live.index] = 0
            self.rows.rewrite(live)
            await self._request(add_message(live.index, live.driver), live.driver.fds)
        except BaseException:
            live.driver.close()
            raise
        live.lost = False
        self.rows.list(self._live_ports)

    async def renew(self, live):
        """Make what a fresh data plane cannot take over anew; a port whose interface just went is lost."""
        if not isinstance(live.driver, InterfaceDriver):
            return
        try:
            await asyncio.to_thread(live.driver.renew)
        except PortError as error:
            log.warning("%s", error)
            live.driver.close()
            self._lose(live)

    async def restore(self, process, live):
        """Hand a port's queues to a fresh data plane; one whose interface just went is lost, no obstacle."""
        try:
            await process.request(add_message(live.index, live.driver), live.driver.fds)
        except DataPlaneGoneError:
            raise
        except DataPlaneError as error:
            if not uses_interface(live.config):
                raise
            log.warning("port %s: %s", live.config.name, error)
            live.driver.close()
            self._lose(live)

    def _lose(self, live):
        live.lost = True
        self.rows.list(self._live_ports)
