"""Ports of bench/limits.py with as little as can be around the kernel's work: a TAP, two kinds of socket.

Spec: Documentation/networking/tuntap.rst, packet_mmap.rst, af_xdp.rst.
Not:  offloads, a virtio-net header that says anything, other queues.
"""

import contextlib
import mmap
import os
import socket
import struct
import time

import numpy as np

from bench import limit_loops
from bench.peers.hosts import Assembled, Host
from bench.peers.wires import INTERFACE
from dpu_runtime.drivers.af_packet.if_packet import SOL_PACKET, TPACKET_V2, PacketOption, SocketOption
from dpu_runtime.drivers.af_packet.port import SEND_BUFFER_BYTES
from dpu_runtime.drivers.af_xdp.layout import FRAME_BYTES, RING_ENTRIES
from dpu_runtime.drivers.af_xdp.socket import (
    ENTRY_BYTES,
    XDP_COPY,
    XDP_RING_PAGE,
    bind,
    open_socket,
    ring_offsets,
)
from dpu_runtime.drivers.af_xdp.umem import map_memory, unmap_memory
from dpu_runtime.drivers.linux.netns import run_in_netns
from dpu_runtime.drivers.tap.port import VNET_HDR_BYTES, TapPort

US = 1e6
BURST = 64  # frames of one call
BURSTS_PER_MS = 5
TAP_MTU_MAX = 65521  # octets, drivers/net/tun.c: 65535 less an Ethernet header
TAP_QUEUE_OCTETS_MAX = 8 << 20
TAP_QUEUE_FRAMES = 250  # of the 1000 that a TAP keeps
SLOT_BYTES = 2048
SLOT_HEADER_BYTES = 32  # TPACKET_ALIGN(sizeof(struct tpacket2_hdr)), where the frame begins
ETHERTYPE = 0x88B5  # for experiments: whoever gets it has no use for it, IEEE 802, 9.2.4


def _frame(octets):
    """A frame to an address that nobody has."""
    return bytes.fromhex("020000000302020000000301") + struct.pack(">H", ETHERTYPE) + bytes(octets - 14)


def _packet_socket(netns):
    """A packet socket on the interface, past the queueing discipline; without room nothing is sent."""

    def inside():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.setsockopt(SOL_PACKET, PacketOption.PACKET_QDISC_BYPASS, 1)
        sock.setsockopt(socket.SOL_SOCKET, SocketOption.SO_SNDBUFFORCE, SEND_BUFFER_BYTES)
        return sock

    sock = run_in_netns(netns, inside)
    sock.bind((INTERFACE, 0))
    return sock


