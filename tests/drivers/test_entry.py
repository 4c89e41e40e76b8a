"""Entry points: every driver has the ones the loop calls, and without one a burst is refused or dropped."""

from collections import namedtuple

import numpy as np
import pytest

from bench.in_memory import InMemory
from dpu_runtime.drivers.burst import rx_burst, rx_done, tx_burst
from dpu_runtime.drivers.entries import DRIVERS
from dpu_runtime.drivers.entry import ENTRIES, Op
from dpu_runtime.drivers.linux.libc import EAGAIN, ENODEV
from dpu_runtime.drivers.port import Kind, PortCounter
from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.compile.reference import Lent
from dpu_runtime.kernels.drops import Drop

PACKETS, OCTETS = 3, 60

Counted = namedtuple("Counted", ["rx", "port", "drops"])


@kernel
def _bursts(kind, io, batch, count, counters, drops):
    received = rx_burst(kind, io, 0, batch.headers, batch.meta, counters, drops)
    tx_burst(kind, io, 0, batch.headers, batch.meta, batch.order, count, counters, drops)
    rx_done(kind, io, 0)
    return received


@pytest.fixture(scope="module")
def device():
    return InMemory()


def bursts(device, kind):
    counters, drops = device.shared.port_counters[0, 0], device.shared.drops[0]
    counters[:], drops[:] = 0, 0
    device.batch.order[:PACKETS] = range(PACKETS)
    device.batch.meta["frame_len"] = OCTETS
    io = Lent(device.worker.io)
    return Counted(_bursts(np.int64(kind), io, device.batch, PACKETS, counters, drops), counters, drops)


def test_a_burst_goes_to_the_driver_of_its_kind(device):
    counted = bursts(device, Kind.NULL)
    assert tuple(counted.rx) == (0, EAGAIN)
    assert counted.port[PortCounter.TX_PACKETS] == PACKETS
    assert counted.port[PortCounter.TX_BYTES] == PACKETS * OCTETS
    assert not counted.drops.any()


def test_a_kind_without_a_driver_receives_nothing_and_drops_what_it_is_sent(device):
    assert not ENTRIES[Kind.NONE].any()
    counted = bursts(device, Kind.NONE)
    assert tuple(counted.rx) == (0, ENODEV)
    assert counted.drops[Drop.PORT_DOWN] == PACKETS == counted.port[PortCounter.TX_DROPPED]
    assert counted.port[PortCounter.TX_PACKETS] == 0


def test_every_kind_has_what_the_loop_calls():
    assert set(DRIVERS) == set(Kind) - {Kind.NONE}
    assert all({Op.RX, Op.TX} <= set(entries) for entries in DRIVERS.values())
    assert set(DRIVERS[Kind.VHOST_USER]) == set(Op)
