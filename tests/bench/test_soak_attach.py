"""bench/soak_attach.py: short, and what its check catches."""

import pytest

from bench import soak_attach

BEFORE = {"rules": 0, "data plane, descriptors": 20, "data plane, memory": 100_000}


def test_what_is_left_behind_is_named(monkeypatch):
    assert soak_attach.grown(BEFORE, BEFORE) == {}
    assert (
        soak_attach.grown(BEFORE, BEFORE | {"data plane, memory": 101_000, "data plane, descriptors": 19})
        == {}
    )
    for left in ({"rules": 1}, {"data plane, descriptors": 21}, {"data plane, memory": 200_000}):
        assert soak_attach.grown(BEFORE, BEFORE | left).keys() == left.keys()
    monkeypatch.setattr(soak_attach, "GONE_SECONDS_MAX", 0.2)
    monkeypatch.setattr(soak_attach, "inventory", lambda _: BEFORE | {"rows of ports": 2})
    with pytest.raises(AssertionError, match=r"left behind: .*rows of ports.*0 -> 2"):
        soak_attach.check(None, BEFORE)


def test_what_is_being_closed_is_not_left_behind(monkeypatch):
    held = iter([BEFORE | {"data plane, descriptors": 21}, BEFORE])
    monkeypatch.setattr(soak_attach, "inventory", lambda _: next(held))
    assert soak_attach.check(None, BEFORE) == BEFORE


@pytest.mark.root
@pytest.mark.slow
def test_containers_that_come_and_go_leave_nothing(monkeypatch):
    monkeypatch.setattr(soak_attach, "WARM_UP_CYCLES", 8)
    monkeypatch.setattr(soak_attach, "KILL_DATA_PLANE_EVERY", 40)
    # So early the allocator still takes memory that it keeps; the bench says what many cycles take.
    monkeypatch.setitem(soak_attach.GROWTH_KB_MAX, "control process", 24 * 1024)
    made = {one.name: one.median for one in soak_attach.run(50, progress=False)}
    assert made["cycles"] == 50
    assert made["more than before: rows of ports"] == made["more than before: rows of MAC entries"] == 0
