"""Where an endpoint's interface ends up: dockerd moves it into the sandbox and renames it there.

No request tells of that: ProgramExternalConnectivity, the last one before a container runs, comes before
dockerd 20.10 makes the sandbox. So the sandbox is looked at until the interface is there, and the daemon is
told (`port.relocate`), which makes the interface there again after a restart.

Source: rtnetlink(7) by pyroute2, inside the sandbox.
"""

import asyncio
import os

from pyroute2 import IPRoute

from dpu_runtime.api.client import NoDaemonError
from dpu_runtime.config.errors import RpcError
from dpu_runtime.drivers.linux.link import IFF_UP
from dpu_runtime.drivers.linux.netns import run_in_netns
from dpu_runtime.drivers.port import PortError
from dpu_runtime.engines.docker.daemon_call import call
from dpu_runtime.engines.docker.protocol import RefusedError
from dpu_runtime.engines.docker.records import log, routes_of

RELOCATE_TIMEOUT_S = 4.0
LOOK_S_MIN = 0.05
LOOK_S_MAX = 2.0
_COMPLAIN_S = 1.0  # a refusal that goes on at this pace is no longer a matter of moments


class Placement:
    """Follows the interfaces of joined endpoints, one task each until the daemon knows."""

    def __init__(self, store):
        self._store = store
        self._tasks = {}

    def follow(self, endpoint_id):
        """Start over with an endpoint."""
        self.forget(endpoint_id)
        self._tasks[endpoint_id] = asyncio.get_running_loop().create_task(self._follow(endpoint_id))

    def forget(self, endpoint_id):
        """Stop following an endpoint."""
        task = self._tasks.pop(endpoint_id, None)
        if task is not None:
            task.cancel()

    def close(self):
        """Stop following all."""
        for endpoint_id in list(self._tasks):
            self.forget(endpoint_id)

    async def _follow(self, endpoint_id):
        delay_s = LOOK_S_MIN
        while True:
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 1.5, LOOK_S_MAX)
            endpoint = self._store.endpoints[endpoint_id]
            name = await asyncio.to_thread(find_inside, endpoint.sandbox, endpoint.mac)
            if name is None:
                continue
            try:
                await self._tell(endpoint, name)
                self._store.update(endpoints={endpoint_id: endpoint.model_copy(update={"inside": name})})
            except (NoDaemonError, RpcError, RefusedError) as error:
                if delay_s > _COMPLAIN_S:
                    log.warning("port %s: the daemon does not know where it is: %s", endpoint.port, error)
            else:
                log.info("port %s: %s in %s", endpoint.port, name, endpoint.sandbox)
                return

    async def _tell(self, endpoint, name):
        network = self._store.networks[endpoint.network]
        routes = [route.model_dump() for route in routes_of(network, endpoint)]
        await call(
            network.socket,
            "port.relocate",
            RELOCATE_TIMEOUT_S,
            name=endpoint.port,
            netns=endpoint.sandbox,
            ifname=name,
            address=endpoint.address,
            route=routes,
        )


def is_gone(sandbox):
    """Whether no network namespace is mounted on the path any more."""
    try:
        return os.stat(sandbox).st_dev != os.stat("/proc/self/ns/net").st_dev
    except OSError:
        return True


def find_inside(sandbox, mac):
    """Name of the TAP interface with `mac` that is up in the sandbox; None: not there, or not up yet."""

    def inside():
        with IPRoute() as ipr:
            for link in ipr.get_links():
                info = link.get_attr("IFLA_LINKINFO")
                is_tap = info is not None and info.get_attr("IFLA_INFO_KIND") == "tun"
                if is_tap and link["flags"] & IFF_UP and link.get_attr("IFLA_ADDRESS") == mac:
                    return link.get_attr("IFLA_IFNAME")
        return None

    try:
        return run_in_netns(sandbox, inside)
    except PortError:  # dockerd has not made it yet, or has taken it down
        return None
