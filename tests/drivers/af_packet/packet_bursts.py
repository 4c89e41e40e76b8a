"""The compiled half of af_packet ports, called from a test: bursts as the worker loop makes them."""

import os
import time
from types import SimpleNamespace

import numpy as np

from dpu_runtime.drivers.af_packet.layout import PACKET_QUEUE_DTYPE
from dpu_runtime.drivers.af_packet.mapping import PacketRings
from dpu_runtime.drivers.af_packet.receive import packet_done, packet_rx
from dpu_runtime.drivers.af_packet.transmit import packet_tx
from dpu_runtime.drivers.af_xdp.layout import AF_XDP_LAYOUT
from dpu_runtime.drivers.io import make_io
from dpu_runtime.drivers.port import PORT_COUNTER_COUNT
from dpu_runtime.drivers.vhost_user.layout import VHOST_LAYOUT
from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.drops import DROP_REASON_COUNT, Drop
from dpu_runtime.kernels.layout import ARENA_BYTES, BATCH_SIZE, META_DTYPE, ROW_BYTES, WORKERS_MAX
from tests.kernels.pieces import FILL, payload_of

PORTS = 6
IN_PORT = 5
WAIT_S = 60.0  # the first bursts compile


@kernel
def _receive(io, port, headers, meta, counters, drops):
    return packet_rx(io, port, headers, meta, counters, drops)


@kernel
def _done(io, port):
    packet_done(io, port)


@kernel
def _transmit(io, port, headers, meta, order, count, counters, drops):
    packet_tx(io, port, headers, meta, order, count, counters, drops)


def shared_rows():
    """What a port's queues leave in the shared memory."""
    others = {**VHOST_LAYOUT, **AF_XDP_LAYOUT}
    tables = {name: np.zeros((1,) * len(shape), row) for name, (row, shape) in others.items()}
    counters = np.zeros((WORKERS_MAX, PORTS, PORT_COUNTER_COUNT), np.uint64)
    queues = np.zeros((PORTS, WORKERS_MAX), PACKET_QUEUE_DTYPE)
    return SimpleNamespace(packet_queues=queues, port_counters=counters, **tables)


class Worker:
    """Worker `number`'s memory, and its bursts on port IN_PORT.

    fds  the port's queues in this process; worker w uses the w-th, modulo how many there are
    """

    def __init__(self, shared, fds, number=0, workers=1):
        self.shared = shared
        self.headers = np.full((BATCH_SIZE, ROW_BYTES), FILL, np.uint8)
        self.meta = np.full(BATCH_SIZE * META_DTYPE.itemsize, FILL, np.uint8).view(META_DTYPE)
        self.drops = np.zeros(DROP_REASON_COUNT, np.uint64)
        batch = SimpleNamespace(
            arena=np.zeros(ARENA_BYTES, np.uint8),
            iov=np.zeros(4, np.uint64),
            copies=np.ones(BATCH_SIZE, np.uint16),
        )
        self.io = make_io(number, workers, shared, batch)
        self.io.queue[IN_PORT] = number % len(fds)
        self.io.fds[IN_PORT] = fds[number % len(fds)]
        self.row = shared.packet_queues[IN_PORT, number % len(fds)]
        self.counters = shared.port_counters[number, IN_PORT]

    def receive(self):
        """One burst: (packets, errno); `done` must follow."""
        return _receive(self.io, IN_PORT, self.headers, self.meta, self.counters, self.drops)

    def wait(self, packets=1):
        """Bursts until so many packets have come, each `done` but the last; returns the frames."""
        frames = []
        end = time.monotonic() + WAIT_S
        while len(frames) < packets and time.monotonic() < end:
            count, _ = self.receive()
            frames += [self.frame(i) for i in range(count)]
            if len(frames) < packets:
                self.done()
        return frames

    def done(self):
        """Give back what the burst's packets lay in."""
        _done(self.io, IN_PORT)

    def transmit(self, batch, order=None):
        """Send packets of a batch; this worker is one too, of what it received."""
        order = np.array(range(len(batch.meta)) if order is None else order, np.uint16)
        headers, meta = batch.headers, batch.meta
        _transmit(self.io, IN_PORT, headers, meta, order, len(order), self.counters, self.drops)

    def frame(self, i):
        """Octets of received packet `i`."""
        m = self.meta[i]
        return self.headers[i, int(m["l2_offset"]) : int(m["header_end"])].tobytes() + payload_of(m)

    def vnet(self, i):
        """The 12 octets in front of received packet `i`."""
        l2 = int(self.meta[i]["l2_offset"])
        return self.headers[i, l2 - 12 : l2].tobytes()

    def dropped(self):
        """Reason -> packets, those that are not zero."""
        return {Drop(n): int(count) for n, count in enumerate(self.drops) if count}

    def counted(self, *counters):
        """Counters of the port, in this order."""
        return [int(self.counters[counter]) for counter in counters]


class Plane:
    """A data-plane process's part of a port: its rings mapped, and workers.

    shared  what the process before it left
    """

    def __init__(self, port, shared=None):
        self.shared = shared or shared_rows()
        fds = [os.dup(fd) for fd in port.fds]  # as they come by SCM_RIGHTS
        self.rings = PacketRings(IN_PORT, self.shared, fds, port.layout)

    def worker(self, number=0, workers=1):
        """A worker of this process."""
        return Worker(self.shared, self.rings.queue_fds, number, workers)

    def close(self):
        """End the process; twice is allowed."""
        self.rings.close()
