"""The compiled half of vhost_user ports, called from a test: bursts as the worker loop makes them."""

import ctypes
import os
from types import SimpleNamespace

import numpy as np

from dpu_runtime.drivers.entry import Op
from dpu_runtime.drivers.port import Kind
from dpu_runtime.drivers.vhost_user import exchange
from dpu_runtime.drivers.vhost_user.layout import (
    DEVICE_DTYPE,
    NO_LOG,
    REGION_WORDS,
    REGIONS_MAX,
    RING_DTYPE,
    RINGS_MAX,
)
from dpu_runtime.kernels.compile.jit import PYTHON_MODE
from tests.drivers.bursts import Bursts, counters_of
from tests.drivers.vhost_user.guest_memory import GuestMemory
from tests.drivers.vhost_user.ring_model import PackedDriver, SplitDriver

PORTS = 3
MEMORY = ((0x10_0000, 1 << 21),)
DRIVERS = {"split": SplitDriver, "packed": PackedDriver}

if PYTHON_MODE:
    exchange.write = lambda fd, addr, size: os.write(fd, ctypes.string_at(int(addr), int(size)))


class Bench(Bursts):
    """Ports with rings, one worker's memory, and its bursts."""

    def __init__(self, *memories, worker=0, workers=1):
        self.rings = np.zeros((PORTS, RINGS_MAX), RING_DTYPE)
        self.regions = np.zeros((PORTS, REGIONS_MAX, REGION_WORDS), np.uint64)
        self.devices = np.zeros(PORTS, DEVICE_DTYPE)
        self.memories = memories or (GuestMemory(*MEMORY),)
        for port, memory in enumerate(self.memories):
            memory.describe(self.regions[port], self.devices[port])
        shared = SimpleNamespace(
            port_counters=counters_of(PORTS, workers),
            rings=self.rings,
            regions=self.regions,
            devices=self.devices,
        )
        super().__init__(Kind.VHOST_USER, shared, worker, workers)
        self.counters = shared.port_counters[worker]

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

    def ask_kicks(self, port=0):
        """Whether a packet waits already."""
        return bool(self.call(Op.ASK_KICKS, port))

    def kicked(self, number, port=0):
        """A kick came."""
        self.call(Op.KICKED, port, number)


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
