"""The configuration as models: what may be said, and what fits together.

In:   plain data (from TOML, JSON-RPC or code). Out: frozen models in which every value has one spelling.
      `[runtime]` and `[[port]]` have the frame's keys (frame.py) and those that functions join to them; each
      list of tables of a function is a field of `Config`.
Not:  files and error texts (file.py); the machine: namespaces, interfaces, free names (the device).

A new port kind is one subclass of `PortConfig` with its own `kind`, appended to PORT_KINDS.
"""

import ipaddress
from typing import Annotated, Any, ClassVar, Literal, Union, get_args

from pydantic import Field, create_model, field_validator, model_validator

from dpu_runtime import registry
from dpu_runtime.config import types
from dpu_runtime.config.frame import PortKeys, RuntimeKeys
from dpu_runtime.config.model import Model, joined, refuse
from dpu_runtime.config.references import annotated
from dpu_runtime.config.sections import item_problems, reference_problems, sections_of, settings_of
from dpu_runtime.config.types import Allowed, Cli, NotCrossed, Refers
from dpu_runtime.drivers.tap import MTU_MAX as TAP_MTU_MAX
from dpu_runtime.drivers.vhost_user import QUEUE_PAIRS_MAX
from dpu_runtime.kernels.layout import PORTS_MAX

MTU_IPV6_MIN = 1280  # octets, RFC 8200 5

FUNCTIONS = registry.by_references(registry.functions())
RuntimeConfig = joined("RuntimeConfig", RuntimeKeys, [f.settings for f in FUNCTIONS if f.settings])
RuntimeConfig.CHANGING = tuple(key for f in FUNCTIONS for key in f.changing)  # while the daemon runs
PortConfig = joined("PortConfig", PortKeys, [f.port for f in FUNCTIONS if f.port])


class RouteConfig(Model):
    """A route that the port's interface gets."""

    to: types.RouteTarget = Field(description="destination")
    via: types.Gateway = Field(description="gateway, in a network of the port's addresses or link-local")

    @model_validator(mode="after")
    def _one_family(self):
        if self.to != "default":
            target = ipaddress.ip_network(self.to)
            if target.version != ipaddress.ip_address(self.via).version:
                refuse(self, [(("via",), f"not of the family of {self.to}", self.via)])
        return self


class TapPort(PortConfig):
    """`kind = "tap"`: an interface the daemon makes in a network namespace, for a container or the host."""

    kind: Literal["tap"] = Field(description="kind of the port")
    netns: types.NetworkNamespace | None = Field(
        None, description="network namespace the interface lives in; default: the host's own"
    )
    ifname: types.InterfaceName = Field(description="name of the interface in that namespace")
    address: list[types.InterfaceAddress] = Field(default_factory=list, description="addresses it gets")
    route: Annotated[list[RouteConfig], Allowed("tables with `to` and `via`")] = Field(
        default_factory=list, description="routes it gets"
    )

    @model_validator(mode="after")
    def _addresses_fit(self):
        interfaces = [ipaddress.ip_interface(text) for text in self.address]
        problems = []
        if self.mtu > TAP_MTU_MAX:
            text = f"more than the {TAP_MTU_MAX} that Linux allows a tap interface"
            problems.append((("mtu",), text, self.mtu))
        for i, interface in enumerate(interfaces):
            if interface in interfaces[:i]:
                problems.append((("address", i), "given twice", str(interface)))
            if interface.version == 6 and self.mtu < MTU_IPV6_MIN:
                text = f"too small for IPv6 ({interface}), which needs {MTU_IPV6_MIN}"
                problems.append((("mtu",), text, self.mtu))
        for i, route in enumerate(self.route):
            via = ipaddress.ip_address(route.via)
            if not via.is_link_local and not any(via in interface.network for interface in interfaces):
                text = "in no network of the port's addresses"
                problems.append((("route", i, "via"), text, route.via))
            if route.to in [other.to for other in self.route[:i]] and route.to != "default":
                problems.append((("route", i, "to"), "given twice", route.to))
        refuse(self, problems)
        return self


class NullPort(PortConfig):
    """`kind = "null"`: no interface; packets that go there are counted and gone, none ever comes."""

    kind: Literal["null"] = Field(description="kind of the port")


