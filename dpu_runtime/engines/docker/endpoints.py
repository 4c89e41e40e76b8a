"""Endpoints: a container's end of a network, which is a TAP port of the daemon from Join to Leave.

    CreateEndpoint   choose MAC, port and interface names        nothing exists yet
    Join             port.add in the daemon's own namespace      dockerd moves the interface into the sandbox
    (placement.py)   port.relocate                               the daemon knows where it is
    Leave            port.detach                                 the interface is gone, wherever it was

Join fails when the daemon does, within seconds. Leave and DeleteEndpoint do not: see detaching.py.
"""

import asyncio
import weakref
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dpu_runtime.api.client import NoDaemonError
from dpu_runtime.config.errors import RpcError
from dpu_runtime.config.models import TapPort, types
from dpu_runtime.config.types import derived_mac
from dpu_runtime.engines.docker import protocol
from dpu_runtime.engines.docker.daemon_call import call
from dpu_runtime.engines.docker.placement import is_gone
from dpu_runtime.engines.docker.protocol import EndpointRef, RefusedError
from dpu_runtime.engines.docker.records import Endpoint, gateways_of, log, port_of

ADD_TIMEOUT_S = 4.0  # a port takes milliseconds; a daemon that does not answer is as good as dead
REAP_S = 5.0
CONTAINER_PREFIX = "eth"  # dockerd appends a number
_SHORT = 12  # characters of an id, as Docker shows them


class EndpointOptions(BaseModel):
    """`docker network connect --driver-opt KEY=VALUE`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    port: Annotated[types.PortName | None, Field(description="name of the port, for rules")] = None


class Endpoints:
    """The endpoints of `store`."""

    def __init__(self, store, detacher, placement):
        self._store = store
        self._detacher = detacher
        self._placement = placement
        # Requests about one endpoint are done one after the other.
        self._locks = weakref.WeakValueDictionary()

    async def create(self, request):
        """CreateEndpoint: nothing exists yet but the names."""
        network = self._store.network(request)
        if self._store.endpoint(request):
            raise RefusedError(f"EndpointID = {request.EndpointID}: exists already")
        options = _options(request.Options)
        wanted = request.Interface
        addresses = [address for address in (wanted.Address, wanted.AddressIPv6) if address]
        short = request.EndpointID[:_SHORT]
        endpoint = Endpoint(
            id=request.EndpointID,
            network=network.id,
            port=options.port or f"docker-{short}",
            ifname=f"dpu{short}",
            mac=wanted.MacAddress or _mac(network, request.EndpointID, addresses),
            address=addresses,
        )
        _check(port_of(network, endpoint), addresses)
        self._store.update(endpoints={endpoint.id: endpoint})
        # What dockerd has said must not be said back.
        return {"Interface": {} if wanted.MacAddress else {"MacAddress": endpoint.mac}}

    async def join(self, request):
        """Join: the port comes up in our namespace, which is dockerd's too."""
        async with self._lock(request):
            network, endpoint = self._store.network(request), self._store.need_endpoint(request)
            if endpoint.sandbox is not None:
                raise RefusedError(f"EndpointID = {endpoint.id}: has joined {endpoint.sandbox} already")
            await self.reap(endpoint.port)
            joined = endpoint.model_copy(update={"sandbox": request.SandboxKey})
            try:
                if endpoint.owner in self._store.detach:
                    await self._detacher.now(endpoint.owner)
                self._store.update(endpoints={endpoint.id: joined})
                port = port_of(network, endpoint).model_dump(mode="json", exclude_none=True)
                await call(network.socket, "port.add", ADD_TIMEOUT_S, **port)
            except RpcError as error:
                self._store.update(endpoints={endpoint.id: endpoint})
                raise RefusedError(error.message) from None
            except NoDaemonError as error:  # the port may be there all the same, or be there soon
                self._give_up(network, endpoint)
                self._detacher.later()
                raise RefusedError(str(error)) from None
            log.info("endpoint %s: port %s", endpoint.id, endpoint.port)
            self._placement.follow(endpoint.id)
            return _join_answer(network, endpoint)

    async def leave(self, request):
        """Leave: once more is allowed, and so is an endpoint that never joined."""
        async with self._lock(request):
            endpoint = self._store.endpoint(request)
            if endpoint and endpoint.sandbox:
                await self._detach(endpoint)
        return {}

    async def delete(self, request):
        """DeleteEndpoint, joined or not, known or not."""
        async with self._lock(request):
            endpoint = self._store.endpoint(request)
            if endpoint:
                if endpoint.sandbox:
                    await self._detach(endpoint)
                self._store.update(endpoints={endpoint.id: None})
        return {}

    async def info(self, request):
        """EndpointOperInfo: what `docker inspect` cannot show."""
        endpoint = self._store.need_endpoint(request)
        return {"Value": {"port": endpoint.port, "mac": endpoint.mac, "sandbox": endpoint.sandbox or ""}}

    async def external(self, request):
        """ProgramExternalConnectivity: the container's default route leaves here."""
        return await self._set_external(request, True)

    async def not_external(self, request):
        """RevokeExternalConnectivity: it leaves by another endpoint, or the container ends."""
        return await self._set_external(request, False)

    def resume(self):
        """Go on with what a plugin before us was at."""
        for endpoint in self._store.endpoints.values():
            if endpoint.sandbox and not endpoint.inside:
                self._placement.follow(endpoint.id)
        self._detacher.later()

    async def reap(self, port=None):
        """Take away what dockerd has forgotten, all of it or that which has a port of this name.

        A dockerd that was killed removes sandboxes at its next start and tells no driver.
        """
        for endpoint in list(self._store.endpoints.values()):
            if port in (None, endpoint.port) and endpoint.inside and is_gone(endpoint.sandbox):
                log.warning("endpoint %s: its sandbox %s is gone", endpoint.id, endpoint.sandbox)
                await self.delete(EndpointRef(NetworkID=endpoint.network, EndpointID=endpoint.id))

    async def watch(self):
        """Reap every few seconds, for ever."""
        while True:
            try:
                await self.reap()
            except RefusedError as error:
                log.warning("%s", error)
            await asyncio.sleep(REAP_S)

    async def _set_external(self, request, external):
        async with self._lock(request):
            endpoint = self._store.need_endpoint(request)
            changed = endpoint.model_copy(update={"external": external, "inside": None})
            self._store.update(endpoints={endpoint.id: changed})
            if endpoint.sandbox:
                self._placement.follow(endpoint.id)
        return {}

    async def _detach(self, endpoint):
        network = self._store.networks[endpoint.network]
        self._placement.forget(endpoint.id)
        self._give_up(network, endpoint)
        try:
            await self._detacher.now(endpoint.owner)
        except (NoDaemonError, RpcError) as error:
            log.warning("endpoint %s: port %s stays for now: %s", endpoint.id, endpoint.port, error)
            self._detacher.later()

    def _give_up(self, network, endpoint):
        """Write that an endpoint is in no sandbox, and that its port must go."""
        left = endpoint.model_copy(update={"sandbox": None, "external": False, "inside": None})
        self._store.update(endpoints={endpoint.id: left}, detach={endpoint.owner: network.socket})

    def _lock(self, request):
        return self._locks.setdefault(request.EndpointID, asyncio.Lock())


