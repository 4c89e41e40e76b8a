"""A memory under a data plane of another version: what is kept, what is made anew, what is counted on."""

import json
import os
import resource
from dataclasses import replace

import numpy as np
import pytest

from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.function import INGRESS, Function, Stage, Tables
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.plane.regions import ENTRIES_MAX, Memory, RegionError
from dpu_runtime.plane.shared import SharedState, function_region, regions
from dpu_runtime.plane.succession import Succession
from tests.kill_points import in_child, kill_points

WORKERS = 2
NAT = function_region(Function("nat", tables=Tables({"rows": ("u8", (64,))}), drops=("nat_full",)))


def version(**changes):
    """The regions of another version: {region: keys that are others, or None: it has no such region}."""
    changed = [replace(r, **(changes[r.name] or {})) if r.name in changes else r for r in regions()]
    return [r for r in changed if changes.get(r.name, "") is not None]


def with_layout(name, **arrays):
    """Keys of a region with some other arrays."""
    own = next(r for r in regions() if r.name == name)
    return {"layout": {**own.layout, **arrays}}


def names_but(name):
    """Names of all regions but one."""
    return ", ".join(r.name for r in regions() if r.name != name)


NEW_ACL = with_layout("acl", ingress_active=("u8", (16,)))


@pytest.fixture
def before():
    """What the data plane of the version before has mapped."""
    state = SharedState.create(WORKERS)
    state.ports[3]["mac"] = 0x112233
    state.of("switch").mac[77] = 5
    state.of("meter").meters[1, 0, 0] = 6
    state.of("acl").ingress_rows[0, 0, 0] = 7
    yield state
    os.close(state.fd)


def told(state):
    """What another process hears of it."""
    return json.loads(json.dumps(state.told()))


def adopt(state, wanted):
    return SharedState.adopt(state.fd, told(state), wanted)


def test_of_the_same_version_everything_is_kept(before):
    after = adopt(before, regions())
    assert after.succession.kept == [r.name for r in regions()]
    assert (after.succession.made, after.succession.gone) == ([], [])
    assert after.succession.describe() == "kept: " + ", ".join(r.name for r in regions())
    assert told(after) == told(before)
    assert after.ports[3]["mac"] == 0x112233


def test_of_another_layout_one_region_is_made_anew_and_all_others_go_on(before):
    after = adopt(before, version(acl=NEW_ACL))
    assert after.succession.made == ["acl"]
    assert after.succession.describe() == (f"kept: {names_but('acl')}; made anew, of another layout: acl")
    assert after.ports[3]["mac"] == 0x112233
    assert (after.of("switch").mac[77], after.of("meter").meters[1, 0, 0]) == (5, 6)
    assert after.of("acl").ingress_active.shape == (16,)
    assert not after.of("acl").ingress_rows.any()
    after.of("acl").ingress_rows[:] = 9
    assert before.of("acl").ingress_rows[0, 0, 0] == 7, "what runs goes on with its own"
    names = [entry.name for entry in Memory(before.fd).entries()]
    assert names.count("acl") == 2


def test_a_function_that_is_new_and_one_that_is_no_more(before):
    after = adopt(before, [*version(meter=None), NAT])
    assert (after.succession.made, after.succession.gone) == (["nat"], ["meter"])
    assert after.succession.describe() == f"kept: {names_but('meter')}; new: nat; dropped: meter"
    assert after.of("nat").rows.shape == (64,)
    after.succession.settle(after.drops)
    after.succession.forget_before()
    there = [entry.name for entry in Memory(before.fd).entries()]
    assert there == [*(r.name for r in regions() if r.name != "meter"), "nat"]


def test_a_driver_of_another_layout(before):
    changed = with_layout("af_packet", more=("u1", (1,)))
    after = adopt(before, version(af_packet=changed))
    assert after.succession.made == ["af_packet"]
    assert after.more.shape == (1,)


def test_the_frame_of_another_layout_is_refused_and_nothing_changed(before):
    entries = Memory(before.fd).entries()
    changed = with_layout("frame", more=("u1", (1,)))
    with pytest.raises(ValueError, match="region 'frame' of the shared memory is of another layout"):
        adopt(before, version(frame=changed, acl=NEW_ACL))
    assert Memory(before.fd).entries() == entries


