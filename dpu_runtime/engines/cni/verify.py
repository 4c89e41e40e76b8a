"""CHECK: whether an attachment is as its ADD left it.

In:   the result of the ADD. Out: CniError 103 that names the first difference.
"""

import ipaddress
import os
import stat

from dpu_runtime.engines.cni import netlink
from dpu_runtime.engines.cni.attachment import routes_of
from dpu_runtime.engines.cni.errors import CHECK_FAILED, UNKNOWN_CONTAINER, CniError


def check_port(port, attachment, env, conf):
    """The daemon has the port, under its owner, in the container."""
    if port is None:
        raise CniError(CHECK_FAILED, f"the daemon has no port {attachment.port}")
    _same("owner of the port", attachment.owner, port.get("owner"))
    if conf.kind == "tap":
        _same("netns of the port", env.netns, port.get("netns"))
        _same("ifname of the port", env.ifname, port.get("ifname"))


def check_interface(expected, attachment, env, conf):
    """The container has the interface with its MAC address, MTU, addresses and routes."""
    places = [
        index
        for index, interface in enumerate(expected["interfaces"])
        if (interface.get("name"), interface.get("sandbox")) == (env.ifname, env.netns)
    ]
    if not places:
        raise CniError(CHECK_FAILED, f"prevResult has no interface {env.ifname} in {env.netns}")
    interface = expected["interfaces"][places[0]]
    if conf.kind == "vhost_user":
        _check_socket(attachment.socket)
        return
    link, addresses, routes = _inside(env)
    _same(f"mac of {env.ifname}", (interface.get("mac") or link["mac"]).lower(), link["mac"])
    _same(f"mtu of {env.ifname}", interface.get("mtu") or conf.mtu or link["mtu"], link["mtu"])
    _same(f"state of {env.ifname}", "up", "up" if link["up"] else "down")
    ours = [ip for ip in expected["ips"] if ip.get("interface") == places[0]]
    for ip in ours:
        _among(f"addresses of {env.ifname}", ipaddress.ip_interface(ip["address"]), addresses)
    for network, via in routes_of({"ips": ours, "routes": expected["routes"]}):
        _among(f"routes of {env.ifname}", (network, via), routes)


def _inside(env):
    try:
        with netlink.inside(env.netns), netlink.Netlink() as container:
            link = container.link(env.ifname)
            if link is None:
                raise CniError(CHECK_FAILED, f"no interface {env.ifname} in {env.netns}")
            return link, container.addresses(link["index"]), container.routes(link["index"])
    except OSError as error:
        raise CniError(UNKNOWN_CONTAINER, f"{env.netns}: {error.strerror}") from None


def _check_socket(path):
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError as error:
        raise CniError(CHECK_FAILED, f"{path}: {error.strerror}") from None
    _same(path, "a socket", "a socket" if is_socket else "another file")


def _same(what, expected, found):
    if expected != found:
        raise CniError(CHECK_FAILED, f"{what}: {found}, it was {expected}")


def _among(what, expected, found):
    if expected not in found:
        shown = ", ".join(sorted(map(_shown, found))) or "none"
        raise CniError(CHECK_FAILED, f"{what}: {_shown(expected)} is missing, there are: {shown}")


def _shown(item):
    return f"{item[0]} via {item[1]}" if isinstance(item, tuple) else str(item)
