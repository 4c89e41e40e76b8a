"""What the driver remembers: networks, endpoints, and ports that the daemon has yet to take away.

docker.json  all of it, versioned; written before anything is answered, so that a plugin that is killed goes
             on where it was
"""

import json
import logging
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from dpu_runtime.config.errors import DaemonError
from dpu_runtime.config.model import Model
from dpu_runtime.config.models import RouteConfig, TapPort
from dpu_runtime.control.durable import write_atomically
from dpu_runtime.engines.docker.protocol import RefusedError

log = logging.getLogger("dpu.docker")


class Network(Model):
    """A network: what its ports have in common.

    socket    of the daemon that has the ports
    gateways  addresses that Docker's IPAM set aside, one a family
    internal  no default route in its containers
    """

    id: str
    socket: str
    mtu: int
    vlan: int | None
    spoof_check: bool
    gateways: list[str]
    internal: bool


class Endpoint(Model):
    """A container's end of a network, a port from Join to Leave.

    port      name of the port
    ifname    of the interface until dockerd moves and renames it
    sandbox   network namespace it goes to; None: not joined
    external  the container's default route leaves here
    inside    name of the interface in the sandbox, once the daemon knows it is there; None: not yet
    """

    id: str
    network: str
    port: str
    ifname: str
    mac: str
    address: list[str]
    sandbox: str | None = None
    external: bool = False
    inside: str | None = None

    @property
    def owner(self):
        """Who the daemon says has made the port."""
        return f"docker:{self.id}"


class State(Model):
    """The file; `detach` is owner -> socket of the daemon that has a port of it."""

    version: Literal[1] = 1
    networks: dict[str, Network] = Field(default_factory=dict)
    endpoints: dict[str, Endpoint] = Field(default_factory=dict)
    detach: dict[str, str] = Field(default_factory=dict)


class Store:
    """The state, in memory and in `folder`/docker.json. Raises DaemonError when the file is not usable."""

    def __init__(self, folder):
        self.path = Path(folder) / "docker.json"
        self._state = self._load()

    @property
    def networks(self):
        """Networks by id."""
        return self._state.networks

    @property
    def endpoints(self):
        """Endpoints by id."""
        return self._state.endpoints

    @property
    def detach(self):
        """Sockets of daemons by owner of ports that must go."""
        return self._state.detach

    def update(self, **changes):
        """Write changes, then adopt them: `update(endpoints={id: record, ...})`, None takes one away.

        Raises RefusedError.
        """
        merged = {
            table: {
                key: value
                for key, value in (getattr(self._state, table) | entries).items()
                if value is not None
            }
            for table, entries in changes.items()
        }
        state = self._state.model_copy(update=merged)
        try:
            write_atomically(self.path, state.model_dump_json(indent=1).encode())
        except OSError as error:
            raise RefusedError(f"state file {self.path}: {error.strerror}") from None
        self._state = state

    def network(self, request):
        """Record of the network that a request names. Raises RefusedError."""
        if request.NetworkID not in self.networks:
            there = ", ".join(sorted(self.networks)) or "none"
            raise RefusedError(f"NetworkID = {request.NetworkID}: no such network, there are: {there}")
        return self.networks[request.NetworkID]

    def endpoint(self, request):
        """Record of the endpoint that a request names, None if there is none. Raises RefusedError."""
        endpoint = self.endpoints.get(request.EndpointID)
        if endpoint and endpoint.network != request.NetworkID:
            text = f"endpoint {endpoint.id} is in network {endpoint.network}"
            raise RefusedError(f"NetworkID = {request.NetworkID}: {text}")
        return endpoint

    def need_endpoint(self, request):
        """Record of the endpoint that a request names. Raises RefusedError."""
        endpoint = self.endpoint(request)
        if endpoint is None:
            raise RefusedError(f"EndpointID = {request.EndpointID}: no such endpoint in this network")
        return endpoint

    def _load(self):
        try:
            return State.model_validate(json.loads(self.path.read_bytes()))
        except FileNotFoundError:
            return State()
        except (OSError, ValidationError, ValueError) as error:
            raise DaemonError(f"{self.path} cannot be read: {error}") from None


def port_of(network, endpoint):
    """Configuration of an endpoint's port, as it is before dockerd takes the interface."""
    return TapPort(
        name=endpoint.port,
        kind="tap",
        owner=endpoint.owner,
        ifname=endpoint.ifname,
        mac=endpoint.mac,
        mtu=network.mtu,
        vlan=network.vlan,
        spoof_check=network.spoof_check,
    )


def gateways_of(network):
    """Gateways by IP version, for containers; none in an internal network."""
    if network.internal:
        return {}
    return {6 if ":" in address else 4: address for address in network.gateways}


def routes_of(network, endpoint):
    """Routes that dockerd makes for the endpoint."""
    if not endpoint.external:
        return []
    return [RouteConfig(to="default", via=address) for address in gateways_of(network).values()]
