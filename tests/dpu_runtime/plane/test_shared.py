"""The shared memory: what is in it, what another version may not read, notes, the balance of packets."""

import os
from dataclasses import replace

import numpy as np
import pytest

from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.function import EGRESS, INGRESS, Function, Stage, Tables
from dpu_runtime.kernels.burst import Service
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import PER_WORKER, WORKERS_MAX
from dpu_runtime.plane import shared as module
from dpu_runtime.plane.shared import BALANCE_IN, SharedState, function_region, regions
from dpu_runtime.plane.words import Control
from dpu_runtime.registry import functions

CACHE_LINE_BYTES = 64
WORKERS = 3


@pytest.fixture
def state():
    state = SharedState.create(WORKERS)
    yield state
    os.close(state.fd)


def arrays(state):
    """Every array by region and name."""
    return {(r.name, name): getattr(state.of(r.name), name) for r in regions() for name in r.layout}


def test_every_function_has_a_region_of_what_it_declares(state):
    for function in functions():
        here = state.of(function.name)
        hooks = [f"{hook}_" for hook in function.tables.each] or [""]
        for name in function.tables.layout:
            assert all(hasattr(here, f"{hook}{name}") for hook in hooks)
        for name, (dtype, shape) in function.counters.items():
            array = getattr(here, name)
            assert (array.dtype, array.shape) == (np.dtype(dtype), (WORKERS, *shape))
        assert here.drops.shape == (WORKERS, max(1, len(function.drops)))
        assert here.stages.shape == (WORKERS, max(1, len(function.stages)), 2)


def test_arrays_of_frame_and_drivers_are_attributes(state):
    for region in ("frame", "vhost_user", "af_packet", "af_xdp"):
        for name, array in vars(state.of(region)).items():
            assert getattr(state, name) is array


def test_a_declaration_becomes_a_layout():
    entry = "a.module:entry"
    function = Function(
        "nat",
        tables=Tables({"rows": ("u4", (2, 8)), "own": ("u8", (PER_WORKER, 3))}, each=(INGRESS, EGRESS)),
        counters={"used": ("u8", (5, 2))},
        drops=("nat_full", "nat_none"),
        stages=(Stage("nat_in", INGRESS, entry), Stage("nat_out", EGRESS, entry)),
    )
    region = function_region(function)
    assert region.layout == {
        "ingress_rows": ("u4", (2, 8)),
        "ingress_own": ("u8", (PER_WORKER, 3)),
        "egress_rows": ("u4", (2, 8)),
        "egress_own": ("u8", (PER_WORKER, 3)),
        "used": ("u8", (PER_WORKER, 5, 2)),
        "drops": ("u8", (PER_WORKER, 2)),
        "stages": ("u8", (PER_WORKER, 2, 2)),
    }
    assert region.counters == ("used",)
    assert region.columns == {"drops": ("nat_full", "nat_none"), "stages": ("nat_in", "nat_out")}
    bare = function_region(Function("bare"))
    assert bare.layout == {"drops": ("u8", (PER_WORKER, 1)), "stages": ("u8", (PER_WORKER, 1, 2))}


def test_a_function_that_is_called_like_a_driver_is_refused(monkeypatch):
    monkeypatch.setattr(module, "functions", lambda: (Function("af_xdp"),))
    with pytest.raises(ValueError, match="two regions of the shared memory are called 'af_xdp'"):
        regions.__wrapped__()


@pytest.mark.parametrize(
    "change",
    [
        {"drops": ("acl_egress", "acl_ingress")},
        {"drops": ("acl_ingress",)},
        {"stages": ()},
        {"counters": {"hits": ("u8", (8, 2))}},
        {"counters": {"hit": ("u8", (functions()[1].counters["hits"][1]))}},
        {"tables": Tables({"rows": ("u8", (4,))}, each=(INGRESS, EGRESS))},
        {"tables": None},
    ],
)
def test_the_hash_of_a_function_changes_with_what_it_keeps(change):
    acl = next(function for function in functions() if function.name == "acl")
    before = function_region(acl).hash
    assert before == function_region(replace(acl, summary="other words")).hash
    assert function_region(replace(acl, **change)).hash != before


def test_arrays_begin_at_a_cache_line(state):
    for name, array in arrays(state).items():
        assert array.ctypes.data % CACHE_LINE_BYTES == 0, name


