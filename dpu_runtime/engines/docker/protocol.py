"""What dockerd says: the requests of libnetwork's remote driver protocol, as models.

Spec: libnetwork docs/remote.md, and drivers/remote/api/api.go for what the page leaves out. The fields have
      the names they have there.
In:   decoded JSON. Out: frozen models, or MalformedError with every wrong key.
Not:  keys that later versions of Docker add: they are ignored. What users say (`-o`) is checked to the last
      key, in networks.py and endpoints.py.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dpu_runtime.config import types
from dpu_runtime.config.file import problems
from dpu_runtime.config.types import Allowed

USER_OPTIONS = "com.docker.network.generic"  # where libnetwork puts what came by `network create -o`
INTERNAL_OPTION = "com.docker.network.internal"
PORTMAP_OPTION = "com.docker.network.portmap"
DOCKERS_OWN = "com.docker."  # options that Docker sets itself begin so


class RefusedError(Exception):
    """A request that was understood and cannot be done; the text is for the user."""


class MalformedError(Exception):
    """Not a request at all."""


def _when_null(default):
    """Go writes a nil map, slice or pointer as null."""
    return BeforeValidator(lambda value: default() if value is None else value)


_WHEN_EMPTY = BeforeValidator(lambda value: None if value == "" else value)

Identity = Annotated[str, Field(pattern=r"^[A-Za-z0-9]{12,128}$"), Allowed("12 to 128 letters and digits")]
_Options = Annotated[dict[str, Any], _when_null(dict), Allowed("an object")]
_Address = Annotated[types.InterfaceAddress | None, _WHEN_EMPTY]


class Message(BaseModel):
    """What all parts of a request share."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class Nothing(Message):
    """Plugin.Activate, GetCapabilities."""


class IPAMData(Message):
    """Addresses of a network, from an IPAM driver."""

    Pool: str = ""
    Gateway: _Address = None


_Pools = Annotated[list[IPAMData], _when_null(list), Allowed("a list of objects")]


class NetworkRef(Message):
    """DeleteNetwork, FreeNetwork."""

    NetworkID: Identity


class NetworkRequest(NetworkRef):
    """CreateNetwork, AllocateNetwork."""

    Options: _Options = {}
    IPv4Data: _Pools = []
    IPv6Data: _Pools = []


class EndpointRef(NetworkRef):
    """EndpointOperInfo, DeleteEndpoint, Leave, ProgramExternalConnectivity, RevokeExternalConnectivity."""

    EndpointID: Identity


class EndpointInterface(Message):
    """What Docker has decided about an endpoint's interface; the rest is for the driver to say."""

    Address: _Address = None
    AddressIPv6: _Address = None
    MacAddress: Annotated[types.MacAddress | None, _WHEN_EMPTY] = None


class CreateEndpoint(EndpointRef):
    """CreateEndpoint."""

    Interface: Annotated[EndpointInterface, _when_null(dict), Allowed("an object")] = EndpointInterface()
    Options: _Options = {}


class Join(EndpointRef):
    """Join."""

    SandboxKey: types.AbsolutePath


class Discovery(Message):
    """DiscoverNew, DiscoverDelete: another node of a cluster."""

    DiscoveryType: int


def parse(model, data):
    """Return a request as a model. Raises MalformedError naming keys, values and what is allowed."""
    if not isinstance(data, dict):
        raise MalformedError("a request is a JSON object")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise MalformedError(explain(error, model)) from None


def explain(error, model):
    """Every problem of pydantic's error about `model`, in one line."""
    return "; ".join(map(str, problems(error, model)))
