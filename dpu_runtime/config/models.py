"""The configuration as models: what may be said, and what fits together.

In:   plain data (from TOML, JSON-RPC or code). Out: frozen models in which every value has one spelling.
Not:  files and error texts (config_file.py); the machine: namespaces, interfaces, free names (the device).

A new port kind is one subclass of `PortConfig` with its own `kind`, appended to PORT_KINDS.
"""

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Literal, Union

from pydantic import Field, field_validator, model_validator

from dpu_runtime.config import types
from dpu_runtime.config.model import Action, Model, refuse
from dpu_runtime.config.types import Allowed, Cli
from dpu_runtime.drivers.af_xdp.layout import BURST_FRAMES, FRAME_BYTES, FRAMES_MAX, QUEUE_FRAMES
from dpu_runtime.drivers.tap import MTU_MAX as TAP_MTU_MAX
from dpu_runtime.drivers.vhost_user import QUEUE_PAIRS_MAX
from dpu_runtime.functions.acl.config import RuleConfig
from dpu_runtime.kernels.layout import PORTS_MAX, WORKERS_MAX

MADE_UP = re.compile(r"rule-[1-9][0-9]*")  # names of rules that were given none
XDP_FRAMES_MIN = QUEUE_FRAMES + BURST_FRAMES
MTU_IPV6_MIN = 1280  # octets, RFC 8200 5


def machine_cpus():
    """Numbers of the CPUs that are online."""
    try:
        text = Path("/sys/devices/system/cpu/online").read_text().strip()
    except OSError:
        return list(range(os.cpu_count() or 1))
    ranges = [part.partition("-") for part in text.split(",")]
    return [cpu for low, _, high in ranges for cpu in range(int(low), int(high or low) + 1)]


def default_workers():
    """All CPUs but the first, which stays for the control process and the containers."""
    cpus = machine_cpus()
    return cpus[1 : WORKERS_MAX + 1] or cpus


class RuntimeConfig(Model):
    """`[runtime]`: the daemon and its workers.

    All but the default actions of the stages stays as it is while the daemon runs.
    """

    socket: types.SocketPath = Field("/run/dpu/dpu.sock", description="Unix socket of the API, mode 0660")
    state_dir: types.AbsolutePath = Field(
        "/var/lib/dpu", description="folder of the lock and of what runs, one a daemon"
    )
    workers: Annotated[list[int], Allowed("numbers of CPUs of this machine, each once")] = Field(
        default_factory=default_workers,
        description="CPUs that run a worker each; default: all but the first",
    )
    standby: bool = Field(True, description="keep a second, warm data-plane process for a fast take-over")
    mac_ageing_s: Annotated[int, Field(ge=1, le=1_000_000), Allowed("1..1000000 seconds")] = Field(
        300, description="a learned MAC address is forgotten after this time without a packet from it"
    )
    idle_spin_us: Annotated[int, Field(ge=0, le=1000), Allowed("0..1000 microseconds")] = Field(
        20, description="how long a worker without packets polls before it sleeps"
    )
    xdp_frames: Annotated[
        int, Field(ge=XDP_FRAMES_MIN, le=FRAMES_MAX), Allowed(f"{XDP_FRAMES_MIN}..{FRAMES_MAX} frames")
    ] = Field(
        32768,
        description=f"frames of {FRAME_BYTES} octets that all af_xdp ports share, {QUEUE_FRAMES} a queue;"
        " locked in memory while there is such a port",
    )
    perf_map: bool = Field(
        False,
        description="write /tmp/perf-PID.map for the data plane: perf then knows its machine code by name;"
        " see profiling.md",
    )
    default_ingress: Action = Field("allow", description="what happens to a packet no ingress rule matches")
    default_egress: Action = Field("allow", description="what happens to a packet no egress rule matches")

    @field_validator("workers")
    @classmethod
    def _workers_exist(cls, workers):
        cpus = machine_cpus()
        if not workers:
            raise ValueError("no worker")
        if len(set(workers)) != len(workers):
            raise ValueError("names a CPU twice")
        if len(workers) > WORKERS_MAX:
            raise ValueError(f"more than {WORKERS_MAX} workers")
        missing = [cpu for cpu in workers if cpu not in cpus]
        if missing:
            raise ValueError(f"no CPU {missing[0]}, this machine has {', '.join(map(str, cpus))}")
        return workers


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


