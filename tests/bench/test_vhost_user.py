"""bench/vhost_user.py: small; its checks, and that each peer carries packets and leaves nothing."""

import pytest

from bench import results, vhost_user
from bench.peers import cpu_time, ovs_dpdk, testpmd
from bench.peers.hugepages import hugepages
from bench.peers.ovs import JOINED, SWITCHED
from bench.peers.testpmd import Rate

MEASURE_SECONDS = 0.2
RULES = 20
needs_packages = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.package("dpdk-dev", "openvswitch-switch-dpdk"),
]


def marked(test):
    """`test` with the marks of those that start DPDK programs."""
    for mark in needs_packages:
        test = mark(test)
    return test


def test_lost_is_a_part_of_what_was_sent():
    assert Rate(200.0, 150.0).lost_percent == 25
    assert Rate(0.0, 0.0).lost_percent == 0


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(results.shutil, "which", lambda *_, **__: None)
    assert results.missing_packages(vhost_user.PACKAGES) == ["dpdk-dev", "openvswitch-switch-dpdk"]
    with pytest.raises(RuntimeError, match="apt-get install dpdk-dev openvswitch-switch-dpdk"):
        vhost_user.run(1)


class Scripted:
    """A client and a switch at once, whose measurements are given."""

    pids = ()

    def __init__(self, *received):
        self.rates = [Rate(10.0, value) for value in received]
        self.calls = []

    def rate(self, _seconds):
        return self.rates.pop(0)

    def __getattr__(self, name):
        return lambda *args: self.calls.append((name, *args))


def contender(scripted):
    return vhost_user.Contender("scripted", scripted, scripted, "io")


def test_a_switch_that_forwards_nothing_fails_and_rests(monkeypatch):
    monkeypatch.setattr(vhost_user, "WARM_UP_SECONDS", 0)
    scripted = Scripted(0.0)
    with pytest.raises(AssertionError, match="scripted: no packet of 64 octets arrived"):
        vhost_user.measure_undisturbed(contender(scripted), 64, 0)
    assert scripted.calls[-1] == ("rest",)


def test_a_disturbed_measurement_is_taken_again_and_the_best_counts(monkeypatch):
    monkeypatch.setattr(cpu_time, "TRIES_MAX", 3)
    stolen = iter([50.0, 20.0, 30.0, 50.0, 1.0])
    monkeypatch.setattr(vhost_user, "measure", lambda *_: vhost_user.Sample(Rate(1.0, 1.0), next(stolen)))
    assert vhost_user.measure_undisturbed(None, 64, 1).stolen_percent == 20
    assert vhost_user.measure_undisturbed(None, 64, 1).stolen_percent == 1


def test_one_in_which_nothing_arrives_for_want_of_a_cpu_is_taken_again(monkeypatch):
    taken = iter([vhost_user.Sample(Rate(0.0, 0.0), 90.0), vhost_user.Sample(Rate(1.0, 1.0), 1.0)])
    monkeypatch.setattr(vhost_user, "measure", lambda *_: next(taken))
    assert vhost_user.measure_undisturbed(None, 64, 1).rate.received == 1


def test_ratios_are_to_what_does_the_same_work(monkeypatch):
    received = {
        "testpmd io": 4e6,
        "OVS-DPDK, bare": 2e6,
        "OVS-DPDK, rules": 1e6,
        "DPU, bare": 8e6,
        "DPU, rules": 3e6,
    }
    contenders = [
        vhost_user.Contender(name, None, name.split(",")[0].split()[0], "", "rules" in name)
        for name in received
    ]
    monkeypatch.setattr(
        vhost_user,
        "measure_undisturbed",
        lambda one, *_: vhost_user.Sample(Rate(2 * received[one.name], received[one.name]), 0.0),
    )
    made = {one.name: one for one in vhost_user._compare("t", contenders, 64, 1, 2, [])}
    ratios = {name.removeprefix("t: "): one.median for name, one in made.items() if one.unit == "x"}
    assert ratios == {
        "DPU, bare / testpmd io": 2,
        "DPU, bare / OVS-DPDK, bare": 4,
        "DPU, rules / testpmd io": 0.75,
        "DPU, rules / OVS-DPDK, rules": 3,
    }
    assert made["t: DPU, bare"].median == 8
    assert made["t: DPU, bare, lost"].median == 50


@marked
def test_testpmd_forwards_what_the_client_sends(socket_dir):
    sockets = [f"{socket_dir}/0.sock"]
    with (
        hugepages(2 * testpmd.MEMORY_MB + 64),
        testpmd.BackEnd(sockets, 1) as switch,
        testpmd.client(sockets, 0) as client,
    ):
        for mode in ("io", "macswap"):
            one = vhost_user.Contender(mode, client, switch, mode)
            assert vhost_user.measure(one, 1500, MEASURE_SECONDS).rate.received > 1000
        with pytest.raises(RuntimeError, match="dpdk-testpmd ended"):
            client.command("quit")


@marked
def test_open_vswitch_forwards_what_the_client_sends(socket_dir):
    sockets = [f"{socket_dir}/{n}.sock" for n in range(2)]
    with (
        hugepages(testpmd.MEMORY_MB + ovs_dpdk.MEMORY_MB + 64),
        ovs_dpdk.OvsDpdk(sockets, 1, socket_dir, rules=RULES) as switch,
        testpmd.client(sockets, 0, listens=True) as client,
    ):
        for variant in (JOINED, SWITCHED):
            one = vhost_user.Contender(variant, client, switch, variant)
            assert vhost_user.measure(one, 64, MEASURE_SECONDS).rate.received > 1000
        switch.begin(SWITCHED)
        assert switch.flow_count() == RULES + 1
        switch.rest()


@marked
def test_all_of_them_are_measured():
    """With one port and with two: each contender carries packets in each variant."""
    made = {one.name: one for one in vhost_user.run(100, repeats=1, rules=RULES, octets=(512,))}
    bare = ["testpmd io", "testpmd macswap", "OVS-DPDK, bare", "DPU, bare"]
    full = [f"OVS-DPDK, {RULES} rules", f"DPU, {RULES} rules"]
    named = [f"loop-back, 512 B: {one}" for one in bare]
    named += [f"port to port, 512 B: {one}" for one in bare + full]
    assert {name for name, one in made.items() if one.unit == "Mpps"} == set(named)
    assert all(made[name].median > 0 for name in named)
    assert "port to port, 512 B: DPU, 20 rules / OVS-DPDK, 20 rules" in made
