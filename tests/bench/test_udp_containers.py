"""bench/udp_containers.py: small; what its counts are and what its checks catch."""

import subprocess

import pytest

from bench import udp_containers
from bench.peers import pairs, udp_flow
from bench.peers.hosts import end
from bench.peers.veth import Veth
from tests import leaks

SENT = "sent=1000 refused=0 sent_ns=1000000 "


def test_counts_are_rates_and_losses():
    count = udp_flow.parse(1250, f"{SENT}\nframes=900 damaged=0 late=5 frames_ns=900000\n")
    assert (count.rate, count.gbit, count.lost_percent) == (900_000, 9, 10)
    assert udp_flow.checked(count) is count


@pytest.mark.parametrize(
    ("received", "message"),
    [
        ("frames=900 damaged=2 late=0 frames_ns=1", "2 of 900 datagrams were changed"),
        ("frames=1001 damaged=0 late=0 frames_ns=1", "1001 of 1000 datagrams arrived"),
    ],
)
def test_what_is_wrong_with_a_flow_is_said(received, message):
    with pytest.raises(AssertionError, match=message):
        udp_flow.checked(udp_flow.parse(64, SENT + received))


@pytest.mark.root
@pytest.mark.package("iproute2", "gcc")
def test_each_datagram_is_compared_with_what_was_sent():
    with Veth() as pair, udp_flow.built() as program:
        count = udp_flow.flow(program, pair, 100, 0.05, rate=20_000, segments=10)
        assert 0 < count.frames <= count.sent <= 1010 and count.damaged == count.late == 0
        for flow, counted in ((7, True), (8, False)):
            receiving = [program, "receive", pair.address, udp_flow.PORT, 7, 101]
            receiver = pair.server.start(*receiving, stdout=subprocess.PIPE, text=True)
            assert receiver.stdout.readline() == "ready\n"
            pair.client.run(program, "send", pair.address, udp_flow.PORT, flow, 100, 0.01, 10_000, 1)
            end(receiver)
            words = dict(word.split("=") for word in receiver.stdout.read().split())
            assert words["damaged"] == words["frames"]
            assert (int(words["damaged"]) > 0) == counted


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.package("iproute2", "ethtool", "nftables", "openvswitch-switch-dpdk", "gcc")
def test_a_case_is_measured_and_nothing_is_left(monkeypatch):
    monkeypatch.setattr(udp_containers, "PEERS", (pairs.BRIDGE, pairs.DPU))
    monkeypatch.setattr(udp_containers, "CASES", {"UDP, 100 B": (100, 1, "kpps")})
    monkeypatch.setattr(udp_containers, "LOST_PERCENT_MAX", 60)  # a machine with other work loses much
    before = set(leaks.processes())
    made = {one.name: one for one in udp_containers.run(30, repeats=1)}
    assert set(leaks.processes()) - before == set()
    for figure in (udp_containers.FLOOD, udp_containers.MOST):
        dpu, bridge = (made[f"UDP, 100 B, {figure}: {name}"] for name in ("DPU", "bridge"))
        ratio = made[f"UDP, 100 B, {figure}: DPU / bridge"]
        assert ratio.median == pytest.approx(dpu.median / bridge.median)
    assert 0 <= made["UDP, 100 B: DPU, lost"].median < 100
