"""AF_XDP port, control half: the redirect program and the sockets of an interface that exists already.

Spec: Documentation/networking/af_xdp.rst.
Out:  `fds`: the sockets, then what both processes hold so that it lives as long as one of them: the UMEM's
      memory, the map, the link that keeps the program attached, the promiscuous membership if there is one.
Not:  the system calls (bpf.py, socket.py), the shared memory (umem.py).
"""

import errno
import os
import socket
import struct

from dpu_runtime.drivers.af_xdp import bpf
from dpu_runtime.drivers.af_xdp.layout import FRAME_BYTES, FRAME_ROOM, PACKET_FRAMES_MAX
from dpu_runtime.drivers.af_xdp.socket import (
    XDP_COPY,
    XDP_USE_SG,
    XDP_ZEROCOPY,
    BusyError,
    ask_busy_poll,
    bind,
    open_socket,
    ring_offsets,
)
from dpu_runtime.drivers.interface import InterfaceDriver
from dpu_runtime.drivers.linux.bpf import BpfError
from dpu_runtime.drivers.linux.netns import run_in_netns
from dpu_runtime.drivers.port import Capabilities, Kind, PortError

MODES = {  # of `xdp_mode`, in the order they are tried: (how the program is attached, how the queue is bound)
    "zerocopy": (bpf.XDP_FLAGS_DRV_MODE, XDP_ZEROCOPY),
    "copy": (bpf.XDP_FLAGS_DRV_MODE, XDP_COPY),
    "generic": (bpf.XDP_FLAGS_SKB_MODE, XDP_COPY),
}
FRAME_OVERHEAD = 14 + 8  # octets, Ethernet and two tags around layer 3
SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC = 263, 1, 1  # packet(7)


