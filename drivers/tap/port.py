"""TAP port, control half: make the interface and say what it can do.

Source: linux/if_tun.h, Documentation/networking/tuntap.rst.
Not:    addresses, routes, MTU and link state; `dpu_runtime/device/wiring.py` sets those.
"""

import errno
import fcntl
import functools
import os
import socket
import struct
import threading

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from dpu_runtime.drivers.linux.netns import open_netns, run_in_netns, run_in_new_netns
from dpu_runtime.drivers.port import Capabilities, Kind, PortError

TUN_DEVICE = "/dev/net/tun"
TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
TUNGETIFF = 0x800454D2
TUNGETDEVNETNS = 0x54E3  # _IO('T', 227), returns a descriptor
TUNSETVNETHDRSZ = 0x400454D8
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
IFF_MULTI_QUEUE = 0x0100
TUN_F_CSUM = 0x01
TUN_F_TSO4 = 0x02
TUN_F_TSO6 = 0x04
TUN_F_TSO_ECN = 0x08
TUN_F_USO4 = 0x20
TUN_F_USO6 = 0x40  # Linux >= 6.2, and only together with USO4
VNET_HDR_BYTES = 12  # virtio_net_hdr_mrg_rxbuf, virtio 1.2 5.1.6

# One interface at a time is in the namespace they are made in: names may be the same.
_making = threading.Lock()


def check_tun_device():
    """Raise PortError where this process cannot make TAP interfaces at all."""
    try:
        os.close(os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        text = f"{os.strerror(error.errno)}; the daemon needs the kernel's tun device, and root"
        raise PortError("", f"open {TUN_DEVICE}", error.errno, text) from None


@functools.cache
def _own_netns():
    """Descriptor of the namespace that interfaces are made in; one for all, it takes memory and time."""
    return run_in_new_netns(lambda: open_netns(None))


class TapPort:
    """One TAP interface, made in its network namespace; gone when the last descriptor is closed."""

    kind = Kind.TAP

    def __init__(self, name, ifname, netns=None, queues=1, offload=True):
        self.name = name
        self.ifname = ifname
        self.netns = netns
        self.queues = queues
        self.offload = offload
        self.capabilities = Capabilities()
        self.fds = []
        self.layout = {}

    def open(self):
        """Make the interface; returns one non-blocking descriptor a queue.

        Raises PortError: no /dev/net/tun, no right, no such namespace, name taken.
        """
        try:
            self._open_queues()
            self._negotiate_offload()
        except BaseException:
            self.close()
            raise
        return self.fds

    def adopt(self, fds, _layout):
        """Take over the descriptors of an interface that exists, or did: its container may have ended."""
        self.fds = list(fds)
        try:
            self._negotiate_offload()
        except PortError as error:
            if error.errno_ != errno.EBADFD:
                raise
            self.capabilities.notes.append("its interface was gone when the port was adopted")

    def close(self):
        """Close every queue; the interface goes with the last of them, here and in the data plane."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def relocate(self, netns, ifname):
        """Take `netns` and `ifname` as the interface's place: somebody else moved it there.

        Raises PortError, nothing changed, when it is elsewhere or gone.
        """
        request = bytearray(struct.pack("40x"))
        self._ioctl(self.fds[0], TUNGETIFF, "TUNGETIFF", request)
        there = os.fsdecode(bytes(request[:16]).partition(b"\0")[0])
        if there != ifname:
            raise PortError(self.name, "relocate", text=f"its interface is {there!r}, not {ifname!r}")
        fds = [self._ioctl(self.fds[0], TUNGETDEVNETNS, "TUNGETDEVNETNS")]
        try:
            fds.append(open_netns(netns, port=self.name))
            if not os.path.samestat(*map(os.fstat, fds)):
                text = f"its interface {ifname!r} is not in netns {netns or 'of the host'!r}"
                raise PortError(self.name, "relocate", text=text)
        finally:
            for fd in fds:
                os.close(fd)
        self.netns, self.ifname = netns, ifname

    def _open_queues(self):
        """Make the interface in its namespace.

        A descriptor of /dev/net/tun keeps the namespace alive that it was opened in. So that a container's
        may end, and its interface with it, the interface is made in one of our own and moved.
        """
        if self.ifname in (name for _, name in run_in_netns(self.netns, socket.if_nameindex, port=self.name)):
            self._name_taken()
        if self.netns is None:
            self._make_interface()
            return
        target = open_netns(self.netns, port=self.name)
        try:
            with _making:
                where = f"/proc/self/fd/{_own_netns()}"
                run_in_netns(where, lambda: self._make_and_move(target), port=self.name)
        finally:
            os.close(target)

    def _name_taken(self):
        text = f"interface {self.ifname!r} exists already in netns {self.netns or 'of the host'!r}"
        raise PortError(self.name, "TUNSETIFF", errno.EEXIST, text)

    def _make_and_move(self, target):
        self._make_interface()
        try:
            with IPRoute() as ipr:
                ipr.link("set", index=socket.if_nametoindex(self.ifname), net_ns_fd=target)
        except NetlinkError as error:
            if error.code == errno.EEXIST:
                self._name_taken()
            text = f"interface {self.ifname!r}: {os.strerror(error.code)}"
            raise PortError(self.name, f"move to netns {self.netns!r}", error.code, text) from None

    def _make_interface(self):
        # For IFF_MULTI_QUEUE Linux prepares 256 queues, whatever is used of them: 8 MB, and 40 ms.
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (IFF_MULTI_QUEUE if self.queues > 1 else 0)
        for _ in range(self.queues):
            try:
                fd = os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                text = f"{os.strerror(error.errno)}; a tap port needs {TUN_DEVICE} and CAP_NET_ADMIN"
                raise PortError(self.name, f"open {TUN_DEVICE}", error.errno, text) from None
            self.fds.append(fd)
            self._ioctl(fd, TUNSETIFF, "TUNSETIFF", struct.pack("16sH22x", self.ifname.encode(), flags))
            self._ioctl(fd, TUNSETVNETHDRSZ, "TUNSETVNETHDRSZ", struct.pack("i", VNET_HDR_BYTES))

    def _ioctl(self, fd, request, call, argument=0):
        try:
            return fcntl.ioctl(fd, request, argument)
        except OSError as error:
            hint = "; a tap port needs CAP_NET_ADMIN (run as root)" if error.errno == errno.EPERM else ""
            text = f"interface {self.ifname!r}: {os.strerror(error.errno)}{hint}"
            raise PortError(self.name, call, error.errno, text) from None

    def _negotiate_offload(self):
        """Ask for the most the kernel gives; say what is missing."""
        got = Capabilities(queues=len(self.fds), gro=True)
        self.capabilities = got
        if not self.offload:
            self._ioctl(self.fds[0], TUNSETOFFLOAD, "TUNSETOFFLOAD", 0)
            got.gro = False
            got.notes.append("offloads are off: the configuration says offload = false")
            return
        tso = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN
        try:
            fcntl.ioctl(self.fds[0], TUNSETOFFLOAD, tso | TUN_F_USO4 | TUN_F_USO6)
            got.uso = True
        except OSError:
            got.notes.append("no USO: this kernel is older than Linux 6.2; large UDP is cut in software")
            self._ioctl(self.fds[0], TUNSETOFFLOAD, "TUNSETOFFLOAD", tso)
        got.tx_csum = got.tso4 = got.tso6 = got.ecn = True
