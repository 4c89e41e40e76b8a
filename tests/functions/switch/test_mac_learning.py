"""Learning and lookup of the MAC table, by one worker."""

import numpy as np
import pytest

from dpu_runtime.kernels.compile.jit import PYTHON_MODE, kernel
from dpu_runtime.kernels.layout import PORT_NONE
from dpu_runtime.kernels.switch import mac_table
from dpu_runtime.kernels.switch.mac_learning import _insert, learn_mac, mac_key, seen_lately
from dpu_runtime.kernels.switch.mac_table import MAC_ENTRIES, MAC_PORT_SHIFT, MAC_SLOTS, MAC_STAMP_MASK
from tests.functions.switch.tables import AGEING, BASE, MacTable, addresses, key_of


@pytest.fixture
def table():
    return MacTable(8)


def test_learned_is_found_in_its_vlan_only(table):
    table.learn(BASE + 1, 10, 3)
    assert table.lookup(BASE + 1, 10) == 3
    assert table.lookup(BASE + 1, 20) == PORT_NONE
    assert table.lookup(BASE + 2, 10) == PORT_NONE
    assert table.entries() == [mac_table.MacEntry(BASE + 1, 10, 3, 0.0)]


def test_port_0_vlan_0_at_tick_0(table):
    assert table.lookup(BASE, 0, now=0) == PORT_NONE
    table.learn(BASE, 0, 0, now=0)
    assert table.lookup(BASE, 0, now=0) == 0


@pytest.mark.parametrize("address", [0, 0x010000000000, 0x333300000001, 0xFFFFFFFFFFFF])
def test_no_host_address_is_not_learned(table, address):
    table.learn(address, 1, 3)
    assert not table.mac.any()
    assert table.counted() == [0, 0, 0]


def test_ageing_time_0_learns_nothing(table):
    table.learn(BASE, 0, 3, ageing=0)
    assert not table.mac.any()


def test_an_entry_ages(table):
    table.learn(BASE, 0, 3, now=1000)
    assert table.lookup(BASE, 0, now=1000 + AGEING - 1) == 3
    assert table.lookup(BASE, 0, now=1000 + AGEING) == PORT_NONE
    assert table.entries(now=1000 + AGEING) == []
    table.learn(BASE, 0, 4, now=1000 + AGEING)
    assert table.lookup(BASE, 0, now=1000 + AGEING) == 4
    assert table.counted() == [2, 0, 0], "an aged entry is learned again, it does not move"


def test_a_stamp_is_refreshed_after_a_second(table):
    table.learn(BASE, 0, 3, now=1000)
    before = table.mac.copy()
    table.learn(BASE, 0, 3, now=1003)
    assert np.array_equal(table.mac, before)
    table.learn(BASE, 0, 3, now=1004)
    assert table.entries(now=1004) == [mac_table.MacEntry(BASE, 0, 3, 0.0)]
    assert table.counted() == [1, 0, 0]


def test_seen_lately_is_what_learning_would_leave_alone(table):
    key = key_of(BASE, 0)

    def seen(port, now):
        return bool(seen_lately(table.mac, key, port, table.ports, np.uint64(now)))

    assert not seen(3, 1000)
    table.learn(BASE, 0, 3, now=1000)
    assert seen(3, 1000)
    assert seen(3, 1003)
    assert not seen(3, 1004)
    assert not seen(4, 1000)
    table.ports["generation"][3] = 1
    assert not seen(3, 1000)


def test_the_clock_may_wrap_and_may_be_behind(table):
    table.learn(BASE, 0, 3, now=MAC_STAMP_MASK)
    assert table.lookup(BASE, 0, now=5) == 3
    assert table.entries(now=5)[0].age_seconds == 1.5
    assert table.lookup(BASE, 0, now=MAC_STAMP_MASK - 3) == 3
    assert table.entries(now=MAC_STAMP_MASK - 3)[0].age_seconds == 0.0


