"""bench/latency.py: small; percentiles and the check for losses."""

import numpy as np
import pytest

from bench import latency
from bench.peers import pairs, ping_pong
from bench.peers.veth import Veth
from tests import leaks


def test_percentiles_are_of_the_nearest_rank():
    assert latency.percentile([3, 1, 2, 4], 50) == 2
    assert latency.percentile(range(1, 101), 99) == 99
    assert latency.percentile([7], 99) == 7


def test_a_lost_request_is_caught():
    latency.check_answers("3 packets transmitted, 3 received, 0% packet loss", 3)
    with pytest.raises(AssertionError, match="2 received"):
        latency.check_answers("3 packets transmitted, 2 received, 33% packet loss", 3)


def test_what_the_program_prints_is_read():
    times = ping_pong.parse(b"lost=2 damaged=1\n" + np.array([1000, 3000, 2000], np.uint32).tobytes())
    assert (times.lost, times.damaged, times.us(50)) == (2, 1, 2.0)
    with pytest.raises(AssertionError, match="1 answers were not what was sent"):
        ping_pong.checked(times)


@pytest.mark.root
@pytest.mark.package("iproute2", "gcc")
def test_messages_without_an_answer_are_counted():
    with Veth() as pair, ping_pong.built() as program:
        ping_pong.serve(program, pair)
        neighbour = ["lladdr", "02:00:00:00:00:99", "dev", "eth0"]  # not the server's
        pair.client.run("ip", "neighbour", "replace", pair.address, *neighbour)
        asking = [program, "udp", pair.address, ping_pong.PORT, 64, 0.25]
        assert ping_pong.parse(pair.client.run(*asking, text=False)).lost >= 3  # of 100 ms each


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.package("iproute2", "iputils-ping", "iperf3", "gcc", "openvswitch-switch-dpdk")
def test_all_round_trips_are_measured_and_nothing_is_left(monkeypatch):
    monkeypatch.setattr(latency, "PEERS", (pairs.BRIDGE, pairs.DPU))
    before = set(leaks.processes())
    made = {one.name: one for one in latency.run(200, repeats=1, seconds=0.1)}
    assert set(leaks.processes()) - before == set()
    ping = {"ping -f": ("mean",), "ping -A": ("p50", "p99")}
    pong = ("p50", "p99", "p99.9")
    kinds = ("TCP ping-pong", "UDP ping-pong")
    loaded = [f"{kind} beside 1 Gbit/s" for kind in kinds]
    for title, figures in (ping | dict.fromkeys((*kinds, *loaded), pong)).items():
        for figure in figures:
            dpu, bridge = (made[f"{title}, {figure}: {name}"] for name in ("DPU", "bridge"))
            ratio = made[f"{title}, {figure}: DPU / bridge"]
            assert ratio.median == pytest.approx(dpu.median / bridge.median) and ratio.lower_is_better
    assert all(made[f"{kind}: DPU, lost"].median == 0 for kind in kinds)
    assert all(made[f"{title}: DPU, stream beside"].median > 0.05 for title in loaded)
    assert made["wake-up of a process on the other CPU, p50"].median > 0
