"""bench/tcp_containers.py: small, and what its checks catch."""

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


def test_drops_are_caught():
    rule = {"name": "no-iperf", "priority": 65535, "proto": "icmp", "action": "drop"}
    with Containers() as dpu:
        tcp_containers.serve(dpu)
        before = dpu.stats()["drops"]
        dpu.call("rule.add", **rule)
        with pytest.raises(RuntimeError, match="100% packet loss"):
            dpu.client.run("ping", "-c", "1", "-W", "1", dpu.address)
        assert dpu.stats()["drops"] != before
        one_sided = type("Pair", (), {"name": "bridge", "client": dpu.client, "address": dpu.address})

        def lose_one(pair, seconds, words):
            if pair is dpu:
                dpu.client.start("ping", "-c", "1", "-W", "1", dpu.address).wait()
            return 1.0

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tcp_containers, "gbit_per_second", lose_one)
            with pytest.raises(AssertionError, match="the DPU dropped 2 packets"):
                tcp_containers._variant("x", one_sided, dpu, 1, 1, [])


def test_the_profile_says_why_it_is_missing(monkeypatch):
    monkeypatch.setattr(tcp_containers.shutil, "which", lambda _: None)
    assert tcp_containers.worker_profile(None, 1).startswith("no profile: perf is missing")
