"""bench/vhost_reconnect.py: small; leaks are caught, and both clients go on."""

import pytest

from bench import vhost_reconnect
from bench.vhost_reconnect import Round
from tests.bench.test_host_pair import line, marked


@pytest.mark.parametrize("leak", [{"bufs_missing": 1}, {"files_more": 1}])
def test_a_leak_is_caught(leak):
    rounds = [Round(1.0, 2.0, 2.5), Round(4.0, 5.0, 5.25, **leak)]
    with pytest.raises(AssertionError, match="leaked"):
        list(vhost_reconnect._libdpu_results(rounds, line()))


def test_times_are_from_ready_and_from_the_kill():
    rounds = [Round(1.0, 2.0, 2.5, resent=3), Round(4.0, 5.0, 4.75, resent=5)]
    made = {one.name: one for one in vhost_reconnect._libdpu_results(rounds, line(sent=9, whole=7))}
    ready, kill = (made[f"libdpu: from {what} to the first packet"] for what in ("ready", "the kill"))
    assert (ready.low, ready.high) == (-250, 500)
    assert (kill.low, kill.high) == (750, 1500)
    assert made["libdpu: restarts"].median == 2
    assert made["libdpu: handed over again"].median == 4
    assert made["libdpu: lost, mean"].median == 1


@marked
@pytest.mark.slow
@pytest.mark.package("dpdk-dev", "openvswitch-switch-dpdk")
def test_rings_go_on():
    made = {one.name: one for one in vhost_reconnect.run(2, rounds=1, rate=10_000)}
    assert made["libdpu: restarts"].median == 2
    assert made["testpmd, server=1: restarts"].median == 1
    for client in ("libdpu", "testpmd, server=1"):
        assert made[f"{client}: from the kill to the first packet"].low > 0
    assert made["libdpu: buffers leaked"].high == made["libdpu: files left open"].high == 0