class Tap(Assembled):
    """A TAP whose host sends what is to be read, while no time is taken, and drops what is written."""

    def __init__(self):
        with contextlib.ExitStack() as made:
            host = made.enter_context(Host())
            self._port = TapPort("limit", INTERFACE, netns=f"pid:{host.pid}")
            made.callback(self._port.close)
            self._fd = self._port.open()[0]
            host.run("ip", "link", "set", INTERFACE, "mtu", TAP_MTU_MAX, "up")
            self._sender = made.enter_context(_packet_socket(f"pid:{host.pid}"))
            self._made = made.pop_all()

    def frame_us(self, octets, ms):
        """Time to read a frame and to write it, a call each, with `ms` of both."""
        memory, frame = np.zeros(VNET_HDR_BYTES + octets, np.uint8), _frame(octets)
        at_once = min(TAP_QUEUE_FRAMES, TAP_QUEUE_OCTETS_MAX // octets)
        frames, spent = 0, 0.0
        while spent < ms / 1e3:
            for _ in range(at_once):
                self._sender.send(frame)
            began = time.perf_counter()
            done = limit_loops.read_write_loop(self._fd, memory, at_once)
            spent += time.perf_counter() - began
            assert done == at_once, f"{done} of {at_once} frames of {octets} octets were read and written"
            frames += at_once
        return spent * US / frames


class _Socket(Assembled):
    """What PacketRing and XdpRing share: a count of bursts, and time."""

    def frame_us(self, octets, ms):
        """Time of a frame in bursts of one call each, until the kernel has given its memory back."""
        bursts = max(ms * BURSTS_PER_MS, 1)
        self._prepare(_frame(octets))
        began = time.perf_counter()
        done = self._send(octets, bursts)
        spent = time.perf_counter() - began
        assert done == bursts * BURST, f"{done} of {bursts * BURST} frames of {octets} octets were sent"
        return spent * US / done


class PacketRing(_Socket):
    """Transmit ring of a packet socket on the interface of the namespace of process `pid`."""

    def __init__(self, pid):
        with contextlib.ExitStack() as made:
            self._sock = made.enter_context(_packet_socket(f"pid:{pid}"))
            self._sock.setsockopt(SOL_PACKET, PacketOption.PACKET_VERSION, TPACKET_V2)
            # struct tpacket_req: octets of a block, blocks, octets of a slot, slots
            ring = struct.pack("=4I", mmap.PAGESIZE, BURST * SLOT_BYTES // mmap.PAGESIZE, SLOT_BYTES, BURST)
            self._sock.setsockopt(SOL_PACKET, PacketOption.PACKET_TX_RING, ring)
            self._memory = made.enter_context(mmap.mmap(self._sock.fileno(), BURST * SLOT_BYTES))
            self._made = made.pop_all()

    def _prepare(self, frame):
        for start in range(SLOT_HEADER_BYTES, BURST * SLOT_BYTES, SLOT_BYTES):
            self._memory[start : start + len(frame)] = frame

    def _send(self, octets, bursts):
        memory = np.frombuffer(self._memory, np.uint8)
        ring = np.uint64(memory.ctypes.data)
        sizes = BURST, np.uint64(SLOT_BYTES), np.uint64(octets)
        return limit_loops.packet_ring_loop(self._sock.fileno(), ring, *sizes, bursts)


class XdpRing(_Socket):
    """Transmit ring of an AF_XDP socket, in copy mode, on the interface of the namespace of process `pid`."""

    def __init__(self, pid):
        with contextlib.ExitStack() as made:
            fd = os.memfd_create("dpu-bench-umem", os.MFD_CLOEXEC)
            made.callback(os.close, fd)
            os.ftruncate(fd, BURST * FRAME_BYTES)

            def inside():
                return open_socket(fd), socket.if_nametoindex(INTERFACE)

            self._sock, ifindex = run_in_netns(f"pid:{pid}", inside)
            made.enter_context(self._sock)
            self._umem = self._map(made, fd, BURST * FRAME_BYTES)
            offsets = ring_offsets(self._sock)
            self._ring = np.zeros(6, np.uint64)
            for first, ring, parts in (
                (0, "tx", ("producer", "entries")),
                (2, "completion", ("producer", "consumer", "entries")),
            ):
                size = offsets[ring]["entries"] + RING_ENTRIES * ENTRY_BYTES[ring]
                address = self._map(made, self._sock.fileno(), size, XDP_RING_PAGE[ring])
                self._ring[first : first + len(parts)] = [address + offsets[ring][part] for part in parts]
            self._ring[5] = RING_ENTRIES - 1
            bind(self._sock, ifindex, 0, XDP_COPY)
            self._made = made.pop_all()

    @staticmethod
    def _map(made, fd, size, offset=0):
        address = map_memory(fd, size, offset)
        made.callback(unmap_memory, address, size)
        return address

    def _prepare(self, frame):
        for start in range(0, BURST * FRAME_BYTES, FRAME_BYTES):
            limit_loops.put(np.uint64(self._umem + start), np.frombuffer(frame, np.uint8))

    def _send(self, octets, bursts):
        sizes = BURST, np.uint64(FRAME_BYTES), np.uint64(octets)
        return limit_loops.xdp_ring_loop(self._sock.fileno(), self._ring, *sizes, bursts)
