"""AF_PACKET port, control half: open the sockets of an interface that exists already.

Source: packet(7), Documentation/networking/packet_mmap.rst.
Not:    the rings' memory, which the data plane maps (mapping.py).
"""

import contextlib
import functools
import os
import re
import socket
import struct

from dpu_runtime.drivers.af_packet.filter import NothingFilter, load_slot_filter
from dpu_runtime.drivers.af_packet.if_packet import (
    ETH_P_ALL,
    PACKET_FANOUT_FLAG_IGNORE_OUTGOING,
    PACKET_FANOUT_FLAG_UNIQUEID,
    PACKET_FANOUT_HASH,
    PACKET_MR_PROMISC,
    SOL_PACKET,
    TPACKET_V2,
    TPACKET_V3,
    PacketOption,
    SocketOption,
)
from dpu_runtime.drivers.interface import InterfaceDriver
from dpu_runtime.drivers.linux.bpf import BpfError
from dpu_runtime.drivers.linux.netns import run_in_netns
from dpu_runtime.drivers.port import Capabilities, Kind, PortError

BLOCK_BYTES = 256 << 10  # a block takes three GSO frames of 64 KB
BLOCKS = 32
RETIRE_MS = 1  # a block that is not full is handed over after this; the least there is
SLOT_BYTES = 2 << 10
RX_SLOTS = 4096  # 8 ms at 0.5 Mpps
TX_SLOTS = 512
SEND_BUFFER_BYTES = 8 << 20  # octets under way, with the kernel's own per packet
RECEIVE_BUFFER_BYTES = 8 << 20  # octets of packets that no slot holds; Linux doubles it
USO_LINUX = (6, 2)  # first version whose virtio-net header has VIRTIO_NET_HDR_GSO_UDP_L4

# a slot's header, addresses and virtio-net header come first (net/packet/af_packet.c, tpacket_rcv)
SLOT_FRAME_BYTES = SLOT_BYTES - 76

# What the data plane must know of the rings, besides how many queues there are
TX_LAYOUT = {"tx_slots": TX_SLOTS, "tx_slot_bytes": SLOT_BYTES}
IN_BLOCKS = {"rx_version": TPACKET_V3, "rx_units": BLOCKS, "rx_unit_bytes": BLOCK_BYTES, **TX_LAYOUT}
IN_SLOTS = {"rx_version": TPACKET_V2, "rx_units": RX_SLOTS, "rx_unit_bytes": SLOT_BYTES, **TX_LAYOUT}


