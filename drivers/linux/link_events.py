"""What happens to the interfaces of a network namespace, told as it happens.

Source: rtnetlink(7), netlink(7): multicast group RTNLGRP_LINK; struct nlmsghdr, ifinfomsg, rtattr.
Not:    what the interfaces are now; link.py looks. A message only says where to look, so one that
        is lost, late or the third of its kind does no harm.
"""

import os
import socket
import struct

from dpu_runtime.drivers.linux.netns import netns_path, run_in_netns, socket_netns

RTMGRP_LINK = 1  # linux/rtnetlink.h
RTM_NEWLINK, RTM_DELLINK = 16, 17
IFLA_IFNAME = 3  # linux/if_link.h
NLMSGHDR = struct.Struct("=IHHII")  # length, type, flags, sequence, port
IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, change
RTATTR = struct.Struct("=HH")  # length, type
READ_BYTES = 1 << 16


class LinkEvents:
    """A socket in namespace `netns` that hears of every change there; readable when there is one.

    namespace  (device, inode) of the namespace, which goes on existing as long as this socket does
    """

    def __init__(self, netns):
        """Raises PortError when the namespace cannot be entered, OSError when there is no socket."""
        self.netns = netns
        self.sock, self.namespace = run_in_netns(netns, self._open)

    @staticmethod
    def _open():
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        sock = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        sock.bind((0, RTMGRP_LINK))
        return sock, _identity("/proc/thread-self/ns/net")

    def fileno(self):
        """Descriptor to wait on."""
        return self.sock.fileno()

    def close(self):
        """Hear no more, and hold the namespace no longer; twice is allowed."""
        self.sock.close()

    def is_current(self):
        """Whether `netns` still leads to the namespace this socket is in."""
        return self.netns is None or namespace_now(self.netns) == self.namespace

    def read(self):
        """Interfaces that something happened to: ({index}, {name}); None: messages were lost, so any."""
        indices, names = set(), set()
        try:
            while data := self.sock.recv(READ_BYTES):
                for index, name in parse(data):
                    indices.add(index)
                    names.add(name)
        except BlockingIOError:
            return indices, names
        except OSError:  # ENOBUFS: more happened than the socket holds
            return None
        return indices, names


def parse(data):
    """(index, name) of each link message in what a netlink socket gave."""
    at = 0
    while at + NLMSGHDR.size + IFINFOMSG.size <= len(data):
        length, kind, *_ = NLMSGHDR.unpack_from(data, at)
        if length < NLMSGHDR.size:
            return
        if kind in (RTM_NEWLINK, RTM_DELLINK):
            body = at + NLMSGHDR.size
            _, _, index, _, _ = IFINFOMSG.unpack_from(data, body)
            yield index, _name(data[body + IFINFOMSG.size : at + length])
        at += -(-length // 4) * 4


def _name(attributes):
    at = 0
    while at + RTATTR.size <= len(attributes):
        length, kind = RTATTR.unpack_from(attributes, at)
        if kind == IFLA_IFNAME:
            return attributes[at + RTATTR.size : at + length].rstrip(b"\0").decode(errors="replace")
        at += max(-(-length // 4) * 4, RTATTR.size)
    return ""


def namespace_now(netns):
    """(device, inode) of the namespace that `netns` leads to now, None when there is none."""
    try:
        return _identity(netns_path(netns))
    except OSError:
        return None


def namespace_of(fd):
    """(device, inode) of the namespace that socket `fd` is in."""
    with socket_netns(fd) as path:
        return _identity(path)


def _identity(path):
    found = os.stat(path)
    return found.st_dev, found.st_ino
