"""One attachment: a container's interface on a port of the DPU, of any of the three kinds.

    tap         the daemon makes the interface in the container's namespace
    vhost_user  no interface; a socket, for a container that speaks virtio itself
    veth        a pair made here; the port is over its host end, where other plugins may shape traffic

Not: addresses to choose (ipam.py), the host's own interface (gateway.py).
"""

import ipaddress
import os
import zlib

from dpu_runtime.config.errors import Problem
from dpu_runtime.device.ipv6 import enable_ipv6
from dpu_runtime.engines.cni import netlink
from dpu_runtime.engines.cni.config import SOCKET_PATH_BYTES_MAX
from dpu_runtime.engines.cni.errors import (
    INVALID_CONFIG,
    INVALID_ENVIRONMENT,
    IO_FAILURE,
    UNSUPPORTED_FIELD,
    CniError,
    log,
)

OWNER_CHARS_MAX = 255
VETH_MTU = 1500  # octets, unless the configuration says another
BURST_BYTES_MIN, BURST_BYTES_MAX = 65_536, 1 << 30  # octets; what a port takes, kernels/meter/table.py
# How long a meter's bucket fills: with less, TCP halts (dpu_runtime/functions/meter/limits.py).
METER_DEPTH_MS = 250
_CONTAINER_CHARS = 12  # of the ID in a port's name, as engines print it


def owner_prefix(network):
    """What the owners of a network's attachments begin with."""
    return f"cni:{network}:"


def attachment_of(owner, network):
    """(container ID, interface name) of an owner, None if it is no attachment of the network."""
    prefix = owner_prefix(network)
    if not (owner or "").startswith(prefix):
        return None
    containerid, _, ifname = owner.removeprefix(prefix).partition(":")
    return containerid, ifname


