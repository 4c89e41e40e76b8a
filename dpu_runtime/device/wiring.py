"""Wire an interface into Linux: MAC, MTU, addresses, routes, link state, and what functions do there.

Source: rtnetlink(7) by pyroute2, inside the interface's network namespace.
"""

import ipaddress
import socket

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from dpu_runtime.device.ipv6 import enable_ipv6
from dpu_runtime.drivers.linux.netns import run_in_netns
from dpu_runtime.drivers.port import PortError

IFA_F_NODAD = 0x02  # linux/if_addr.h: usable at once, nobody else is on this wire yet


class Wire:
    """Netlink calls for one interface; every refusal is a PortError with what was asked."""

    def __init__(self, port, ipr):
        self.port = port
        self.ipr = ipr
        try:
            self.index = socket.if_nametoindex(port.ifname)  # of the calling thread's namespace
        except OSError:
            raise PortError(port.name, "link", text=f"interface {port.ifname!r} is gone") from None

    def ask(self, what, call, *args, **kwargs):
        """Make a netlink call, or say which one was refused."""
        try:
            return call(*args, **kwargs)
        except NetlinkError as error:
            text = f"{what} on {self.port.ifname!r}: {error.args[1] if len(error.args) > 1 else error}"
            raise PortError(self.port.name, what, error.code, text) from None

    def set_link(self, **attributes):
        """Set link attributes, one netlink call."""
        what = ", ".join(f"{key} {value}" for key, value in attributes.items())
        self.ask(f"set {what}", self.ipr.link, "set", index=self.index, **attributes)

    def add_address(self, text):
        """Add an interface address."""
        interface = ipaddress.ip_interface(text)
        flags = {"flags": IFA_F_NODAD} if interface.version == 6 else {}
        self.ask(
            f"address {text}",
            self.ipr.addr,
            "add",
            index=self.index,
            address=str(interface.ip),
            prefixlen=interface.network.prefixlen,
            **flags,
        )

    def add_route(self, route):
        """Add a route by a gateway on this interface."""
        family = 10 if ipaddress.ip_address(route.via).version == 6 else 2  # AF_INET6, AF_INET
        self.ask(
            f"route {route.to} via {route.via}",
            self.ipr.route,
            "add",
            dst=route.to,
            gateway=route.via,
            oif=self.index,
            family=family,
        )


def wire_interface(port, hooks):
    """Give a port's interface its MAC, MTU, addresses and routes, and bring it up.

    port   configuration with name, netns, ifname, mac, mtu, address, route
    hooks  what Function.wire names, called before the interface is up
    """

    def inside():
        with IPRoute() as ipr:
            wire = Wire(port, ipr)
            wire.set_link(address=port.mac)
            wire.set_link(mtu=port.mtu)
            for hook in hooks:
                hook(wire, port, None)
            wire.set_link(state="up")
            if any(ipaddress.ip_interface(address).version == 6 for address in port.address):
                enable_ipv6(port.ifname)
            for address in port.address:
                wire.add_address(address)
            for route in port.route:
                wire.add_route(route)

    run_in_netns(port.netns, inside, port=port.name)


def change_mtu(port):
    """Set the MTU of a port's interface to `port.mtu`."""

    def inside():
        with IPRoute() as ipr:
            Wire(port, ipr).set_link(mtu=port.mtu)

    run_in_netns(port.netns, inside, port=port.name)


def rewire(port, before, hooks):
    """Have functions change what they do at a port's interface.

    before  configuration that it had; None: another place, where all that was done is gone
    """

    def inside():
        with IPRoute() as ipr:
            wire = Wire(port, ipr)
            for hook in hooks:
                hook(wire, port, before)

    run_in_netns(port.netns, inside, port=port.name)
