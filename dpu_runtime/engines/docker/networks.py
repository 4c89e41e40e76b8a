"""Networks: what `docker network create` may say, and what comes of it.

In:   CreateNetwork, DeleteNetwork; AllocateNetwork and FreeNetwork of a swarm's manager, which has nothing to
      keep because networks are local.
Not:  ports; a network has none before a container joins.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dpu_runtime.config.models import MTU_IPV6_MIN, types
from dpu_runtime.config.types import Allowed
from dpu_runtime.drivers.tap import MTU_MAX
from dpu_runtime.engines.docker import protocol
from dpu_runtime.engines.docker.protocol import RefusedError
from dpu_runtime.engines.docker.records import Network, log

_DOCKERS_MTU = "com.docker.network.driver.mtu"  # Docker's own name of the option, for its bridges


class NetworkOptions(BaseModel):
    """`docker network create -o KEY=VALUE`: every value comes as text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mtu: Annotated[int, Field(ge=68, le=MTU_MAX), Allowed(f"68..{MTU_MAX} octets")] = 1500
    vlan: types.VlanId | None = None
    spoof_check: bool = False
    socket: types.SocketPath | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, data):
        if isinstance(data, dict) and _DOCKERS_MTU in data:
            rest = {key: value for key, value in data.items() if key != _DOCKERS_MTU}
            if "mtu" in rest:
                raise ValueError(f"mtu and {_DOCKERS_MTU} are the same option")
            return rest | {"mtu": data[_DOCKERS_MTU]}
        return data


class Networks:
    """The networks of `store`; those that name no daemon are on `socket`."""

    def __init__(self, store, socket, detacher, placement):
        self._store = store
        self._socket = socket
        self._detacher = detacher
        self._placement = placement

    async def create(self, request):
        """CreateNetwork; once more with the same content is allowed."""
        network = self._record(request)
        known = self._store.networks.get(network.id)
        if known not in (None, network):
            raise RefusedError(f"NetworkID = {network.id}: exists, with other options or addresses")
        for other in self._store.networks.values():
            if other.id != network.id and (other.socket, other.vlan) == (network.socket, network.vlan):
                text = f"network {other.id} has it, and its containers would reach these"
                allowed = "1..4094 that no other network has (`-o vlan=N`)"
                raise RefusedError(f"vlan = {network.vlan or 'none'}: {text}; allowed: {allowed}")
        self._store.update(networks={network.id: network})
        log.info("network %s: vlan %s, mtu %d", network.id, network.vlan or "none", network.mtu)
        return {}

    async def delete(self, request):
        """DeleteNetwork: dockerd knows of no endpoint any more, so what is left of them goes too."""
        network = self._store.networks.get(request.NetworkID)
        if network is None:
            return {}
        left = [e for e in self._store.endpoints.values() if e.network == network.id]
        for endpoint in left:
            log.warning("network %s goes, and with it endpoint %s", network.id, endpoint.id)
            self._placement.forget(endpoint.id)
        self._store.update(
            networks={network.id: None},
            endpoints={endpoint.id: None for endpoint in left},
            detach={endpoint.owner: network.socket for endpoint in left},
        )
        self._detacher.later()
        return {}

    async def allocate(self, request):
        """AllocateNetwork: the options of `-o`, checked here, go on to CreateNetwork."""
        _options(request.Options)
        return {"Options": request.Options}

    async def free(self, _request):
        """FreeNetwork: nothing was set aside."""
        return {}

    def _record(self, request):
        said = request.Options.get(protocol.USER_OPTIONS)
        options = _options({} if said is None else said)
        gateways = [pool.Gateway for pool in (*request.IPv4Data, *request.IPv6Data) if pool.Gateway]
        addresses = [text.partition("/")[0] for text in gateways]
        for version, data in ((4, request.IPv4Data), (6, request.IPv6Data)):
            if len(data) > 1:
                raise RefusedError(f"IPv{version}Data: {len(data)} subnets; allowed: one of each IP version")
        if request.IPv6Data and options.mtu < MTU_IPV6_MIN:
            raise RefusedError(f"mtu = {options.mtu}: too small for IPv6, which needs {MTU_IPV6_MIN}")
        return Network(
            id=request.NetworkID,
            socket=options.socket or self._socket,
            mtu=options.mtu,
            vlan=options.vlan,
            spoof_check=options.spoof_check,
            gateways=addresses,
            internal=request.Options.get(protocol.INTERNAL_OPTION) is True,
        )


def _options(said):
    try:
        return NetworkOptions.model_validate(said)
    except ValidationError as error:
        raise RefusedError(f"network option {protocol.explain(error, NetworkOptions)}") from None
