"""bench/tcp_containers.py: small, and what its checks catch."""

from types import SimpleNamespace

import pytest

from bench import tcp_containers
from bench.peers.containers import Containers

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.package("iproute2", "iperf3"),
    pytest.mark.usefixtures("daemons_as_users_run_them"),
]


def test_both_switches_carry_tcp(monkeypatch):
    variants = {"one stream": ([], False), "reverse, {rules} rules": (["-R"], True)}
    monkeypatch.setattr(tcp_containers, "VARIANTS", variants)
    figures = {made.name: made for made in tcp_containers.run(1, repeats=1, rules=100)}
    for title in ("one stream", "reverse, 100 rules"):
        bridge, dpu = figures[f"{title}: bridge"], figures[f"{title}: DPU"]
        assert bridge.median > 0 and dpu.median > 0
        ratio = figures[f"{title}: DPU / bridge"]
        assert ratio.median == pytest.approx(dpu.median / bridge.median)
    assert figures["one stream: DPU, a packet"].median > 1514  # octets: TSO crossed in one piece
    assert figures["one stream: DPU, parse"].median > 0


def test_a_dropped_packet_fails_the_measurement(monkeypatch):
    with Containers() as dpu:
        dpu.call("rule.add", name="no-ping", priority=1, proto="icmp", action="drop")

        def lose_one(pair, seconds, words):
            if pair is dpu:
                dpu.client.start("ping", "-c", "1", "-W", "1", dpu.address).wait()
            return 1.0

        monkeypatch.setattr(tcp_containers, "gbit_per_second", lose_one)
        with pytest.raises(AssertionError, match="one stream: the DPU dropped 2 packets"):
            tcp_containers._variant("one stream", SimpleNamespace(name="bridge"), dpu, 1, 1, [])


def test_the_profile_says_why_it_is_missing(monkeypatch):
    monkeypatch.setattr(tcp_containers.shutil, "which", lambda _: None)
    assert tcp_containers.worker_profile(None, 1).startswith("no profile: perf is missing")
