"""AF_PACKET port, control half: open the sockets of an interface that exists already.

Source: packet(7), Documentation/networking/packet_mmap.rst.
Not:    the rings' memory, which the data plane maps (mapping.py).
"""

import contextlib
import ctypes
import functools
import os
import re
import socket
import struct

from drivers.af_packet.if_packet import (
    ETH_P_ALL,
    PACKET_FANOUT_FLAG_IGNORE_OUTGOING,
    PACKET_FANOUT_FLAG_UNIQUEID,
    PACKET_FANOUT_HASH,
    PACKET_MR_PROMISC,
    SOL_PACKET,
    TPACKET_V3,
    PacketOption,
)
from drivers.interface import InterfaceDriver
from drivers.netns import run_in_netns
from drivers.port import Capabilities, Kind, PortError

BLOCK_BYTES = 256 << 10  # a block takes three GSO frames of 64 KB
BLOCKS = 32
RETIRE_MS = 1  # a block that is not full is handed over after this; the least there is
SLOT_BYTES = 2 << 10
SLOTS = 512
SEND_BUFFER_BYTES = 8 << 20  # octets under way, with the kernel's own per packet
SO_SNDBUFFORCE = 32  # asm-generic/socket.h
SO_ATTACH_FILTER = 26
SO_DETACH_FILTER = 27
BPF_RET = 0x06  # linux/bpf_common.h: return a constant, how much of a packet to keep
USO_LINUX = (6, 2)  # first version whose virtio-net header has VIRTIO_NET_HDR_GSO_UDP_L4

LAYOUT = {"block_bytes": BLOCK_BYTES, "blocks": BLOCKS, "slot_bytes": SLOT_BYTES, "slots": SLOTS}


class AfPacketPort(InterfaceDriver):
    """One interface by AF_PACKET; the interface stays when the port goes.

    fds   a socket with rings a queue, then a plain one a queue, for frames that no slot of the ring holds
    """

    kind = Kind.AF_PACKET

    def _open_queues(self):
        self.fds = run_in_netns(self.config.netns, self._open_sockets, port=self.name)
        self.layout = {"queues": self.queues, **LAYOUT}
        self._state_capabilities()

    def _open_sockets(self):
        """Open every socket, inside the namespace; returns their descriptors."""
        with contextlib.ExitStack() as stack:
            rings = [stack.enter_context(self._socket()) for _ in range(self.queues)]
            plain = [stack.enter_context(self._socket()) for _ in range(self.queues)]
            for sock in rings:
                self._make_rings(sock)
            if self.config.promiscuous:
                mreq = struct.pack("iHH8x", self.link.index, PACKET_MR_PROMISC, 0)
                self._set(rings[0], PacketOption.PACKET_ADD_MEMBERSHIP, mreq)
            for sock in plain:
                self._bind(sock, 0)
            self._bind_rings(rings)
            return [sock.detach() for sock in (*rings, *plain)]

    def _socket(self):
        """A socket that can send, and receives nothing yet."""
        try:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        except OSError as error:
            text = f"{os.strerror(error.errno)}; an af_packet port needs CAP_NET_RAW (run as root)"
            raise PortError(self.name, "socket AF_PACKET", error.errno, text) from None
        try:
            self._set(sock, PacketOption.PACKET_VNET_HDR, 1)
            if not self.config.qdisc:
                self._set(sock, PacketOption.PACKET_QDISC_BYPASS, 1)
            self._call(
                "SO_SNDBUFFORCE", sock.setsockopt, socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER_BYTES
            )
        except PortError:
            sock.close()
            raise
        return sock

    def _make_rings(self, sock):
        self._set(sock, PacketOption.PACKET_VERSION, TPACKET_V3)
        self._set(sock, PacketOption.PACKET_IGNORE_OUTGOING, 1)
        # struct tpacket_req3: block size and number, frame size and number, timeout, private area, features.
        # In a receive ring the frame size only has to divide the block; in a transmit ring it is a slot's.
        blocks = (BLOCK_BYTES, BLOCKS, SLOT_BYTES, BLOCKS * (BLOCK_BYTES // SLOT_BYTES))
        self._set(sock, PacketOption.PACKET_RX_RING, struct.pack("7I", *blocks, RETIRE_MS, 0, 0))
        slots = (BLOCK_BYTES, SLOTS * SLOT_BYTES // BLOCK_BYTES, SLOT_BYTES, SLOTS)
        self._set(sock, PacketOption.PACKET_TX_RING, struct.pack("7I", *slots, 0, 0, 0))

    def _bind_rings(self, rings):
        """Let packets in, each to one queue.

        A socket that is bound but not yet one of several would get them all: until then a filter keeps
        them out.
        """
        instruction = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RET, 0, 0, 0))
        program = struct.pack("HP", 1, ctypes.addressof(instruction))  # struct sock_fprog
        for sock in rings:
            self._call("SO_ATTACH_FILTER", sock.setsockopt, socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
            self._bind(sock, ETH_P_ALL)
        if len(rings) > 1:
            self._join(rings)
        for sock in rings:
            self._call("SO_DETACH_FILTER", sock.setsockopt, socket.SOL_SOCKET, SO_DETACH_FILTER, 0)

    def _join(self, rings):
        """Have each flow's packets go to one of the sockets."""
        how = PACKET_FANOUT_HASH | PACKET_FANOUT_FLAG_IGNORE_OUTGOING
        self._set(rings[0], PacketOption.PACKET_FANOUT, (how | PACKET_FANOUT_FLAG_UNIQUEID) << 16)
        group = rings[0].getsockopt(SOL_PACKET, PacketOption.PACKET_FANOUT) & 0xFFFF
        for sock in rings[1:]:
            self._set(sock, PacketOption.PACKET_FANOUT, how << 16 | group)

    def _bind(self, sock, protocol):
        self._call("bind", sock.bind, (self.link.name, protocol))

    def _set(self, sock, option, value):
        self._call(option.name, sock.setsockopt, SOL_PACKET, option, value)

    def _call(self, name, call, *args):
        """Make a call, or say which one was refused."""
        try:
            call(*args)
        except OSError as error:
            text = f"interface {self.link.name!r}: {os.strerror(error.errno)}"
            raise PortError(self.name, name, error.errno, text) from None

    def _state_capabilities(self):
        got = Capabilities(queues=self.layout["queues"])
        self.capabilities = got
        got.notes.append(
            f"packets come in blocks, each when it is full or after {RETIRE_MS} ms: so much later a lone one"
        )
        if not self.config.offload:
            got.notes.append(
                "offloads are off: the configuration says offload = false; what the other side sends merged"
                " or with its checksum owed is still taken"
            )
            return
        got.tx_csum = got.tso4 = got.tso6 = got.ecn = got.gro = True
        got.uso = _takes_uso()
        if not got.uso:
            got.notes.append("no USO: this kernel is older than Linux 6.2; large UDP is cut in software")


@functools.cache
def _takes_uso():
    return tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= USO_LINUX