class VhostUserPort(PortConfig):
    """`kind = "vhost_user"`: a virtual machine or a host program, by virtio over a vhost-user socket."""

    kind: Literal["vhost_user"] = Field(description="kind of the port")
    socket: types.SocketPath = Field(description="Unix socket that the front-end and the daemon meet at")
    client: bool = Field(
        False, description="connect to the socket, again and again, instead of listening on it"
    )
    socket_mode: types.FileMode = Field(
        "0600", description="mode of a socket that the port makes; who connects needs to write to it"
    )
    socket_group: types.GroupName | None = Field(
        None, description="group of a socket that the port makes; default: the daemon's own"
    )
    queues: Annotated[int, Field(ge=1, le=QUEUE_PAIRS_MAX), Allowed(f"1 to {QUEUE_PAIRS_MAX}")] | None = (
        Field(None, description=f"queue pairs offered; default: {QUEUE_PAIRS_MAX}, whatever the workers")
    )
    xconnect: (
        Annotated[types.PortName, Refers("port", kind="vhost_user", cleared=True), Cli("PORT")] | None
    ) = Field(
        None,
        description="vhost_user port, may be itself, that everything coming in here goes to as it is:"
        " no rules, no switch; default: none",
    )

    @model_validator(mode="after")
    def _socket_is_ours(self):
        given = (("socket_mode", self.socket_mode, "0600"), ("socket_group", self.socket_group, None))
        text = "not with `client`: the other side makes the socket"
        wrong = [((key,), text, value) for key, value, default in given if self.client and value != default]
        refuse(self, wrong)
        return self


class InterfacePort(PortConfig):
    """What ports over an interface that exists already have in common."""

    netns: types.NetworkNamespace | None = Field(
        None, description="network namespace the interface is in; default: the host's own"
    )
    ifname: types.InterfaceName = Field(description="name of the interface in that namespace")
    mac: types.MacAddress | None = Field(
        None, description="MAC address of what is behind the interface, for `spoof_check`; default: unknown"
    )
    mtu: Annotated[int, Field(ge=68, le=65535), Allowed("68..65535 octets")] | None = Field(
        None, description="MTU the interface is given; default: it keeps its own, and the port follows it"
    )
    promiscuous: bool = Field(False, description="have the interface take packets for any MAC address")
    accept_default_route: types.InterfaceName | None = Field(
        None,
        description="`ifname` once more: take the interface although the default route of its namespace"
        " leaves by it",
    )

    @model_validator(mode="after")
    def _interface_fits(self):
        problems = []
        if self.accept_default_route not in (None, self.ifname):
            text = f"is not the port's interface, {self.ifname}"
            problems.append((("accept_default_route",), text, self.accept_default_route))
        refuse(self, problems)
        return self


class AfPacketPort(InterfacePort):
    """`kind = "af_packet"`: an interface that exists already, by AF_PACKET rings."""

    kind: Literal["af_packet"] = Field(description="kind of the port")
    qdisc: bool = Field(False, description="send through the interface's queueing discipline")
    blocks: bool = Field(
        False,
        description="receive in blocks (TPACKET_V3): room for more packets and fewer wake-ups, each packet"
        " some milliseconds late",
    )


class AfXdpPort(InterfacePort):
    """`kind = "af_xdp"`: an interface that exists already, by AF_XDP rings."""

    kind: Literal["af_xdp"] = Field(description="kind of the port")
    xdp_mode: Annotated[
        Literal["auto", "zerocopy", "copy", "generic"], Allowed("auto, zerocopy, copy, generic"), Cli("MODE")
    ] = Field("auto", description="how packets reach the rings; `auto`: the best that the driver gives")
    busy_poll: bool = Field(True, description="poll the interface from the worker, where it can be")


PORT_KINDS = (TapPort, NullPort, VhostUserPort, AfPacketPort, AfXdpPort)
INTERFACE_KINDS = ("tap", "af_packet", "af_xdp")
KINDS = {get_args(kind.model_fields["kind"].annotation)[0]: kind for kind in PORT_KINDS}
AnyPort = Annotated[Union[PORT_KINDS], Field(discriminator="kind")]  # noqa: UP007  (built from a tuple)