@pytest.mark.parametrize(
    "nonsense", [{}, [], {"frame": {}}, {"frame": 7}, {"frame": {"offset": "x", "octets": 1}}, None]
)
def test_a_data_plane_that_tells_nonsense_is_refused(before, nonsense):
    with pytest.raises(ValueError, match=r"cannot be read|is of another layout"):
        SharedState.adopt(before.fd, nonsense)


def test_when_nobody_uses_them_the_regions_before_are_forgotten(before):
    after = adopt(before, version(acl=NEW_ACL))
    after.succession.settle(after.drops)
    after.succession.forget_before()
    entries = Memory(before.fd).entries()
    assert sorted(entry.name for entry in entries) == sorted(r.name for r in regions())
    assert told(adopt(after, version(acl=NEW_ACL))) == told(after)


def test_a_version_that_comes_back_finds_its_own_regions_as_they_run(before):
    """The daemon of the new version was killed before its hand-over, and the one before starts again."""
    adopt(before, version(acl=NEW_ACL))
    back = adopt(before, regions())
    assert back.succession.made == []
    assert told(back) == told(before)
    assert len(Memory(before.fd).entries()) == len(regions()), "what the killed one left is forgotten"


def test_what_a_killed_daemon_left_is_not_believed(before):
    """It may have filled a part of it; whoever comes gets an empty region and fills that."""
    first = adopt(before, version(acl=NEW_ACL))
    first.of("acl").ingress_rows[:] = 1
    second = adopt(before, version(acl=NEW_ACL))
    assert second.succession.made == ["acl"]
    assert not second.of("acl").ingress_rows.any()


def test_undone_it_is_as_it_was(before):
    entries = Memory(before.fd).entries()
    adopt(before, [*version(acl=NEW_ACL), NAT]).succession.undo()
    assert Memory(before.fd).entries() == entries


def test_a_region_that_cannot_be_made_leaves_nothing(before):
    """The directory has room for one more, and two are wanted."""
    memory = Memory(before.fd)
    spare = replace(NAT, name="spare")
    for _ in range(ENTRIES_MAX - len(regions()) - 1):
        memory.make(spare)
    text = told(before)
    text |= {f"spare{n}": {**text["meter"], "offset": e.offset} for n, e in enumerate(memory.entries())}
    with pytest.raises(RegionError, match=r"region 'nat' of \d+ octets: the directory is full"):
        SharedState.adopt(before.fd, text, [*version(acl=NEW_ACL), NAT])
    assert [e.name for e in Memory(before.fd).entries()].count("acl") == 1


def test_a_process_without_memory_leaves_nothing(before):
    entries = Memory(before.fd).entries()
    huge = with_layout("acl", ingress_rows=("u8", (1 << 37,)))

    def work():
        resource.setrlimit(resource.RLIMIT_AS, (1 << 36, 1 << 36))
        try:
            adopt(before, [NAT, *version(acl=huge)])
        except RegionError as error:
            return "region 'acl' of" in str(error) and "mmap: Cannot allocate memory" in str(error)
        return False

    assert in_child(work) == 0
    assert Memory(before.fd).entries() == entries


def test_killed_at_any_step_of_an_adoption(before):
    """Whoever comes next can adopt, whichever version it is, and finds what ran as it was."""
    state = told(before)
    wanted = [*version(acl=NEW_ACL, meter=None), NAT]
    outcomes = set()

    def make():
        SharedState.adopt(before.fd, state, wanted)  # was killed at its end: there is something to forget
        return lambda: SharedState.adopt(before.fd, state, wanted)

    for _ in kill_points([Memory.make, Memory.forget, Succession.__init__], make):
        outcomes.add(len(Memory(before.fd).entries()))
        back = SharedState.adopt(before.fd, state)
        assert (back.succession.made, told(back)) == ([], state)
        after = SharedState.adopt(before.fd, state, wanted)
        assert after.succession.made == ["acl", "nat"]
        assert not after.of("acl").ingress_rows.any()
        after.succession.undo()
        assert before.of("acl").ingress_rows[0, 0, 0] == 7
    assert outcomes == {len(regions()), len(regions()) + 1, len(regions()) + 2}