def test_an_address_moves(table):
    table.learn(BASE, 0, 3)
    table.learn(BASE, 0, 5)
    assert table.lookup(BASE, 0) == 5
    assert len(table.entries()) == 1
    assert table.counted() == [1, 1, 0]


def test_entries_of_a_replaced_port_are_dead(table):
    table.ports["generation"][3] = 0x1FFFF
    table.learn(BASE, 0, 3)
    assert table.lookup(BASE, 0) == 3
    table.ports["generation"][3] += 1
    assert table.lookup(BASE, 0) == PORT_NONE
    assert table.entries() == []
    table.learn(BASE, 0, 3)
    assert table.lookup(BASE, 0) == 3
    assert table.counted() == [2, 0, 0]


def test_live_entries_are_not_evicted(table):
    table.fill(BASE, 0, [1000] * 8)
    before = table.mac.copy()
    table.learn(BASE, 0, 3)
    assert np.array_equal(table.mac, before)
    assert table.lookup(BASE, 0) == PORT_NONE
    assert table.counted() == [0, 0, 1]


def test_the_oldest_dead_entry_of_the_home_bucket_is_replaced(table):
    now = 10_000
    slots = table.fill(BASE, 0, [now, 500, 400, 600, now, 1, 2, 3])
    table.learn(BASE, 0, 3, now=now)
    assert table.lookup(BASE, 0, now=now) == 3
    assert table.mac[slots[2]] == key_of(BASE, 0)


def test_the_other_bucket_is_used_when_home_is_full(table):
    now = 10_000
    slots = table.fill(BASE, 0, [now] * 4 + [now, now, 7, now])
    table.learn(BASE, 0, 3, now=now)
    assert table.mac[slots[6]] == key_of(BASE, 0)
    assert table.lookup(BASE, 0, now=now) == 3
    table.learn(BASE, 0, 4, now=now)
    assert table.lookup(BASE, 0, now=now) == 4
    assert table.counted() == [1, 1, 0]


def test_a_slot_that_another_worker_owns_is_left_alone(table):
    home, _ = table.buckets(BASE, 0)
    table.mac[home] = key_of(BASE, 0)  # its value has no port yet
    before = table.mac.copy()
    table.learn(BASE, 0, 3)
    assert np.array_equal(table.mac, before)
    assert table.lookup(BASE, 0) == PORT_NONE
    assert table.entries() == []
    slots = table.fill(BASE, 0, [1000] * 8)
    table.mac[slots[1] + MAC_SLOTS] = 0
    table.learn(BASE, 0, 3)
    assert table.counted() == [0, 0, 1], "and is not reused for another address"


def test_a_worker_that_finds_its_key_twice_withdraws(table):
    table.learn(BASE, 0, 3)
    before = table.mac.copy()
    key = key_of(BASE, 0)
    fresh = np.uint64(5 << MAC_PORT_SHIFT | 1000)
    _insert(table.mac, key, fresh, table.ports, np.uint64(1000), np.uint64(AGEING), table.counters)
    assert np.array_equal(table.mac, before)
    assert table.counted() == [1, 0, 0]


@kernel
def learn_all(mac, macs, port, ports, now, ageing, counters):
    """Learn `macs` in VLAN 1 on `port`."""
    for n in range(len(macs)):
        learn_mac(mac, mac_key(macs[n], 1), port, ports, now, ageing, counters)


@pytest.mark.parametrize("sequential", [True, False])
def test_it_holds_what_it_says(table, sequential):
    count = MAC_ENTRIES // 64 if PYTHON_MODE else MAC_ENTRIES
    macs = np.arange(count, dtype=np.uint64) + np.uint64(BASE) if sequential else addresses(count, 1)
    learn_all(table.mac, macs, 3, table.ports, np.uint64(1000), np.uint64(AGEING), table.counters)
    assert table.counted() == [count, 0, 0]
    assert [e.mac for e in table.entries()] == macs.tolist()