class Attachment:
    """Who it belongs to and what it is called; the same at every call for it."""

    def __init__(self, conf, containerid, ifname):
        self._conf = conf
        self.containerid = containerid
        self.ifname = ifname
        self.owner = f"{owner_prefix(conf.name)}{containerid}:{ifname}"
        if len(self.owner) > OWNER_CHARS_MAX:
            text = f"{len(self.owner)} characters with the network's name, allowed are {OWNER_CHARS_MAX}"
            raise CniError(INVALID_ENVIRONMENT, str(Problem("CNI_CONTAINERID", text, value=containerid)))
        number = f"{zlib.crc32(self.owner.encode()):08x}"
        self.port = f"cni-{containerid[:_CONTAINER_CHARS]}-{number}"
        self.host_ifname = f"veth{number}"

    @property
    def socket(self):
        """Path of a vhost_user port's socket. Raises CniError 7 when it is too long."""
        path = os.path.join(self._conf.socket_dir, f"{self.port}.sock")
        excess = len(os.fsencode(path)) - SOCKET_PATH_BYTES_MAX
        if excess > 0:
            value = self._conf.socket_dir
            allowed = f"at most {len(os.fsencode(value)) - excess} octets, as a socket's path has at most 107"
            raise CniError(INVALID_CONFIG, str(Problem("socketDir", "", allowed, value)))
        return path

    def add(self, daemon, netns, mac, given):
        """Make the interface and its port; returns the interfaces of the result, the container's first.

        given   result of IPAM: addresses and routes that the interface gets
        """
        if self._conf.kind == "tap":
            daemon.call("port.add", **self._tap_keys(netns, mac, given))
        elif self._conf.kind == "vhost_user":
            os.makedirs(self._conf.socket_dir, mode=0o755, exist_ok=True)
            daemon.call("port.add", **self._vhost_user_keys(mac))
        else:
            mac = self._add_veth(netns, mac, given)
            daemon.call("port.add", **self._veth_keys(mac))
        return self._interfaces(daemon.port(self.port), netns, mac)

    def remove(self, daemon):
        """Take port and interface away; twice is allowed."""
        daemon.call("port.detach", owner=self.owner)

    def remove_veth(self):
        """Take the pair away, if there is one; its port may be there still. Twice is allowed."""
        if self._conf.kind != "veth":
            return
        try:
            with netlink.Netlink() as host:
                if link := host.link(self.host_ifname):
                    host.delete(link["index"])
        except OSError as error:
            raise CniError(IO_FAILURE, f"veth {self.host_ifname}: {error.strerror}") from None

    def _interfaces(self, port, netns, mac):
        """The interfaces of the result: the container's, and the host end of a pair."""
        own = {"name": self.ifname, "mac": port.get("mac") or mac, "sandbox": netns}
        own["mtu"] = port.get("mtu") or self._conf.mtu or VETH_MTU
        if self._conf.kind == "vhost_user":
            own["socketPath"] = self.socket
        if self._conf.kind != "veth":
            return [own]
        with netlink.Netlink() as host:
            link = host.link(self.host_ifname)
        return [own, {"name": self.host_ifname, "mac": link["mac"], "mtu": link["mtu"]}]

    # keys of the port

    def _keys(self, kind, mac):
        conf = self._conf
        keys = {"name": self.port, "kind": kind, "owner": self.owner}
        keys |= {"mac": mac, "mtu": conf.mtu, "vlan": conf.vlan, "spoof_check": conf.spoof_check or None}
        for way, key in (("ingress", "tx"), ("egress", "rx")):  # into the container is what the port sends
            if rate := conf.runtime.get("bandwidth", {}).get(f"{way}Rate"):
                keys[f"{key}_rate"] = rate
                shaped = kind == "tap" and way == "egress"
                keys[f"{key}_burst"] = _burst_bytes(way, conf.runtime["bandwidth"], shaped)
        return {key: value for key, value in keys.items() if value is not None}

    def _tap_keys(self, netns, mac, given):
        addresses = [ip["address"] for ip in given["ips"]]
        routes = [
            {"to": str(network) if network.prefixlen else "default", "via": str(via)}
            for network, via in routes_of(given)
        ]
        own = {"netns": netns, "ifname": self.ifname, "address": addresses, "route": routes}
        return self._keys("tap", mac) | own

    def _vhost_user_keys(self, mac):
        own = {"socket": self.socket, "socket_mode": self._conf.socket_mode}
        own["socket_group"] = self._conf.socket_group
        return self._keys("vhost_user", mac) | {key: value for key, value in own.items() if value is not None}

    def _veth_keys(self, mac):
        keys = self._keys(self._conf.driver, mac) | {"ifname": self.host_ifname}
        if self._conf.driver == "af_packet":
            keys["qdisc"] = True  # or what a plugin further on sets up there would not be passed
        return keys

    def _add_veth(self, netns, mac, given):
        """Make the pair and set the container's end up; returns its MAC address."""
        try:
            with netlink.Netlink() as host:
                host.add_veth(self.host_ifname, self.ifname, netns, self._conf.mtu or VETH_MTU, mac)
                host.set_up(host.link(self.host_ifname)["index"])
            with netlink.inside(netns), netlink.Netlink() as container:
                link = container.link(self.ifname)
                container.set_up(link["index"])
                interfaces = [ipaddress.ip_interface(ip["address"]) for ip in given["ips"]]
                if any(interface.version == 6 for interface in interfaces):
                    enable_ipv6(self.ifname)
                for interface in interfaces:
                    container.add_address(link["index"], interface)
                for network, via in routes_of(given):
                    container.add_route(link["index"], network, via)
        except OSError as error:
            text = f"veth {self.host_ifname} - {self.ifname} in {netns}: {error.strerror}"
            raise CniError(IO_FAILURE, text) from None
        return link["mac"]


def _burst_bytes(way, bandwidth, shaped):
    """Octets of a burst given in bits; what no port can have, or is of no use to TCP, is changed, and logged.

    shaped   what exceeds the rate waits (tbf); else it is dropped
    """
    asked = bandwidth[f"{way}Burst"] // 8
    useful = 0 if shaped else bandwidth[f"{way}Rate"] * METER_DEPTH_MS // 8000
    taken = min(max(asked, useful, BURST_BYTES_MIN), BURST_BYTES_MAX)
    if taken != asked:
        reason = "the nearest a port can have" if taken != useful else f"what TCP needs, {METER_DEPTH_MS} ms"
        log(f"runtimeConfig.bandwidth.{way}Burst: {taken} octets, not {asked}, is {reason}")
    return taken


def routes_of(given):
    """(network, gateway) of the routes in a result; one that names no gateway goes by that of an address."""
    found = []
    for route in given["routes"]:
        network = ipaddress.ip_network(route["dst"], strict=False)
        extra = sorted(key for key in route if key not in ("dst", "gw"))
        if extra:
            raise CniError(
                UNSUPPORTED_FIELD,
                str(Problem(f"route {network}: {extra[0]}", "", "dst, gw", route[extra[0]])),
            )
        gateways = [ip["gateway"] for ip in given["ips"] if ip.get("gateway")]
        usable = [via for via in map(ipaddress.ip_address, gateways) if via.version == network.version]
        via = ipaddress.ip_address(route["gw"]) if route.get("gw") else usable[0] if usable else None
        if via is None:
            text = "names no gateway, and no address has one"
            raise CniError(INVALID_CONFIG, str(Problem("route", text, value=str(network))))
        found.append((network, via))
    return found