def test_killed_at_any_step_of_the_end_of_a_hand_over(before):
    """The fresh data plane runs by then: it tells of the new regions, and they are what is kept."""
    after = adopt(before, version(acl=NEW_ACL))
    after.succession.settle(after.drops)
    after.of("acl").ingress_rows[:] = 8
    state = told(after)
    steps = [Memory.forget, Succession.forget_before]
    for _ in kill_points(steps, lambda: after.succession.forget_before):
        found = SharedState.adopt(before.fd, state, version(acl=NEW_ACL))
        assert found.succession.made == []
        assert (found.of("acl").ingress_rows == 8).all()


# counting on


def count(state):
    """Packets of a data plane: 20 came, 11 of them were dropped by functions, 2 by the frame, 7 left."""
    state.port_counters[0, 0, PortCounter.RX_PACKETS] = 20
    state.port_counters[1, 1, PortCounter.TX_PACKETS] = 7
    state.of("acl").drops[:, 0] = 2, 3
    state.of("acl").drops[:, 1] = 1, 4
    state.of("meter").drops[1, 0] = 1
    state.drops[0, Drop.RUNT] = 2
    state.of("acl").hits[0, 70000] = 5, 500
    state.of("acl").hits[1, 8] = 3, 300
    state.of("acl").stages[1, 1] = 44, 4400
    assert state.book_lost_packets() == 0


def test_a_region_that_is_made_anew_counts_on(before):
    count(before)
    after = adopt(before, version(acl=NEW_ACL))
    assert after.succession.counts_go_on("acl")
    after.succession.settle(after.drops)
    assert after.of("acl").hits[:, 70000].sum(axis=0).tolist() == [5, 500]
    assert after.of("acl").hits[:, 8].tolist() == [[0, 0], [3, 300]]
    assert after.of("acl").drops.tolist() == [[2, 1], [3, 4]]
    assert after.of("acl").stages[1, 1].tolist() == [44, 4400]
    assert after.book_lost_packets() == 0


def test_what_was_counted_on_is_once_and_for_all(before):
    count(before)
    after = adopt(before, version(acl=NEW_ACL))
    after.succession.carry_over()
    before.of("acl").hits[1, 8] = 4, 400  # it still runs
    after.succession.settle(after.drops)
    assert after.of("acl").hits[1, 8].tolist() == [4, 400]
    after.of("acl").hits[1, 8] = 6, 600  # the fresh one does
    after.succession.settle(after.drops)
    assert after.of("acl").hits[1, 8].tolist() == [6, 600]


def test_counters_that_are_not_alike_begin_anew(before):
    count(before)
    slots, two = before.of("acl").hits.shape[1:]
    changed = with_layout("acl", hits=("u8", (-1, slots + 8, two)))
    after = adopt(before, version(acl=changed))
    assert not after.succession.counts_go_on("acl")
    assert after.succession.counts_go_on("meter")
    after.succession.settle(after.drops)
    assert not after.of("acl").hits[:, :100].any()
    assert after.book_lost_packets() == 0, "drops are known by name"


def test_drops_go_on_by_name_and_those_without_a_name_are_the_frames(before):
    count(before)
    region = function_region(
        Function("acl", drops=("acl_new", "acl_egress"), stages=(Stage("acl_egress", INGRESS, "a:b"),))
    )
    after = adopt(before, [region if r.name == "acl" else r for r in version(meter=None)])
    after.succession.settle(after.drops)
    assert after.of("acl").drops.tolist() == [[0, 1], [0, 4]]
    assert after.of("acl").stages[1, 0].tolist() == [44, 4400]
    assert after.drops[0, Drop.EARLIER] == 2 + 3 + 1
    assert after.book_lost_packets() == 0
    again = adopt(before, [region if r.name == "acl" else r for r in version(meter=None)])
    again.succession.settle(again.drops)
    assert again.drops[0, Drop.EARLIER] == 6, "they are not counted twice"


def test_counters_that_nobody_touched_take_no_memory(before):
    before.of("acl").hits[0, 0] = 1, 1
    after = adopt(before, version(acl=NEW_ACL))
    taken = os.fstat(before.fd).st_blocks * 512
    after.succession.settle(after.drops)
    assert os.fstat(before.fd).st_blocks * 512 - taken < 20 * 4096
    assert after.of("acl").hits.nbytes > 100 * 4096
    assert np.count_nonzero(after.of("acl").hits) == 2
