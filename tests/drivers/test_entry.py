"""Entry points: every driver has the ones the loop calls, and without one a burst is refused or dropped."""

import gc
import weakref
from collections import namedtuple

import numpy as np
import pytest

from bench.in_memory import InMemory
from dpu_runtime.drivers.burst import rx_burst, rx_done, tx_burst
from dpu_runtime.drivers.entry import Op, entries_of
from dpu_runtime.drivers.io import make_io
from dpu_runtime.drivers.linux.libc import EAGAIN, ENODEV
from dpu_runtime.drivers.load import KINDS, load_drivers, module_of
from dpu_runtime.drivers.port import Kind, PortCounter
from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.compile.reference import Lent
from dpu_runtime.kernels.drops import Drop

FIRST, END, OCTETS = 2, 5, 60
PORT = 7

Counted = namedtuple("Counted", ["rx", "port", "drops"])


@kernel
def _bursts(kind, burst, io, port, first, end):
    received = rx_burst(kind, burst, io, port)
    tx_burst(kind, burst, io, port, first, end)
    rx_done(kind, io, port)
    return received


@pytest.fixture(scope="module")
def device():
    return InMemory()


def bursts(device, kind):
    counters, drops = device.shared.port_counters[0, PORT], device.shared.drops[0]
    counters[:], drops[:] = 0, 0
    device.burst.packets[FIRST:END] = range(END - FIRST)
    device.burst.meta["frame_len"] = OCTETS
    io = Lent(device.worker.io)
    return Counted(_bursts(np.int64(kind), device.burst, io, PORT, FIRST, END), counters, drops)


def test_a_burst_goes_to_the_driver_of_its_kind(device):
    counted = bursts(device, Kind.NULL)
    assert tuple(counted.rx) == (0, EAGAIN)
    assert counted.port[PortCounter.TX_PACKETS] == END - FIRST
    assert counted.port[PortCounter.TX_BYTES] == (END - FIRST) * OCTETS
    assert not counted.drops.any()


def test_a_kind_without_a_driver_receives_nothing_and_drops_what_it_is_sent(device):
    assert not device.worker.io.entries[Kind.NONE].any()
    counted = bursts(device, Kind.NONE)
    assert tuple(counted.rx) == (0, ENODEV)
    assert counted.drops[Drop.PORT_DOWN] == END - FIRST == counted.port[PortCounter.TX_DROPPED]
    assert counted.port[PortCounter.TX_PACKETS] == 0


@pytest.mark.compiled
def test_a_burst_by_value_is_no_argument(device):
    """What takes it by reference would read addresses at addresses."""
    from numba.core.errors import TypingError

    burst = device.burst.value
    with pytest.raises(TypingError, match="a burst must be lent, it is NamedTuple"):
        _bursts(np.int64(Kind.NULL), burst, Lent(device.worker.io), PORT, FIRST, END)


def test_every_kind_has_what_the_loop_calls():
    entries = {kind: set(entries_of(module_of(kind, "queue"))) for kind in KINDS}
    assert set(entries) == set(Kind) - {Kind.NONE}
    assert all({Op.RX, Op.TX} <= ops for ops in entries.values())
    assert entries[Kind.VHOST_USER] == set(Op)


@pytest.mark.compiled
def test_the_states_live_as_long_as_the_workers_own(device):
    io = make_io(0, 1, device.shared)
    states = load_drivers(io, device.burst, device.shared, [Kind.NULL])
    counters = weakref.ref(states.pop(Kind.NULL))
    gc.collect()
    assert io.states[Kind.NULL] and counters()
    del io
    gc.collect()
    assert counters() is None
