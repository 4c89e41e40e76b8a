"""A network as podman describes it, and the options it may have.

Spec: netavark plugin-API.md and src/network/types.rs (Network, Subnet, Route).
In:   decoded JSON. Out: the network, or RefusedError with key, value and what is allowed.
Not:  names and sizes of ports, the daemon checks those; DNS, netavark gives a plugin's containers none.
"""

import ipaddress

from dpu_runtime.api.client import DEFAULT_SOCKET
from dpu_runtime.config.errors import Problem
from dpu_runtime.drivers.tap import MTU_MAX

MTU_MIN = 68  # octets, RFC 791 3.2
VLAN_MIN, VLAN_MAX = 1, 4094  # IEEE 802.1Q 9.6
IPAM_DRIVERS = ("host-local", "none")


class RefusedError(Exception):
    """A request that cannot be done; the text is for the user."""


def refuse(key, value, allowed, text=""):
    """Raise RefusedError about one value."""
    raise RefusedError(str(Problem(key, text, allowed, value)))


def need(data, key, kind, allowed, default=None):
    """`data[key]`, which must be of type `kind`; absent or null is `default`, if there is one."""
    value = data.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, kind):
        refuse(key, value, allowed)
    return value


def _number(low, high, unit=""):
    def parse(key, text):
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            refuse(key, text, f"{low}..{high}{unit}")
        return int(text)

    return parse


def _flag(key, text):
    if text not in ("true", "false"):
        refuse(key, text, "true, false")
    return text == "true"


def _path(key, text):
    if not text.startswith("/"):
        refuse(key, text, "an absolute path")
    return text


OPTIONS = {  # `podman network create -o KEY=VALUE`
    "mtu": _number(MTU_MIN, MTU_MAX, " octets"),
    "vlan": _number(VLAN_MIN, VLAN_MAX),
    "spoof_check": _flag,
    "no_default_route": _flag,
    "socket": _path,
}


class Network:
    """What podman says of a network, checked.

    options  values by name, those that were given
    subnets  (ip_network, gateway or None), one of each prefix
    routes   {"to", "via"}, besides the default ones
    """

    def __init__(self, data):
        self.id = need(data, "id", str, "text")
        self.internal = need(data, "internal", bool, "true, false", False)
        self.options = _options(need(data, "options", dict, "an object", {}))
        self.subnets = _subnets(need(data, "subnets", list, "a list", []))
        self.routes = [_route(i, route) for i, route in enumerate(need(data, "routes", list, "a list", []))]
        driver = need(data, "ipam_options", dict, "an object", {}).get("driver") or IPAM_DRIVERS[0]
        if driver not in IPAM_DRIVERS:
            refuse("ipam_options.driver", driver, ", ".join(IPAM_DRIVERS))
        if driver == "none" and self.subnets:
            refuse("ipam_options.driver", driver, "host-local", "the network has subnets")
        if driver != "none" and not self.subnets:
            refuse("subnets", [], "at least one (`--subnet`), or `--ipam-driver none`")

    @property
    def socket(self):
        """Socket of the daemon that has the ports."""
        return self.options.get("socket", DEFAULT_SOCKET)

    @property
    def port_keys(self):
        """What the network says of its ports."""
        return {key: self.options[key] for key in ("mtu", "vlan", "spoof_check") if key in self.options}

    def all_routes(self):
        """Routes of a container: by each gateway the default one, unless there is to be none."""
        gateways = [gateway for _, gateway in self.subnets if gateway]
        if self.internal or self.options.get("no_default_route"):
            gateways = []
        return [{"to": "default", "via": str(gateway)} for gateway in gateways] + self.routes


def _options(said):
    found = {}
    for key, text in said.items():
        if key not in OPTIONS:
            refuse(f"options.{key}", text, ", ".join(OPTIONS), "unknown key")
        if not isinstance(text, str):
            refuse(f"options.{key}", text, "text")
        found[key] = OPTIONS[key](f"options.{key}", text)
    return found


def _subnets(said):
    found = []
    for i, item in enumerate(said):
        if not isinstance(item, dict):
            refuse(f"subnets[{i}]", item, "an object")
        subnet = _parsed(f"subnets[{i}].subnet", item.get("subnet"), ipaddress.ip_network, "a prefix")
        gateway = item.get("gateway")
        if gateway is not None:
            gateway = _parsed(f"subnets[{i}].gateway", gateway, ipaddress.ip_address, "an address")
            if gateway not in subnet:
                refuse(f"subnets[{i}].gateway", str(gateway), f"an address in {subnet}")
        overlapping = next((str(other) for other, _ in found if other.overlaps(subnet)), None)
        if overlapping:
            refuse(f"subnets[{i}].subnet", str(subnet), "no two that overlap", f"overlaps {overlapping}")
        found.append((subnet, gateway))
    return found


def _route(i, item):
    if not isinstance(item, dict):
        refuse(f"routes[{i}]", item, "an object")
    if item.get("route_type") not in (None, "unicast"):
        refuse(f"routes[{i}].route_type", item["route_type"], "unicast")
    if item.get("metric") is not None:
        refuse(f"routes[{i}].metric", item["metric"], "none, routes of ports have no metric")
    to = _parsed(f"routes[{i}].destination", item.get("destination"), ipaddress.ip_network, "a prefix")
    via = _parsed(f"routes[{i}].gateway", item.get("gateway"), ipaddress.ip_address, "an address")
    return {"to": "default" if to.prefixlen == 0 else str(to), "via": str(via)}


def _parsed(key, value, parse, allowed):
    try:
        if isinstance(value, str):
            return parse(value)
    except ValueError:
        pass
    return refuse(key, value, allowed)


def create(data):
    """`create`: the network as podman is to keep it. Raises RefusedError."""
    Network(data)
    # netavark asks no plugin for names, so there would be a DNS server that knows none.
    return data | {"dns_enabled": False}
