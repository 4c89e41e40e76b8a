"""bench/attach.py: small, and what its checks catch."""

import contextlib

import pytest

from bench import attach
from bench.peers.dpu import Dpu

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """A daemon as users run it, without a port."""
    with Dpu(tmp_path_factory.mktemp("d"), 1) as made:
        yield made


@pytest.fixture
def containers(daemon):
    """Three containers on the daemon."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(attach.Container(number)) for number in range(3)]
        for container in made:
            attach.attach(daemon, container)
            stack.callback(attach.detach, daemon, container)
        yield made


def test_containers_come_talk_and_go():
    made = {one.name: one for one in attach.run(8, repeats=1, pairs=20)}
    assert made["8 containers: 20 random pairs talk, lost"].median == 0
    assert made["8 containers, attach: 4 with the most others"].median > 0
    assert made["8 containers, detach: most / fewest"].median > 0
    for way in ("API", "dpu attach, detach", "dpu-cni ADD, DEL"):
        assert (
            made[f"one container, attach: {way}"].median > made[f"one container, detach: {way}"].low / 10 > 0
        )


def test_packets_that_are_dropped_are_noticed(daemon, containers, monkeypatch):
    assert attach.talk(daemon, containers, pairs=4, frames=3) == 0
    monkeypatch.setattr(attach, "ARRIVAL_SECONDS_MAX", 1.0)
    first = containers[0].mac.hex(":")
    rule = daemon.call("rule.add", name="no", priority=1, src_mac=first, action="drop")
    with pytest.raises(AssertionError, match="port c0 counted"):
        attach.talk(daemon, containers, pairs=4, frames=3)
    daemon.call("rule.del", name=rule["name"])


def test_a_frame_at_the_wrong_container_is_noticed(daemon, containers, monkeypatch):
    """Without an announcement the switch sends a frame to everybody."""
    monkeypatch.setattr(attach, "_announce", lambda *_: None)
    monkeypatch.setattr(attach, "ARRIVAL_SECONDS_MAX", 0.2)
    with pytest.raises(AssertionError, match="to somebody else"):
        attach.talk(daemon, containers, pairs=2, frames=1, seed=1)


def test_growth_compares_those_with_few_others_and_with_many():
    few, many, growth = attach._growth("attach", [*[1.0] * 50, *[5.0] * 400, *[2.0] * 50])
    assert (few.median, many.median, growth.median) == (1, 2, 2)
