"""bench/tcp_containers.py: small, and what its checks catch."""

import pytest

from bench import tcp_containers
from bench.peers import pairs
from bench.peers.containers import Containers
from bench.tcp_containers import Sample, Variant
from tests import leaks

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.package("iproute2", "iperf3", "nftables", "openvswitch-switch-dpdk"),
]


def test_every_pair_carries_tcp_and_nothing_is_left(monkeypatch):
    peers = (pairs.OVS, pairs.NFT_LIST)
    variant = Variant("two streams, {rules} rules", ("-P", "2"), peers, filtered=True, stages=True)
    monkeypatch.setattr(tcp_containers, "VARIANTS", (variant,))
    before = set(leaks.processes())
    figures = {made.name: made for made in tcp_containers.run(1, repeats=1, rules=100)}
    assert set(leaks.processes()) - before == set()
    title = "two streams, 100 rules"
    dpu = figures[f"{title}: DPU"]
    assert dpu.median > 0
    for name in peers:
        peer, ratio = figures[f"{title}: {name}"], figures[f"{title}: DPU / {name}"]
        assert ratio.median == pytest.approx(dpu.median / peer.median)
        assert figures[f"{title}: {name}, retransmitted"].median >= 0
    assert figures[f"{title}: DPU, a packet"].median > 1514  # octets: TSO crossed in one piece
    assert figures[f"{title}: DPU, parse"].median > 0


def test_a_dropped_packet_fails_the_measurement(monkeypatch):
    with Containers() as dpu:
        dpu.call("rule.add", name="no-ping", priority=1, proto="icmp", action="drop")

        def lose_one(pair, seconds, words):
            pair.client.start("ping", "-c", "1", "-W", "1", pair.address).wait()
            return Sample(1.0, 0)

        monkeypatch.setattr(tcp_containers, "stream", lose_one)
        with pytest.raises(AssertionError, match="one stream: the DPU dropped 1 packets"):
            list(tcp_containers.measured(Variant("", peers=()), "one stream", {pairs.DPU: dpu}, 1, 1))


def test_the_profile_says_why_it_is_missing(monkeypatch):
    monkeypatch.setattr(tcp_containers.shutil, "which", lambda _, **__: None)
    assert tcp_containers.worker_profile(None, 1).startswith("no profile: perf is missing")