class AfPacketPort(InterfaceDriver):
    """One interface by AF_PACKET; the interface stays when the port goes.

    fds   a socket with a receive ring a queue, then one with a transmit ring a queue
    """

    kind = Kind.AF_PACKET

    def _open_queues(self):
        program, note = self._choose_ring()
        ring = IN_BLOCKS if program is None else IN_SLOTS
        self.layout = {"queues": self.queues, "ring_note": note, **ring}
        try:
            self.fds = run_in_netns(self.config.netns, lambda: self._open_sockets(program), port=self.name)
        finally:
            if program is not None:
                os.close(program)
        self._state_capabilities()

    def _choose_ring(self):
        """Choose the form of the receive rings: (filter that slots need, what to say), None for blocks."""
        note = (
            "packets come in blocks (TPACKET_V3), some milliseconds late: when one is full or after"
            f" {RETIRE_MS} ms"
        )
        if self.config.blocks:
            return None, note
        if not _knows_uso():
            return None, f"{note}; slots need Linux 6.2"
        try:
            program = load_slot_filter()
        except BpfError as error:
            return None, f"{note}; slots need a filter, and bpf says: {error.strerror}"
        return program, (
            f"each packet comes at once, in a slot (TPACKET_V2); one of more than {SLOT_FRAME_BYTES} octets"
            " costs a system call"
        )

    def _open_sockets(self, program):
        """Open every socket, inside the namespace; returns their descriptors."""
        with contextlib.ExitStack() as stack:
            receivers = [stack.enter_context(self._socket()) for _ in range(self.queues)]
            senders = [stack.enter_context(self._socket()) for _ in range(self.queues)]
            for sock in receivers:
                self._make_receive_ring(sock, program)
            if self.config.promiscuous:
                mreq = struct.pack("iHH8x", self.link.index, PACKET_MR_PROMISC, 0)
                self._set(receivers[0], PacketOption.PACKET_ADD_MEMBERSHIP, mreq)
            for sock in senders:
                self._make_transmit_ring(sock)
                self._bind(sock, 0)
            self._bind_receivers(receivers, program)
            return [sock.detach() for sock in (*receivers, *senders)]

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
            self._set_socket(sock, SocketOption.SO_SNDBUFFORCE, SEND_BUFFER_BYTES)
        except PortError:
            sock.close()
            raise
        return sock

    def _make_receive_ring(self, sock, program):
        self._set(sock, PacketOption.PACKET_IGNORE_OUTGOING, 1)
        if program is not None:
            self._set(sock, PacketOption.PACKET_VERSION, TPACKET_V2)
            self._set(sock, PacketOption.PACKET_COPY_THRESH, 1)
            self._set_socket(sock, SocketOption.SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
            self._set(sock, PacketOption.PACKET_RX_RING, struct.pack("4I", *_frames(RX_SLOTS)))
            return
        self._set(sock, PacketOption.PACKET_VERSION, TPACKET_V3)
        # The frame size is of no consequence here: it has to divide the block.
        frames = _frames(BLOCKS * BLOCK_BYTES // SLOT_BYTES)
        self._set(sock, PacketOption.PACKET_RX_RING, struct.pack("7I", *frames, RETIRE_MS, 0, 0))

    def _make_transmit_ring(self, sock):
        self._set(sock, PacketOption.PACKET_VERSION, TPACKET_V3)
        self._set(sock, PacketOption.PACKET_TX_RING, struct.pack("7I", *_frames(TX_SLOTS), 0, 0, 0))

    def _bind_receivers(self, receivers, program):
        """Let packets in, each to one queue.

        A socket that is bound but not yet one of several would get them all: until then a filter keeps
        them out.
        """
        nothing = NothingFilter()
        for sock in receivers:
            self._set_socket(sock, SocketOption.SO_ATTACH_FILTER, nothing.program)
            self._bind(sock, ETH_P_ALL)
        if len(receivers) > 1:
            self._join(receivers)
        for sock in receivers:
            if program is None:
                self._set_socket(sock, SocketOption.SO_DETACH_FILTER, 0)
            else:
                self._set_socket(sock, SocketOption.SO_ATTACH_BPF, program)

    def _join(self, receivers):
        """Have each flow's packets go to one of the sockets."""
        how = PACKET_FANOUT_HASH | PACKET_FANOUT_FLAG_IGNORE_OUTGOING
        self._set(receivers[0], PacketOption.PACKET_FANOUT, (how | PACKET_FANOUT_FLAG_UNIQUEID) << 16)
        group = receivers[0].getsockopt(SOL_PACKET, PacketOption.PACKET_FANOUT) & 0xFFFF
        for sock in receivers[1:]:
            self._set(sock, PacketOption.PACKET_FANOUT, how << 16 | group)

    def _bind(self, sock, protocol):
        self._call("bind", sock.bind, (self.link.name, protocol))

    def _set(self, sock, option, value):
        self._call(option.name, sock.setsockopt, SOL_PACKET, option, value)

    def _set_socket(self, sock, option, value):
        self._call(option.name, sock.setsockopt, socket.SOL_SOCKET, option, value)

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
        got.notes.append(self.layout["ring_note"])
        if not self.config.offload:
            got.notes.append(
                "offloads are off: the configuration says offload = false; what the other side sends merged"
                " or with its checksum owed is still taken"
            )
            return
        got.tx_csum = got.tso4 = got.tso6 = got.ecn = got.gro = True
        got.uso = _knows_uso()
        if not got.uso:
            got.notes.append("no USO: this kernel is older than Linux 6.2; large UDP is cut in software")


def _frames(count):
    """Block size and number, frame size and number: struct tpacket_req, or the front of tpacket_req3."""
    return BLOCK_BYTES, count * SLOT_BYTES // BLOCK_BYTES, SLOT_BYTES, count


@functools.cache
def _knows_uso():
    return tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= USO_LINUX