def test_rows_of_workers_share_no_cache_line(state):
    """Each worker writes its own rows; two in one line would bounce between their CPUs."""
    here = arrays(state)
    rows = [
        (r.name, name) for r in regions() for name, (_, shape) in r.layout.items() if shape[0] == PER_WORKER
    ]
    assert ("acl", "hits") in rows and ("frame", "port_counters") in rows and ("switch", "drops") in rows
    for name in rows:
        assert here[name].shape[0] == WORKERS
        assert here[name].strides[0] % CACHE_LINE_BYTES == 0, name
        assert here[name][0].flags.c_contiguous, name
    assert state.port_counters.strides[1] % CACHE_LINE_BYTES == 0


def test_new_memory_is_zero_and_takes_little(state):
    for array in arrays(state).values():
        assert not array[:1].view("u1").reshape(-1)[:4096].any()
    assert os.fstat(state.fd).st_blocks * 512 < os.fstat(state.fd).st_size / 10


@pytest.mark.parametrize("workers", [1, 2, WORKERS_MAX])
def test_memory_is_as_large_as_workers_run(workers):
    state = SharedState.create(workers)
    assert state.workers == workers
    assert state.worker_state.shape[0] == state.of("acl").hits.shape[0] == workers
    assert state.packet_queues.shape[1] == state.xdp_queues.shape[1] == workers
    other = SharedState.attach(os.dup(state.fd))
    assert other.workers == workers
    other.port_counters[workers - 1, -1] = 7
    assert (state.port_counters[workers - 1, -1] == 7).all()
    os.close(other.fd)
    os.close(state.fd)


def test_both_sides_see_the_same(state):
    other = SharedState.attach(os.dup(state.fd))
    other.drops[1, Drop.RUNT] = 7
    state.control[Control.EPOCH] = 9
    state.of("switch").drops[2, 0] = 3
    assert state.drops[1, Drop.RUNT] == 7
    assert other.control[Control.EPOCH] == 9
    assert other.of("switch").drops[2, 0] == 3
    os.close(other.fd)


def test_memory_without_a_region_of_this_layout_is_not_attached(state):
    changed = [replace(r, columns={"drops": ("other",)}) if r.name == "acl" else r for r in regions()]
    with pytest.raises(ValueError, match="has no region 'acl' of this version's layout"):
        SharedState.attach(state.fd, changed)


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
    """100 received, 6 copies, 4 segments, 5 made; 90 sent, 7 dropped, 3 merged, 2 held, 1 punted."""
    counters = state.port_counters
    counters[0, 0, PortCounter.RX_PACKETS] = 60
    counters[2, 5, PortCounter.RX_PACKETS] = 40
    counters[1, 3, PortCounter.GSO_SEGMENTS] = 4
    counters[1, 1023, PortCounter.TX_PACKETS] = 90
    state.drops[2, Drop.RUNT] = 1
    state.of("switch").drops[0, 2] = 2
    state.of("acl").drops[2, 1] = 4
    counters[0, 3, PortCounter.GRO_MERGED] = 3
    for service, packets in (("MADE", 5), ("HELD", 2), ("PUNTED", 1), ("COPIES", 6)):
        state.services[1, Service[service]] = packets


def test_balance_sums_over_workers_ports_and_functions(state):
    fill(state)
    assert state.balance() == {
        "received": 100,
        "copies": 6,
        "segments": 4,
        "made": 5,
        "transmitted": 90,
        "dropped": 7,
        "merged": 3,
        "held": 2,
        "punted": 1,
    }
    assert set(BALANCE_IN) < set(state.balance())
    assert state.balance(1)["received"] == 60


def test_what_a_worker_let_go_that_another_one_held(state):
    """A column is a number of packets over all workers: one may count up what another counts down."""
    state.services[0, Service.HELD] = 5
    state.services[1:2, Service.HELD] -= np.uint64(3)
    assert state.balance()["held"] == 2


def test_lost_packets_are_booked_once(state):
    fill(state)
    assert state.book_lost_packets() == 12 + 2, "in hand, and held in its private memory"
    assert state.drops[0, Drop.RESTART] == 14
    assert state.book_lost_packets() == 0
    assert (state.balance()["dropped"], state.balance()["held"]) == (7 + 14, 0)


def test_packets_that_were_sent_and_not_yet_booked(state):
    """The dead process sent them and died before it counted the burst: nothing was lost."""
    state.port_counters[0, 1, PortCounter.TX_PACKETS] = 5
    assert state.book_lost_packets() == 0
    assert state.drops[0, Drop.RESTART] == 0
