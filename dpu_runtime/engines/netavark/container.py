"""A container that comes to a network or leaves it: a port of the daemon, made in the container's namespace.

Spec: netavark plugin-API.md and src/network/types.rs (NetworkPluginExec, StatusBlock).
In:   decoded JSON and the path of the namespace. Out: the status block, or RefusedError with nothing left.
Not:  choosing addresses: podman has done it (`static_ips`). Published ports, which are refused.
"""

import ipaddress
import re
import sys

from dpu_runtime.api.client import Client, NoDaemonError
from dpu_runtime.config.errors import RpcError
from dpu_runtime.engines.netavark.network import Network, RefusedError, need, refuse

CALL_TIMEOUT_S = 10.0
_SHORT = 12  # characters of a container's id, as podman shows them
_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,15}")
OPTIONS = ("port",)  # `podman run --network NAME:KEY=VALUE`


class Attachment:
    """One container in one network."""

    def __init__(self, data):
        self.network = Network(need(data, "network", dict, "an object"))
        options = need(data, "network_options", dict, "an object")
        container = need(data, "container_id", str, "text")
        self.ifname = need(options, "interface_name", str, "text")
        for key, value, pattern in (("container_id", container, _ID), ("interface_name", self.ifname, _NAME)):
            if not pattern.fullmatch(value):
                refuse(key, value, pattern.pattern)
        mappings = data.get("port_mappings")
        if mappings:
            refuse("port_mappings", mappings, "none", "ports cannot be published on this network")
        said = need(options, "options", dict, "an object", {})
        for key, value in said.items():
            if key not in OPTIONS:
                refuse(f"network_options.options.{key}", value, ", ".join(OPTIONS), "unknown key")
        self.owner = f"netavark:{container}:{self.ifname}"
        self.port = said.get("port") or f"pod-{container[:_SHORT]}-{self.ifname}"
        self.mac = options.get("static_mac")
        self.addresses = _addresses(self.network, need(options, "static_ips", list, "a list", []))

    def port_config(self, netns):
        """Parameters of `port.add`."""
        keys = {"name": self.port, "kind": "tap", "owner": self.owner, "netns": netns, "ifname": self.ifname}
        keys |= {"address": [str(address) for address, _ in self.addresses]}
        keys |= {"route": self.network.all_routes()} | self.network.port_keys
        return keys | ({"mac": self.mac} if self.mac else {})

    def status(self, mac):
        """The status block."""
        subnets = [
            {"ipnet": str(address)} | ({"gateway": str(gateway)} if gateway else {})
            for address, gateway in self.addresses
        ]
        return {
            "dns_search_domains": [],
            "dns_server_ips": [],
            "interfaces": {self.ifname: {"mac_address": mac, "subnets": subnets}},
        }


def setup(data, netns):
    """`setup`: returns the status block. Raises RefusedError."""
    attachment = Attachment(data)
    path = attachment.network.socket
    try:
        with Client(path, CALL_TIMEOUT_S) as client:
            client.call("port.add", **attachment.port_config(netns))
            (view,) = client.call("port.show", name=attachment.port)
    except RpcError as error:
        raise RefusedError(error.message) from None
    except NoDaemonError as error:  # it may have the port, or make it yet: it goes with its namespace
        _detach(path, attachment.owner)
        raise RefusedError(str(error)) from None
    return attachment.status(view["config"]["mac"])


def teardown(data, _netns):
    """`teardown`: once more is allowed, and so is a container that was never set up."""
    attachment = Attachment(data)
    problem = _detach(attachment.network.socket, attachment.owner)
    if problem:  # podman must be able to remove the container; the daemon drops ports whose namespace is gone
        print(f"dpu-netavark: {problem}; port {attachment.port} goes with its namespace", file=sys.stderr)


def _detach(path, owner):
    """Take the port away; returns what went wrong, or None."""
    try:
        with Client(path, CALL_TIMEOUT_S) as client:
            client.call("port.detach", owner=owner)
    except NoDaemonError as error:
        return error
    except RpcError as error:
        raise RefusedError(error.message) from None
    return None


def _addresses(network, said):
    """(ip_interface, gateway or None) of each address podman has chosen."""
    found = []
    for i, text in enumerate(said):
        key = f"network_options.static_ips[{i}]"
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            refuse(key, text, "an address")
        for subnet, gateway in network.subnets:
            if address in subnet:
                found.append((ipaddress.ip_interface(f"{address}/{subnet.prefixlen}"), gateway))
                break
        else:
            there = ", ".join(str(subnet) for subnet, _ in network.subnets) or "none, there is no subnet"
            refuse(key, text, f"an address in {there}")
    for subnet, _ in network.subnets:
        if not any(address in subnet for address, _ in found):
            refuse(
                "network_options.static_ips", said, f"an address in {subnet}, from podman's host-local IPAM"
            )
    return found
