"""The shared memory: its layout, what another version may not read, notes, the balance of packets."""

import os

import numpy as np
import pytest

from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.switch import mac_table
from dpu_runtime.plane import shared as module
from dpu_runtime.plane.shared import LAYOUT, OFFSETS, PAGE_BYTES, TOTAL_BYTES, SharedState
from dpu_runtime.plane.words import Control

CACHE_LINE_BYTES = 64
WORKERS = 3


@pytest.fixture
def state():
    state = SharedState.create()
    yield state
    os.close(state.fd)


def extent(name):
    dtype, shape = LAYOUT[name]
    size = np.dtype(dtype).itemsize * int(np.prod(shape))
    return OFFSETS[name], OFFSETS[name] + size


def test_arrays_lie_one_after_another(state):
    end = PAGE_BYTES  # the header's page
    for name in LAYOUT:
        begin, behind = extent(name)
        assert begin >= end, name
        end = behind
    assert end <= TOTAL_BYTES == os.fstat(state.fd).st_size


def test_arrays_begin_at_a_cache_line(state):
    for name in LAYOUT:
        assert getattr(state, name).ctypes.data % CACHE_LINE_BYTES == 0, name


def test_rows_of_workers_share_no_cache_line(state):
    """Each worker writes its own rows; two in one line would bounce between their CPUs."""
    for name in ("worker_state", "port_counters", "drops", "kernel_counters", "rule_hits"):
        assert getattr(state, name).strides[0] % CACHE_LINE_BYTES == 0, name
    assert state.port_counters.strides[1] % CACHE_LINE_BYTES == 0


def test_new_memory_is_zero_and_takes_little(state):
    assert not any(getattr(state, name).view("u1").reshape(-1)[:4096].any() for name in LAYOUT)
    assert os.fstat(state.fd).st_blocks * 512 < TOTAL_BYTES / 10


def test_both_sides_see_the_same(state):
    other = SharedState.attach(os.dup(state.fd))
    other.drops[1, Drop.RUNT] = 7
    state.control[Control.EPOCH] = 9
    assert state.drops[1, Drop.RUNT] == 7
    assert other.control[Control.EPOCH] == 9
    os.close(other.fd)


@pytest.mark.parametrize("word", [0, 1])
def test_memory_of_another_version_is_refused(state, word):
    state._header[word] ^= 1
    with pytest.raises(ValueError, match="laid out by another version"):
        SharedState.attach(state.fd)


def test_memory_of_another_size_is_refused():
    fd = os.memfd_create("short", 0)
    os.ftruncate(fd, 4096)
    with pytest.raises(ValueError, match="shared memory has 4096 octets, this version's layout "):
        SharedState.attach(fd)
    os.close(fd)


@pytest.mark.parametrize(
    "change",
    [
        {"drops": ("u8", (1, 1))},
        {"drops": ("u4", LAYOUT["drops"][1])},
        {"ports": (np.dtype([("mac", "u8")]), LAYOUT["ports"][1])},
        {"more": ("u1", (1,))},
    ],
)
def test_hash_changes_with_the_layout(monkeypatch, change):
    before = module.layout_hash()
    assert before == module.layout_hash()
    monkeypatch.setattr(module, "LAYOUT", {**LAYOUT, **change})
    assert module.layout_hash() != before


def test_hash_changes_with_the_order(monkeypatch):
    before = module.layout_hash()
    monkeypatch.setattr(module, "LAYOUT", dict(reversed(LAYOUT.items())))
    assert module.layout_hash() != before


def test_notes_survive_their_writer(state):
    assert state.read_notes() == {}
    for number in range(5):
        notes = {"ports": {"web": [number, {"name": "web"}]}, "texts": {"a": "ä" * number}}
        state.write_notes(notes)
        other = SharedState.attach(os.dup(state.fd))
        assert other.read_notes() == notes
        os.close(other.fd)


