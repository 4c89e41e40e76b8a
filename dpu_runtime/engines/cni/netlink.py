"""Interfaces, addresses and routes of a network namespace, read and set by netlink.

Source: netlink(7), rtnetlink(7), linux/if_link.h; setns(2).
Not:    pyroute2, whose import takes longer than a whole ADD.
"""

import contextlib
import errno
import ipaddress
import os
import socket
import struct

CLONE_NEWNET = 0x40000000  # linux/sched.h
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x001, 0x004, 0x300
NLM_F_EXCL, NLM_F_CREATE = 0x200, 0x400
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
NLA_F_NESTED = 0x8000
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO, IFLA_NET_NS_FD = 1, 3, 4, 18, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFA_ADDRESS, IFA_LOCAL = 1, 2
IFA_F_NODAD = 0x02  # usable at once, nobody else is on this wire yet
RTA_DST, RTA_OIF, RTA_GATEWAY = 1, 4, 5
RT_TABLE_MAIN, RTPROT_STATIC, RTN_UNICAST = 254, 4, 1
IFF_UP = 1
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_LINK = struct.Struct("=BxHiII")  # ifinfomsg
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg
_READ_BYTES = 1 << 16
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


@contextlib.contextmanager
def inside(netns):
    """Be in the network namespace at the path `netns`. Raises OSError when there is none."""
    import ctypes  # noqa: PLC0415  (a third of what an ADD imports, and few need it)

    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net", "rb") as own, open(netns, "rb") as there:
        if libc.setns(there.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), netns)
        try:
            yield
        finally:
            back = libc.setns(own.fileno(), CLONE_NEWNET)
            assert back == 0, os.strerror(ctypes.get_errno())


class Netlink:
    """A socket of the namespace that it is made in; every call raises OSError when it is refused."""

    def __init__(self):
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._sock.close()

    # what there is

    def link(self, name):
        """The interface `name` as {"index", "mac", "mtu", "up"}; None if there is none."""
        try:
            found = self._ask(RTM_GETLINK, 0, _LINK.pack(0, 0, 0, 0, 0), _text(IFLA_IFNAME, name))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        _, _, index, flags, _ = _LINK.unpack_from(found[0])
        attributes = _attributes(found[0][_LINK.size :])
        mtu = int.from_bytes(attributes[IFLA_MTU], "little")
        mac = attributes.get(IFLA_ADDRESS, b"").hex(":")
        return {"index": index, "mac": mac, "mtu": mtu, "up": bool(flags & IFF_UP)}

    def addresses(self, index):
        """Addresses of an interface, as ipaddress.ip_interface."""
        found = set()
        for message in self._ask(RTM_GETADDR, NLM_F_DUMP, _ADDRESS.pack(0, 0, 0, 0, 0)):
            _, bits, _, _, of = _ADDRESS.unpack_from(message)
            if of == index:
                attributes = _attributes(message[_ADDRESS.size :])
                address = ipaddress.ip_address(attributes.get(IFA_LOCAL) or attributes[IFA_ADDRESS])
                found.add(ipaddress.ip_interface((address, bits)))
        return found

    def routes(self, index):
        """Routes of the main table by an interface, as (ipaddress.ip_network, gateway or None)."""
        found = set()
        for message in self._ask(RTM_GETROUTE, NLM_F_DUMP, _ROUTE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0)):
            family, bits, _, _, table, *_ = _ROUTE.unpack_from(message)
            attributes = _attributes(message[_ROUTE.size :])
            if table != RT_TABLE_MAIN or int.from_bytes(attributes.get(RTA_OIF, b""), "little") != index:
                continue
            target = attributes.get(RTA_DST, bytes(4 if family == socket.AF_INET else 16))
            gateway = attributes.get(RTA_GATEWAY)
            network = ipaddress.ip_network((target, bits))
            found.add((network, ipaddress.ip_address(gateway) if gateway else None))
        return found

    # what is changed

    def add_veth(self, name, peer, netns, mtu, mac=None):
        """Make a pair: `name` here and `peer` in `netns`, both with `mtu`; the peer gets `mac` if given."""
        with open(netns, "rb") as there:
            far = _text(IFLA_IFNAME, peer) + _number(IFLA_MTU, mtu) + _number(IFLA_NET_NS_FD, there.fileno())
            if mac:
                far += _attribute(IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
            data = _nested(VETH_INFO_PEER, _LINK.pack(0, 0, 0, 0, 0) + far)
            info = _text(IFLA_INFO_KIND, "veth") + _nested(IFLA_INFO_DATA, data)
            near = _text(IFLA_IFNAME, name) + _number(IFLA_MTU, mtu) + _nested(IFLA_LINKINFO, info)
            self._ask(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, _LINK.pack(0, 0, 0, 0, 0), near)

    def set_up(self, index):
        """Set an interface up."""
        self._ask(RTM_NEWLINK, 0, _LINK.pack(0, 0, index, IFF_UP, IFF_UP))

    def delete(self, index):
        """Delete an interface, and the other end of a pair with it."""
        self._ask(RTM_DELLINK, 0, _LINK.pack(0, 0, index, 0, 0))

    def add_address(self, index, interface):
        """Give an interface an address."""
        flags = IFA_F_NODAD if interface.version == 6 else 0
        body = _ADDRESS.pack(_FAMILIES[interface.version], interface.network.prefixlen, flags, 0, index)
        address = interface.ip.packed
        attributes = _attribute(IFA_LOCAL, address) + _attribute(IFA_ADDRESS, address)
        self._ask(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body, attributes)

    def add_route(self, index, network, gateway):
        """Add a route by a gateway on an interface."""
        family = _FAMILIES[network.version]
        body = _ROUTE.pack(family, network.prefixlen, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, 0, RTN_UNICAST, 0)
        attributes = _attribute(RTA_DST, network.network_address.packed) + _number(RTA_OIF, index)
        attributes += _attribute(RTA_GATEWAY, gateway.packed)
        self._ask(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body, attributes)

    def _ask(self, kind, flags, body, attributes=b""):
        """Send one request; returns the bodies of the answers."""
        length = _HEADER.size + len(body) + len(attributes)
        flags |= NLM_F_REQUEST | (0 if flags & NLM_F_DUMP == NLM_F_DUMP else NLM_F_ACK)
        self._sock.send(_HEADER.pack(length, kind, flags, 1, 0) + body + attributes)
        found = []
        while True:
            data = self._sock.recv(_READ_BYTES)
            while data:
                size, answer, *_ = _HEADER.unpack_from(data)
                payload, data = data[_HEADER.size : size], data[_aligned(size) :]
                if answer == NLMSG_ERROR:
                    number = -int.from_bytes(payload[:4], "little", signed=True)
                    if number:
                        raise OSError(number, os.strerror(number))
                    return found
                if answer == NLMSG_DONE:
                    return found
                found.append(payload)


def _aligned(size):
    return (size + 3) & ~3


def _attribute(kind, payload):
    size = 4 + len(payload)
    return struct.pack("=HH", size, kind) + payload + bytes(_aligned(size) - size)


def _nested(kind, payload):
    return _attribute(kind | NLA_F_NESTED, payload)


def _text(kind, text):
    return _attribute(kind, text.encode() + b"\0")


def _number(kind, number):
    return _attribute(kind, struct.pack("=I", number))


def _attributes(data):
    """Attribute number -> payload."""
    found = {}
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        found[kind & ~NLA_F_NESTED] = data[4:size]
        data = data[_aligned(size) :]
    return found
