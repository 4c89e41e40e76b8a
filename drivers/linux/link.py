"""An interface that exists already: what it is, found by name or by index in its network namespace.

Source: rtnetlink(7) by pyroute2, linux/ethtool.h.
Not:    changing it; `dpu_runtime/device/wiring.py` sets what a configuration asks for.
"""

import array
import errno
import fcntl
import socket
import struct
from dataclasses import dataclass

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from dpu_runtime.drivers.linux.netns import run_in_netns
from dpu_runtime.drivers.port import PortError

IFF_UP = 1  # linux/if.h
IFF_LOWER_UP = 1 << 16
SIOCETHTOOL = 0x8946  # linux/sockios.h
ETHTOOL_GCHANNELS = 0x3C  # linux/ethtool.h


@dataclass(frozen=True)
class Link:
    """An interface at one moment.

    index          ifindex in its namespace
    mtu            octets of layer 3
    up             administratively up
    carrier        whether what it is plugged into is there
    mac            its address, as text
    type           of its driver as IFLA_INFO_KIND says ("veth", "tun", ...), "" for hardware and loopback
    rx_queues      receive queues in use
    default_route  whether a default route of its namespace leaves by it
    """

    index: int
    name: str
    mtu: int
    up: bool
    carrier: bool
    mac: str
    type: str
    rx_queues: int
    default_route: bool


def find_link(netns, name=None, index=None, *, port=""):
    """Look an interface up by name or by index; None when it does not exist.

    Raises PortError when the namespace cannot be entered.
    """
    return run_in_netns(netns, lambda: _find(name, index), port=port)


def need_link(netns, name, *, port=""):
    """Look an interface up by name. Raises PortError when it does not exist."""
    link = find_link(netns, name, port=port)
    if link is None:
        text = f"no interface {name!r} in netns {netns or 'of the host'!r}"
        raise PortError(port, "link", errno.ENODEV, text)
    return link


def _find(name, index):
    with IPRoute() as ipr:
        try:
            found = ipr.link("get", **({"ifname": name} if index is None else {"index": index}))
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise
        if not found:
            return None
        return _link(found[0], _default_route_links(ipr))


def _link(message, default_route_links):
    info = message.get_attr("IFLA_LINKINFO")
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        mtu=message.get_attr("IFLA_MTU"),
        up=bool(message["flags"] & IFF_UP),
        carrier=bool(message["flags"] & IFF_LOWER_UP),
        mac=message.get_attr("IFLA_ADDRESS") or "",
        type=(info.get_attr("IFLA_INFO_KIND") or "") if info else "",
        rx_queues=_rx_queues(message.get_attr("IFLA_IFNAME")),
        default_route=message["index"] in default_route_links,
    )


def _rx_queues(name):
    """Receive queues that an interface uses now: rtnetlink says only how many it has room for."""
    channels = array.array("I", [ETHTOOL_GCHANNELS, *[0] * 8])  # struct ethtool_channels
    request = struct.pack("16sQ16x", name.encode(), channels.buffer_info()[0])  # struct ifreq
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, SIOCETHTOOL, request)
    except OSError:
        return 1  # its driver knows no more than one
    return max(channels[5] + channels[8], 1)  # rx_count, combined_count


def _default_route_links(ipr):
    """Indices of the interfaces that a default route leaves by, those of a multipath one too."""
    found = set()
    for family in (2, 10):  # AF_INET, AF_INET6
        for route in ipr.get_default_routes(family=family):
            found.add(route.get_attr("RTA_OIF"))
            found.update(hop["oif"] for hop in route.get_attr("RTA_MULTIPATH") or ())
    return found - {None}
