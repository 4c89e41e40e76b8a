"""Ports of the generator: kernel interfaces by this project's own drivers, without a daemon.

Out: `exchange`, the loop of loop.py with its ports.
Not: libdpu (host_ports.py), how the kernel's rings work (drivers/).
"""

import contextlib
import functools
import os

import numpy as np

from bench.generator.layout import FRAME_AT
from bench.generator.loop import exchange, own_memory, send_one
from dpu_runtime.config import models as config
from dpu_runtime.drivers.af_packet.port import AfPacketPort
from dpu_runtime.drivers.af_xdp.layout import BURST_FRAMES, QUEUE_FRAMES
from dpu_runtime.drivers.af_xdp.port import AfXdpPort
from dpu_runtime.drivers.af_xdp.umem import Umem
from dpu_runtime.drivers.io import make_io
from dpu_runtime.drivers.load import load_drivers
from dpu_runtime.drivers.mapping import map_queues
from dpu_runtime.drivers.port import Kind, PortCounter
from dpu_runtime.kernels.burst import make_burst
from dpu_runtime.kernels.compile.reference import Lent

AF_PACKET, AF_XDP = "af_packet", "af_xdp"
TX, RX, NO_PORT = 0, 1, -1  # numbers of the ports
PORT_NAMES = ("tx", "rx")  # in errors


class Memory:
    """What a data plane's worker has, for the drivers: one in a process."""

    def __init__(self):
        self.shared = own_memory()
        self.io = make_io(0, 1, self.shared)
        self.lent = Lent(self.io)

    def load(self, kind):
        """Load or compile a driver."""
        if self.io.states[kind] == 0:
            load_drivers(self.io, Lent(make_burst(0, self.shared)), self.shared, [kind])


@functools.cache
def memory():
    """The Memory of this process."""
    return Memory()


class KernelPorts:
    """The interface to send on and, if any, the one to receive on.

    transport    AF_PACKET or AF_XDP
    tx, rx       (network namespace as netns_path has it or None, interface's name); rx None: only send
    Raises PortError, nothing left.
    """

    def __init__(self, transport, tx, rx):
        self.kind = {AF_PACKET: Kind.AF_PACKET, AF_XDP: Kind.AF_XDP}[transport]
        self.name = tx[1]
        self.memory = memory()
        self.memory.load(self.kind)
        self.rx_port = NO_PORT if rx is None else TX if rx == tx else RX
        self.only_sends = rx is None
        self.notes = []
        self._umem = Umem(2 * QUEUE_FRAMES + BURST_FRAMES, 1)
        with contextlib.ExitStack() as made:
            for number, end in ((TX, tx), (RX, rx)):
                if end is not None and number in (TX, self.rx_port):
                    self._open(made, number, *end)
            self._made = made.pop_all()

    def _open(self, made, number, netns, ifname):
        settings = {"name": PORT_NAMES[number], "netns": netns, "ifname": ifname}
        settings["promiscuous"] = number == self.rx_port
        if self.kind == Kind.AF_XDP:
            port = AfXdpPort(config.AfXdpPort(kind=AF_XDP, busy_poll=False, **settings), 1, self._umem)
        else:
            port = AfPacketPort(config.AfPacketPort(kind=AF_PACKET, **settings), 1)
        port.open()
        made.callback(port.close)
        fds = [os.dup(fd) for fd in port.fds]
        rings = map_queues(self.kind, number, self.memory.shared, fds, port.layout)
        made.callback(rings.close)
        io = self.memory.io
        io.fds[number], io.queue[number], io.watched[number] = rings.queue_fds[0], 0, 0
        io.counters[number] = 0
        self.notes += [f"{ifname}: {note}" for note in port.capabilities.notes]

    def exchange(self, traffic, stream, epoch, until, sending):
        """Send and receive until cycle `until`; loop.exchange."""
        exchange(
            int(self.kind),
            self.memory.lent,
            TX,
            self.rx_port,
            traffic,
            np.uint64(stream),
            np.uint64(epoch),
            np.uint64(until),
            sending,
        )

    def begin(self):
        """A trial begins."""
        self.memory.io.counters[[TX, RX]] = 0

    def announce(self, frame, traffic):
        """Send a frame from the receiving end, for a switch to learn its address."""
        if self.rx_port == NO_PORT:
            return
        traffic.sent.headers[0, FRAME_AT : FRAME_AT + len(frame)] = np.frombuffer(frame, np.uint8)
        m = traffic.sent.meta[0]
        m["payload_len"], m["frame_len"], m["header_end"] = 0, len(frame), FRAME_AT + len(frame)
        send_one(int(self.kind), self.memory.lent, self.rx_port, traffic)

    def missed(self):
        """Packets that the receiving end had no room for."""
        return 0 if self.only_sends else int(self.memory.io.counters[self.rx_port, PortCounter.RX_MISSED])

    def close(self):
        """Close the ports; the interfaces stay. Twice is allowed."""
        self._made.close()
        self.memory.io.fds[[TX, RX]] = -1