class _Config(Model):
    """A whole configuration; all items have names."""

    FUNCTIONS: ClassVar[tuple[Any, ...]] = FUNCTIONS  # what an item names is of the same or an earlier one
    SECTIONS: ClassVar[tuple[Any, ...]] = sections_of(FUNCTIONS)

    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig, description="the daemon and its workers")
    port: Annotated[list[AnyPort], Allowed("[[port]] tables")] = Field(
        default_factory=list, description="ports"
    )

    @classmethod
    def of_models(cls, **parts):
        """Make one of models that are valid each; only whether they fit each other is looked at.

        Raises ValidationError. Validating 500 ports anew would take longer than making one.
        """
        named = {section.key: section.with_names(parts[section.key]) for section in cls.SECTIONS}
        return cls.model_construct(**{**parts, **named})._parts_fit()

    def parts(self):
        """What it is made of, to be changed and put together anew by `of_models`."""
        return {key: getattr(self, key) for key in type(self).model_fields}

    def settings(self, function):
        """Keys of [runtime] that a function joined to it, None if it has none."""
        return settings_of(function, self.runtime)

    def items(self, function):
        """{section: items} of a function."""
        return {key: getattr(self, key) for key in function.sections}

    @field_validator("*")
    @classmethod
    def _name_items(cls, value, info):
        section = next((section for section in cls.SECTIONS if section.key == info.field_name), None)
        return section.with_names(value) if section else value

    @model_validator(mode="after")
    def _parts_fit(self):
        there = {("port", kind): {p.name for p in self.port if kind in ("", p.kind)} for kind in ("", *KINDS)}
        for section in self.SECTIONS:
            there[section.key, ""] = {item.name for item in getattr(self, section.key)}
        problems = [*self._port_problems(), *self._connection_problems(there)]
        for section in self.SECTIONS:
            problems += item_problems(section.key, getattr(self, section.key), there)
        refuse(self, problems)
        return self

    def _port_problems(self):
        if len(self.port) > PORTS_MAX:
            yield ("port",), f"more than {PORTS_MAX} ports", len(self.port)
        names, interfaces, sockets = set(), {}, {}
        workers = len(self.runtime.workers)
        for i, port in enumerate(self.port):
            if port.name in names:
                yield ("port", i, "name"), "another port has this name", port.name
            names.add(port.name)
            if port.queues is not None and port.queues > workers and port.kind != "vhost_user":
                yield ("port", i, "queues"), f"more than the {workers} worker(s)", port.queues
            if port.kind == "vhost_user":
                other = sockets.setdefault(port.socket, port.name)
                if other != port.name or port.socket == self.runtime.socket:
                    text = f"port {other} has it" if other != port.name else "is the daemon's own"
                    yield ("port", i, "socket"), text, port.socket
            if port.kind in INTERFACE_KINDS:
                other = interfaces.setdefault((port.netns, port.ifname), port.name)
                if other != port.name:
                    text = f"port {other} has an interface of this name in the same namespace"
                    yield ("port", i, "ifname"), text, port.ifname

    def _connection_problems(self, there):
        """Of references between ports, and of keys that a cross-connect would pass by."""
        rings = {port.name: (i, port) for i, port in enumerate(self.port) if port.kind == "vhost_user"}
        for i, port in enumerate(self.port):
            yield from reference_problems(("port", i), port, there)
            if port.name not in rings or port.xconnect not in rings:
                continue
            ways = {"rx": (i, port), "tx": rings[port.xconnect]}
            for key, crossed in annotated(type(port), NotCrossed):
                at, limited = ways[crossed.way]
                if getattr(limited, key) is not None:
                    text = (
                        f"does not go with the cross-connect of {port.name}, which passes packets as they are"
                    )
                    yield ("port", at, key), text, getattr(limited, key)


def _section_fields():
    for section in _Config.SECTIONS:
        items = Field(default_factory=list, description=section.words)
        yield section.key, (Annotated[list[section.model], Allowed(f"[[{section.key}]] tables")], items)


Config = create_model("Config", __base__=_Config, __doc__=_Config.__doc__, **dict(_section_fields()))