class PortConfig(Model):
    """`[[port]]`: what ports of every kind have."""

    name: Annotated[types.PortName, Cli("NAME", positional=True)] = Field(
        description="name of the port, unique"
    )
    kind: str = Field(description="kind of the port")
    mac: types.MacAddress = Field(
        default_factory=lambda data: types.derived_mac(data.get("name", "")),
        description="MAC address of the attached side; default: made from the port's name",
    )
    mtu: Annotated[int, Field(ge=68, le=65535), Allowed("68..65535 octets")] = Field(
        1500, description="largest layer 3 packet"
    )
    queues: Annotated[int, Field(ge=1, le=WORKERS_MAX), Allowed("1 to the number of workers")] | None = Field(
        None, description="queue pairs; default: one a worker"
    )
    vlan: types.VlanId | None = Field(None, description="VLAN of untagged packets; default: none")
    trunk: Annotated[list[types.VlanId], Allowed("VLAN IDs, 1..4094, each once")] | None = Field(
        None, description="VLANs whose tags the port takes, all others are dropped; default: any tag"
    )
    spoof_check: bool = Field(False, description="drop packets whose source MAC address is not `mac`")
    verify_checksum: bool = Field(False, description="verify the checksums of packets that come in here")
    offload: bool = Field(True, description="offload checksums and segmentation with the attached side")
    gro: bool = Field(True, description="merge TCP segments that come in one by one")
    rx_rate: types.BitRate | None = Field(
        None,
        description="most that may come in here, in bits of frames a second; a tap port's interface is"
        " shaped, any other port loses what exceeds it; default: no limit",
    )
    rx_burst: types.Burst | None = Field(
        None, description="octets that may come in at once; default: 250 ms of `rx_rate`, 10 ms of a tap port"
    )
    tx_rate: types.BitRate | None = Field(
        None,
        description="most that may go out here, in bits of frames a second; what exceeds it is dropped;"
        " default: no limit",
    )
    tx_burst: types.Burst | None = Field(
        None, description="octets that may go out at once; default: 250 ms of `tx_rate`"
    )
    owner: types.Owner | None = Field(
        None,
        description="who made the port at run time, such as `attach` or a container engine; such a port"
        " goes when its container does, `dpu apply` leaves it alone, and a file cannot have one",
    )

    @field_validator("trunk")
    @classmethod
    def _vlans_once(cls, trunk):
        if trunk is None:
            return None
        if len(set(trunk)) != len(trunk):
            raise ValueError("names a VLAN twice")
        return sorted(trunk)

    @model_validator(mode="after")
    def _bursts_have_rates(self):
        refuse(
            self,
            [
                ((f"{way}_burst",), f"needs `{way}_rate`", getattr(self, f"{way}_burst"))
                for way in ("rx", "tx")
                if getattr(self, f"{way}_burst") is not None and getattr(self, f"{way}_rate") is None
            ],
        )
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
    xconnect: Annotated[types.PortName | None, Cli("PORT")] = Field(
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
        if self.spoof_check and self.mac is None:
            problems.append((("spoof_check",), "needs `mac`", True))
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
AnyPort = Annotated[Union[PORT_KINDS], Field(discriminator="kind")]  # noqa: UP007  (built from a tuple)


class Config(Model):
    """A whole configuration; rules always have names."""

    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig, description="the daemon and its workers")
    port: Annotated[list[AnyPort], Allowed("[[port]] tables")] = Field(
        default_factory=list, description="ports"
    )
    rule: Annotated[list[RuleConfig], Allowed("[[rule]] tables")] = Field(
        default_factory=list, description="rules"
    )

    @classmethod
    def of_models(cls, runtime, port, rule):
        """Make one of models that are valid each; only whether they fit each other is looked at.

        Raises ValidationError. Validating 500 ports anew would take longer than making one.
        """
        config = cls.model_construct(runtime=runtime, port=port, rule=cls._name_rules(rule))
        return config._parts_fit()

    @field_validator("rule")
    @classmethod
    def _name_rules(cls, rules):
        """Give unnamed rules the lowest free rule-N, in order."""
        taken = {rule.name for rule in rules}
        free = (name for n in range(1, len(rules) + 1) if (name := f"rule-{n}") not in taken)
        return [rule if rule.name else rule.model_copy(update={"name": next(free)}) for rule in rules]

    @model_validator(mode="after")
    def _parts_fit(self):
        refuse(self, [*self._port_problems(), *self._xconnect_problems(), *self._rule_problems()])
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

    def _xconnect_problems(self):
        rings = {port.name: (i, port) for i, port in enumerate(self.port) if port.kind == "vhost_user"}
        for i, port in rings.values():
            if port.xconnect is None:
                continue
            if port.xconnect not in rings:
                text = f"no such vhost_user port, there are: {', '.join(sorted(rings))}"
                yield ("port", i, "xconnect"), text, port.xconnect
                continue
            limits = (i, port, "rx_rate"), (*rings[port.xconnect], "tx_rate")
            for at, limited, key in limits:
                if getattr(limited, key) is not None:
                    text = (
                        f"does not go with the cross-connect of {port.name}, which passes packets as they are"
                    )
                    yield ("port", at, key), text, getattr(limited, key)

    def _rule_problems(self):
        ports = {port.name for port in self.port}
        names = set()
        for i, rule in enumerate(self.rule):
            if rule.name in names:
                yield ("rule", i, "name"), "another rule has this name", rule.name
            names.add(rule.name)
            for key in ("in_port", "out_port"):
                name = getattr(rule, key)
                if name is not None and name not in ports:
                    there = ", ".join(sorted(ports)) or "none"
                    yield ("rule", i, key), f"no such port, there are: {there}", name