def _mac(network, endpoint_id, addresses):
    """The same for the same address in the same network: neighbours that remember it are right."""
    return derived_mac(f"{network.id} {addresses[0] if addresses else endpoint_id}")


def _options(options):
    published = options.get(protocol.PORTMAP_OPTION)
    if published:
        text = "ports cannot be published on this network; allowed: none (`docker run` without -p and -P)"
        raise RefusedError(f"{protocol.PORTMAP_OPTION} = {published}: {text}")
    said = {key: value for key, value in options.items() if not key.startswith(protocol.DOCKERS_OWN)}
    try:
        return EndpointOptions.model_validate(said)
    except ValidationError as error:
        raise RefusedError(f"endpoint option {protocol.explain(error, EndpointOptions)}") from None


def _check(port, addresses):
    """Raise RefusedError when the daemon would refuse the port once it has its addresses."""
    try:
        TapPort.model_validate(port.model_dump(exclude_none=True) | {"address": addresses})
    except ValidationError as error:
        raise RefusedError(protocol.explain(error, TapPort)) from None


def _join_answer(network, endpoint):
    gateways = gateways_of(network)
    answer = {"InterfaceName": {"SrcName": endpoint.ifname, "DstPrefix": CONTAINER_PREFIX}}
    if 4 in gateways:
        answer["Gateway"] = gateways[4]
    if 6 in gateways:
        answer["GatewayIPv6"] = gateways[6]
    if not gateways:  # or dockerd would add an interface on a bridge of its own, for a default route
        answer["DisableGatewayService"] = True
    return answer
