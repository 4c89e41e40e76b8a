"""MAC table: layout, and the readers of the control process."""

import subprocess
import sys

import pytest

from dpu_runtime.kernels.layout import PORT_NONE
from dpu_runtime.kernels.switch import mac_table
from dpu_runtime.kernels.switch.mac_table import MAC_SLOTS, MAC_STAMP_MASK
from tests.functions.switch.tables import BASE, MacTable, key_of


@pytest.fixture
def table():
    return MacTable(8)


def test_the_layout_needs_no_compiler():
    code = "import sys, dpu_runtime.kernels.switch.mac_table; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_counter_names_and_numbers_agree():
    names = {
        mac_table.COUNTER_LEARNED: "mac_learned",
        mac_table.COUNTER_MOVES: "mac_moves",
        mac_table.COUNTER_TABLE_FULL: "mac_table_full",
        mac_table.COUNTER_FLOODED: "flooded",
        mac_table.COUNTER_COPIES: "copies",
    }
    assert tuple(names[n] for n in range(len(names))) == mac_table.SWITCH_COUNTERS


def test_ticks_are_the_monotonic_clock_in_quarter_seconds():
    first = mac_table.ticks_now()
    assert 0 <= first <= MAC_STAMP_MASK
    assert mac_table.ageing_ticks(300) == 1200
    assert (mac_table.ticks_now() - first) & MAC_STAMP_MASK <= 40


def test_entries_are_in_order(table):
    for address, vlan, port in ((BASE + 2, 1, 1), (BASE + 1, 2, 2), (BASE + 1, 1, 3)):
        table.learn(address, vlan, port)
    listed = [(e.vlan, e.mac, e.port) for e in table.entries()]
    assert listed == [(1, BASE + 1, 3), (1, BASE + 2, 1), (2, BASE + 1, 2)]


@pytest.mark.parametrize(
    ("match", "left"),
    [
        ({}, set()),
        ({"address": BASE + 1}, {(BASE + 2, 1, 1), (BASE + 2, 2, 1)}),
        ({"vlan": 1}, {(BASE + 1, 2, 2), (BASE + 2, 2, 1)}),
        ({"port": 2}, {(BASE + 2, 1, 1), (BASE + 2, 2, 1)}),
        ({"vlan": 1, "port": 1}, {(BASE + 1, 1, 2), (BASE + 1, 2, 2), (BASE + 2, 2, 1)}),
        ({"port": 7}, {(BASE + 1, 1, 2), (BASE + 1, 2, 2), (BASE + 2, 1, 1), (BASE + 2, 2, 1)}),
    ],
)
def test_flush(table, match, left):
    for address, port in ((BASE + 1, 2), (BASE + 2, 1)):
        for vlan in (1, 2):
            table.learn(address, vlan, port)
    assert table.flush(**match) == 4 - len(left)
    assert {(e.mac, e.vlan, e.port) for e in table.entries()} == left
    for address in (BASE + 1, BASE + 2):
        for vlan in (1, 2):
            found = table.lookup(address, vlan) != PORT_NONE
            assert found == any(row[:2] == (address, vlan) for row in left)
    assert table.flush(**match) == 0
    table.learn(BASE + 1, 1, 6)
    assert table.lookup(BASE + 1, 1) == 6


def test_repair_frees_what_a_dead_worker_owned(table):
    table.learn(BASE + 1, 0, 4)
    home, _ = table.buckets(BASE, 0)
    slot = home + MAC_SLOTS - 1
    table.mac[slot] = key_of(BASE, 0)
    assert mac_table.repair(table.mac) == 1
    assert table.mac[slot] == 0
    assert mac_table.repair(table.mac) == 0
    table.learn(BASE, 0, 3)
    assert table.lookup(BASE, 0) == 3
    assert table.lookup(BASE + 1, 0) == 4