def test_a_crash_while_writing_leaves_the_old_notes(state, monkeypatch):
    state.write_notes({"notes": {"are": "old"}})
    state.write_notes({"notes": {"are": "good"}})
    half = state.notes[(int(state.control[Control.NOTES_VERSION]) + 1) & 1]
    half[:100] = 0xFF  # the next version, begun and not ended
    assert state.read_notes() == {"notes": {"are": "good"}}


def test_notes_that_do_not_fit_change_nothing(state, monkeypatch):
    state.write_notes({"notes": {"kept": True}})
    monkeypatch.setattr(module, "NOTES_BYTES", 100)
    with pytest.raises(ValueError, match="notes of 109 octets, at most 92 fit"):
        state.write_notes({"x": "y" * 99})
    assert state.read_notes() == {"notes": {"kept": True}}


def test_changes_of_notes_are_added_until_they_are_many(state, monkeypatch):
    monkeypatch.setattr(module, "NOTES_ADDED_MAX", 200)
    assert not state.change_notes({"ports": {"a": 1}}), "there is nothing yet that could change"
    state.write_notes({"ports": {"a": 1, "b": 2}, "rules": {"slots": {}}})
    assert state.change_notes({"ports": {"a": None, "c": 3}})
    assert state.change_notes({"ports": {"a": 4}, "rules": {"slots": {"r": 8}}})
    expected = {"ports": {"b": 2, "c": 3, "a": 4}, "rules": {"slots": {"r": 8}}}
    other = SharedState.attach(os.dup(state.fd))
    assert other.read_notes() == expected
    assert list(other.read_notes()["ports"]) == ["b", "c", "a"]
    assert not other.change_notes({"ports": {"d": 5}}), "another process writes them whole first"
    os.close(other.fd)
    changes = 0
    while state.change_notes({"ports": {"d": changes}}):
        changes += 1
    assert 1 < changes < 20
    assert state.read_notes()["ports"]["d"] == changes - 1
    end = int(state.notes[int(state.control[Control.NOTES_VERSION]) & 1][:8].view("u8")[0])
    half = state.notes[int(state.control[Control.NOTES_VERSION]) & 1]
    half[8 + end : 8 + end + 20] = 0xFF  # a change, begun and not ended
    assert state.read_notes()["ports"]["d"] == changes - 1


def fill(state):
    """Counters of WORKERS workers: 100 received, 6 copies, 4 segments; 90 sent, 7 dropped, 3 merged."""
    counters = state.port_counters
    counters[0, 0, PortCounter.RX_PACKETS] = 60
    counters[2, 5, PortCounter.RX_PACKETS] = 40
    state.switch_counters[1, mac_table.COUNTER_COPIES] = 6
    counters[1, 3, PortCounter.GSO_SEGMENTS] = 4
    counters[1, 1023, PortCounter.TX_PACKETS] = 90
    state.drops[2, Drop.RUNT] = 7
    counters[0, 3, PortCounter.GRO_MERGED] = 3
    counters[WORKERS, 0, PortCounter.RX_PACKETS] = 1000  # of a worker that is none


def test_balance_sums_over_workers_and_ports(state):
    fill(state)
    assert state.balance(WORKERS) == {
        "received": 100,
        "copies": 6,
        "segments": 4,
        "transmitted": 90,
        "dropped": 7,
        "merged": 3,
    }


def test_lost_packets_are_booked_once(state):
    fill(state)
    assert state.book_lost_packets(WORKERS) == 10
    assert state.drops[0, Drop.RESTART] == 10
    assert state.book_lost_packets(WORKERS) == 0
    assert state.balance(WORKERS)["dropped"] == 17


def test_packets_that_were_sent_and_not_yet_booked(state):
    """The dead process sent them and died before it counted the burst: nothing was lost."""
    state.port_counters[0, 1, PortCounter.TX_PACKETS] = 5
    assert state.book_lost_packets(WORKERS) == 0
    assert state.drops[0, Drop.RESTART] == 0
