"""The compiled half of af_packet ports, called from a test: bursts as the worker loop makes them."""

import os
import time
from types import SimpleNamespace

import numpy as np

from dpu_runtime.drivers.af_packet.layout import PACKET_QUEUE_DTYPE
from dpu_runtime.drivers.af_packet.mapping import PacketRings
from dpu_runtime.drivers.port import Kind
from dpu_runtime.kernels.layout import WORKERS_MAX
from tests.drivers.bursts import Bursts, counters_of

PORTS = 6
IN_PORT = 5
WAIT_S = 60.0  # the first bursts compile


def shared_rows():
    """What a port's queues leave in the shared memory."""
    queues = np.zeros((PORTS, WORKERS_MAX), PACKET_QUEUE_DTYPE)
    return SimpleNamespace(packet_queues=queues, port_counters=counters_of(PORTS, WORKERS_MAX))


class Worker(Bursts):
    """Worker `number`'s memory, and its bursts on port IN_PORT.

    fds  the port's queues in this process; worker w uses the w-th, modulo how many there are
    """

    def __init__(self, shared, fds, number=0, workers=1):
        super().__init__(Kind.AF_PACKET, shared, number, workers, IN_PORT)
        self.shared = shared
        self.io.queue[IN_PORT] = number % len(fds)
        self.io.fds[IN_PORT] = fds[number % len(fds)]
        self.row = shared.packet_queues[IN_PORT, number % len(fds)]
        self.counters = shared.port_counters[number, IN_PORT]

    def wait(self, packets=1):
        """Bursts until so many packets have come, each `done` but the last; returns the frames."""
        frames = []
        end = time.monotonic() + WAIT_S
        while len(frames) < packets and time.monotonic() < end:
            count, _ = self.receive()
            frames += self.frames(count)
            if len(frames) < packets:
                self.done()
        return frames


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