class AfXdpPort(InterfaceDriver):
    """One interface by AF_XDP; the interface stays when the port goes.

    umem  drivers/af_xdp/umem.py, the memory that all of them share
    """

    kind = Kind.AF_XDP

    def __init__(self, config, queues, umem):
        super().__init__(config, queues)
        self._umem = umem
        self._sockets = []
        self._held = []

    def close(self):
        """Close every socket and detach the program; the interface stays. Twice is allowed."""
        super().close()
        self._sockets, self._held = [], []
        self._umem.give(self.name)

    def adopt(self, fds, layout):
        """Take over what an earlier control process opened."""
        queues = layout["queues"]
        self._sockets, self._held = list(fds[:queues]), list(fds[queues:])
        self._umem.adopt(self.name, queues, self._held[0])
        super().adopt(fds, layout)

    def fits(self, link):
        """Whether packets of the interface's MTU fit, in a frame or in as many as Linux sends."""
        room = PACKET_FRAMES_MAX * FRAME_BYTES if self.layout["pieces"] else FRAME_ROOM
        return link.mtu + FRAME_OVERHEAD <= room

    def renew(self):
        """Make the sockets anew: which frames a dead data plane had, nobody knows. The program stays."""
        for fd in self._sockets:
            os.close(fd)
        self._sockets = []
        self._list_fds()
        try:
            run_in_netns(self.config.netns, lambda: self._bind_queues(self.layout["mode"]), port=self.name)
        except OSError as error:
            raise PortError(self.name, "bind", error.errno, error.strerror) from None

    def _open_queues(self):
        mtu = self.config.mtu or self.link.mtu
        if mtu + FRAME_OVERHEAD > PACKET_FRAMES_MAX * FRAME_BYTES:
            limit = PACKET_FRAMES_MAX * FRAME_BYTES - FRAME_OVERHEAD
            text = f"mtu {mtu} of interface {self.link.name!r}: AF_XDP takes {limit} at most"
            raise PortError(self.name, "link", errno.EMSGSIZE, text)
        if not self.link.up:
            text = f"interface {self.link.name!r} is down: AF_XDP binds to one that is up"
            raise PortError(self.name, "bind", errno.ENETDOWN, text)
        queues = min(self.queues, self.link.rx_queues)
        self.layout = {
            "queues": queues,
            "pieces": mtu + FRAME_OVERHEAD > FRAME_ROOM,
            "frames": self._umem.frames,
            "notes": [],
        }
        self._hold(self._umem.take(self.name, queues))
        run_in_netns(self.config.netns, self._open_inside, port=self.name)
        self.layout["notes"] += self._notes()
        self._state_capabilities()

    def _open_inside(self):
        """Load the program and enter the best mode there is, in the interface's namespace."""
        covered = self.layout["queues"] == self.link.rx_queues
        try:
            self._hold(bpf.make_map(self.link.rx_queues))
            # packets of a queue without a socket are the kernel's; while sockets are made anew, nobody's
            otherwise = bpf.XDP_DROP if covered else bpf.XDP_PASS
            program = bpf.load_program(self._held[1], otherwise, self.layout["pieces"])
        except BpfError as error:
            hint = "; an af_xdp port needs CAP_BPF and CAP_NET_ADMIN (run as root)"
            text = error.strerror + (hint if error.errno == errno.EPERM else "")
            raise PortError(self.name, "bpf", error.errno, text) from None
        try:
            self._enter_best_mode(program)
        finally:
            os.close(program)
        if self.config.promiscuous:
            self._hold(_promiscuous_membership(self.link.index))

    def _enter_best_mode(self, program):
        asked = self.config.xdp_mode
        refused = []
        attached = None
        for mode in MODES if asked == "auto" else (asked,):
            flags, _ = MODES[mode]
            try:
                if attached != flags:
                    if attached is not None:
                        os.close(self._held.pop())
                    attached = None
                    self._hold(self._attach(program, flags))
                    attached = flags
                self._bind_queues(mode)
            except OSError as error:
                refused.append(f"{mode} mode is refused: {error.strerror}")
                continue
            self.layout["mode"] = mode
            self.layout["notes"] += refused
            return
        text = f"interface {self.link.name!r}: " + ", ".join(refused)
        raise PortError(self.name, "bind", text=text)

    def _attach(self, program, flags):
        try:
            return bpf.attach(program, self.link.index, flags)
        except BpfError as error:
            if error.errno == errno.ENOSPC and self.link.type == "veth":
                text = "the veth has fewer receive queues than its peer has transmit queues"
                raise OSError(error.errno, text) from None
            if error.errno not in (errno.EBUSY, errno.EEXIST):
                raise
            text = f"somebody else's XDP program is attached to interface {self.link.name!r}"
            raise PortError(self.name, "BPF_LINK_CREATE", error.errno, text) from None

    def _bind_queues(self, mode):
        """Open the sockets of all queues in `mode` and send them packets. Raises OSError, nothing left."""
        flags = MODES[mode][1] | (XDP_USE_SG if self.layout["pieces"] else 0)
        opened = []
        try:
            for queue in range(self.layout["queues"]):
                sock = open_socket(self._held[0])
                opened.append(sock)
                bind(sock, self.link.index, queue, flags)
                self.layout["busy_poll"] = ask_busy_poll(sock) if self.config.busy_poll else "off"
            for queue, sock in enumerate(opened):
                bpf.put_socket(self._held[1], queue, sock.fileno())
        except OSError as error:
            for sock in opened:
                sock.close()
            if isinstance(error, BusyError):
                raise PortError(
                    self.name, "bind", error.errno, f"{error.args[1]} of {self.link.name!r}"
                ) from None
            raise
        self.layout["offsets"] = ring_offsets(opened[0])
        self._sockets = [sock.detach() for sock in opened]
        self._list_fds()

    def _hold(self, fd):
        self._held.append(fd)
        self._list_fds()

    def _list_fds(self):
        self.fds = [*self._sockets, *self._held]

    def _notes(self):
        """What a user should know of what was got."""
        link, queues = self.link, self.layout["queues"]
        if self.layout["mode"] == "generic":
            yield "generic mode: packets that the sender's TSO left whole do not fit and are lost"
        elif link.type == "veth":
            yield f"the native program turns TSO off at the peer of veth {link.name!r}"
        if queues < link.rx_queues:
            yield (
                f"{queues} of the interface's {link.rx_queues} receive queues come here, as many as there are"
                " workers; packets of the others go to the kernel"
            )
        if queues < self.queues:
            yield f"{link.rx_queues} receive queue(s): the other workers only send here"
        if self.layout["busy_poll"] not in (None, "off"):
            yield f"no busy polling: {self.layout['busy_poll']}"

    def _state_capabilities(self):
        self.capabilities = Capabilities(
            rx_owed=True,  # packets of a veth owe their checksums, and AF_XDP has no word for that
            queues=self.layout["queues"],
            copy=self.layout["mode"],
            notes=list(self.layout["notes"]),
        )


def _promiscuous_membership(ifindex):
    """A socket that keeps an interface promiscuous while it is open; no packet goes to it."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        request = struct.pack("=iHH8x", ifindex, PACKET_MR_PROMISC, 0)  # struct packet_mreq
        sock.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, request)
        return sock.detach()
