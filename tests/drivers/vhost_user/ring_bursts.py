"""The compiled half of vhost_user ports, called from a test: bursts as the worker loop makes them."""

import ctypes
import os
from types import SimpleNamespace

import numpy as np

from dpu_runtime.drivers.af_packet.layout import AF_PACKET_LAYOUT
from dpu_runtime.drivers.af_xdp.layout import AF_XDP_LAYOUT
from dpu_runtime.drivers.io import make_io
from dpu_runtime.drivers.port import PORT_COUNTER_COUNT
from dpu_runtime.drivers.vhost_user import exchange
from dpu_runtime.drivers.vhost_user.layout import (
    DEVICE_DTYPE,
    NO_LOG,
    REGION_WORDS,
    REGIONS_MAX,
    RING_DTYPE,
    RINGS_MAX,
)
from dpu_runtime.drivers.vhost_user.queue import vhost_ask_kicks, vhost_done, vhost_kicked, vhost_rx, vhost_tx
from dpu_runtime.kernels.compile.jit import PYTHON_MODE, kernel
from dpu_runtime.kernels.drops import DROP_REASON_COUNT, Drop
from dpu_runtime.kernels.layout import BATCH_SIZE, HEADROOM_BYTES, META_DTYPE, ROW_BYTES
from tests.drivers.vhost_user.guest_memory import GuestMemory
from tests.drivers.vhost_user.ring_model import PackedDriver, SplitDriver
from tests.kernels.pieces import FILL, payload_of

PORTS = 3
MEMORY = ((0x10_0000, 1 << 21),)
DRIVERS = {"split": SplitDriver, "packed": PackedDriver}

if PYTHON_MODE:
    exchange.write = lambda fd, addr, size: os.write(fd, ctypes.string_at(int(addr), int(size)))


@kernel
def _receive(io, port, headers, meta, counters, drops):
    return vhost_rx(io, port, headers, meta, counters, drops)


@kernel
def _done(io, port):
    vhost_done(io, port)


@kernel
def _transmit(io, port, headers, meta, order, count, counters, drops):
    vhost_tx(io, port, headers, meta, order, count, counters, drops)


@kernel
def _ask_kicks(io, port):
    return vhost_ask_kicks(io, port)


@kernel
def _kicked(io, port, number):
    vhost_kicked(io, port, number)


class Bench:
    """Ports with rings, one worker's memory, and its bursts."""

    def __init__(self, *memories, worker=0, workers=1):
        self.rings = np.zeros((PORTS, RINGS_MAX), RING_DTYPE)
        self.regions = np.zeros((PORTS, REGIONS_MAX, REGION_WORDS), np.uint64)
        self.devices = np.zeros(PORTS, DEVICE_DTYPE)
        self.counters = np.zeros((PORTS, PORT_COUNTER_COUNT), np.uint64)
        self.drops = np.zeros(DROP_REASON_COUNT, np.uint64)
        self.memories = memories or (GuestMemory(*MEMORY),)
        for port, memory in enumerate(self.memories):
            memory.describe(self.regions[port], self.devices[port])
        self.headers = np.full((BATCH_SIZE, ROW_BYTES), FILL, np.uint8)
        self.meta = np.full(BATCH_SIZE * META_DTYPE.itemsize, FILL, np.uint8).view(META_DTYPE)
        batch = SimpleNamespace(
            arena=np.zeros(16, np.uint8), iov=np.zeros(4, np.uint64), copies=np.ones(BATCH_SIZE, np.uint16)
        )
        others = {**AF_PACKET_LAYOUT, **AF_XDP_LAYOUT}
        tables = {name: np.zeros((1,) * len(shape), row) for name, (row, shape) in others.items()}
        shared = SimpleNamespace(
            port_counters=[self.counters] * workers,
            rings=self.rings,
            regions=self.regions,
            devices=self.devices,
            **tables,
        )
        self.io = make_io(worker, workers, shared, batch)

    def add(self, driver, number, port=0, base=None):
        """Start ring `number` of a port on a model driver."""
        row = self.rings[port, number]
        memory = self.memories[port]
        for name in ("desc", "driver", "device"):
            row[name] = memory.local(getattr(driver, f"{name}_at"))
        row["size"], row["features"], row["log"] = driver.size, driver.features, NO_LOG
        start = driver.made | driver.wrap << 15 if driver.packed else driver.made
        row["next"] = row["pending"] = start if base is None else base
        row["call_fd"] = row["kick_fd"] = row["err_fd"] = -1
        row["configured"] = row["started"] = row["enabled"] = 1
        self.devices[port]["pairs"] = max(int(self.devices[port]["pairs"]), number // 2 + 1)
        return driver

    def ring(self, kind, number, size=64, features=0, port=0, **kwargs):
        """Make a driver and start its ring."""
        return self.add(DRIVERS[kind](self.memories[port], size, features, **kwargs), number, port)

    def receive(self, port=0):
        """One burst: (packets, errno); `done` must follow."""
        return _receive(self.io, port, self.headers, self.meta, self.counters[port], self.drops)

    def done(self, port=0):
        """Give the burst's chains back."""
        _done(self.io, port)

    def transmit(self, batch, order=None, port=0):
        """Send packets of a batch; this bench is one too, of what it received."""
        order = np.arange(len(batch.meta)) if order is None else order
        order = np.array(order, np.uint16)
        _transmit(
            self.io, port, batch.headers, batch.meta, order, len(order), self.counters[port], self.drops
        )

    def ask_kicks(self, port=0):
        """Whether a packet waits already."""
        return bool(_ask_kicks(self.io, port))

    def kicked(self, number, port=0):
        """A kick came."""
        _kicked(self.io, port, number)

    def frame(self, i):
        """Octets of received packet `i`."""
        m = self.meta[i]
        return self.headers[i, int(m["l2_offset"]) : int(m["header_end"])].tobytes() + payload_of(m)

    def frames(self, count):
        """Octets of the first received packets."""
        return [self.frame(i) for i in range(count)]

    def vnet(self, i):
        """The virtio-net header of received packet `i`."""
        return self.headers[i, HEADROOM_BYTES - 12 : HEADROOM_BYTES].tobytes()

    def dropped(self):
        """Reason -> packets, those that are not zero."""
        return {Drop(n).name: int(count) for n, count in enumerate(self.drops) if count}

    def counted(self, *counters, port=0):
        """Counters of a port, in this order."""
        return [int(self.counters[port, counter]) for counter in counters]


def lay(memory, octets, lengths, writable=False, region=0, gap=0):
    """Put octets into buffers of these lengths; returns the chain."""
    chain = []
    for length in lengths:
        at = memory.allocate(length, region=region, gap=gap)
        part = octets[:length]
        memory.write(at, part)
        octets = octets[length:]
        chain.append((at, length, writable))
    assert not octets, "the test's buffers are too small"
    return chain
