"""The host's own interface in a network with `isGateway`: a tap port without a namespace.

The first attachment makes it, the last one takes it away; so an idle network leaves nothing on the host.
It has the gateway's address of every subnet that addresses came from.

Not: forwarding and address translation; those are the host's own.
"""

import ipaddress
import zlib

from dpu_runtime.config.errors import Problem
from dpu_runtime.engines.cni.errors import INVALID_CONFIG, CniError


def owner(network):
    """Owner of the port; that of an attachment goes on behind it."""
    return f"cni:{network}"


def port_name(network):
    """Name of the port."""
    return f"cni-gw-{_number(network)}"


def ifname(network):
    """Name of the interface on the host."""
    return f"dpu-{_number(network)}"


def complete(conf, given):
    """Fill in what `isGateway` and `isDefaultGateway` mean for a result of IPAM."""
    if not conf.is_gateway and not conf.is_default_gateway:
        return
    if not given["ips"]:
        key = "isGateway" if conf.is_gateway else "isDefaultGateway"
        raise CniError(
            INVALID_CONFIG, str(Problem(key, "needs addresses, by `ipam` or `addresses`", value=True))
        )
    for ip in given["ips"]:
        network = ipaddress.ip_interface(ip["address"]).network
        ip.setdefault("gateway", str(network.network_address + 1))
        default = "0.0.0.0/0" if network.version == 4 else "::/0"
        if conf.is_default_gateway and default not in [route["dst"] for route in given["routes"]]:
            given["routes"].append({"dst": default, "gw": ip["gateway"]})


def ensure(daemon, conf, given):
    """Have the port there, with the gateways of a result; returns its interface for the result."""
    wanted = []
    for ip in given["ips"]:
        bits = ipaddress.ip_interface(ip["address"]).network.prefixlen
        wanted.append(f"{ip['gateway']}/{bits}")
    port = daemon.port(port_name(conf.name))
    there = port["address"] if port else []
    missing = [address for address in wanted if address not in there]
    if missing and port:
        daemon.call("port.detach", owner=owner(conf.name))
    if missing or not port:
        keys = {"name": port_name(conf.name), "kind": "tap", "owner": owner(conf.name)}
        keys |= {"ifname": ifname(conf.name), "address": there + missing}
        optional = {"mtu": conf.mtu, "vlan": conf.vlan}
        daemon.call(
            "port.add", **keys, **{key: value for key, value in optional.items() if value is not None}
        )
        port = daemon.port(port_name(conf.name))
    return {"name": port["ifname"], "mac": port["mac"], "mtu": port["mtu"]}


def remove(daemon, network):
    """Take the port away, if it is there."""
    daemon.call("port.detach", owner=owner(network))


def _number(network):
    return f"{zlib.crc32(network.encode()):08x}"
