"""bench/ndr.py: small, its checks and ratios, and the rates of a device that is known."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from bench import ndr, results
from bench.generator import histogram
from bench.generator.generator import Report
from bench.generator.search import Goal
from bench.kernel_ports import Contender

QUIET = Report(
    seconds=1.0,
    sent=1000,
    octets=60_000,
    unsent=0,
    slipped_s=0.0,
    received=1000,
    duplicated=0,
    reordered=0,
    stale=0,
    corrupted=0,
    foreign=0,
    missed=0,
    latencies=histogram.histogram([0] * 5 + [1]),
)


class Device:
    """A generator before a device with a limit, which sends at most `offered` packets a second."""

    def __init__(self, limit, offered=1e9):
        self.limit, self.offered = limit, offered

    def trial(self, rate, seconds):
        sent = round(min(rate, self.offered) * seconds)
        return replace(QUIET, seconds=seconds, sent=sent, received=min(sent, round(self.limit * seconds)))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"corrupted": 1}, "it: 1 packets arrived with another payload"),
        ({"duplicated": 2}, "it: 2 packets arrived twice"),
    ],
)
def test_what_is_not_as_it_was_sent_is_caught(fields, text):
    ndr.check("it", QUIET)
    with pytest.raises(AssertionError, match=text):
        ndr.check("it", replace(QUIET, **fields))


def test_the_rates_of_a_device_are_found_again_and_again():
    bench = ndr.Bench(None, 1.0)
    for _ in range(2):
        sample = bench._measure("it", Device(400_000))
        assert 400_000 / 1.05 <= sample.ndr <= 400_000
        assert sample.ndr <= sample.pdr <= 400_000 / 0.995
        assert not sample.limited
        assert sample.report.rate == pytest.approx(sample.ndr / 2, rel=1e-4)


def test_what_the_generator_cannot_send_is_no_rate_of_the_device():
    sample = ndr.Bench(None, 1.0)._measure("it", Device(1e9, offered=300_000))
    assert sample.ndr == sample.pdr == 300_000
    assert sample.limited
    assert sample.report.rate == 150_000


def test_a_dead_device_is_no_result():
    with pytest.raises(AssertionError, match="it: no packet arrived"):
        ndr.Bench(None, 1.0)._measure("it", Device(0))


def test_ratios_are_to_peers_of_the_same_socket_kind_and_to_the_bridge():
    contenders = [
        Contender(ndr.LIMIT, None),
        Contender("bridge", None, None, "bridge"),
        Contender("packet peer", None, "af_packet", "packet peer"),
        Contender("xdp peer", None, "af_xdp", "xdp peer"),
        Contender("DPU, af_xdp", None, "af_xdp", "DPU"),
    ]
    rates = {one.name: 1e5 * (1 + n) for n, one in enumerate(contenders)} | {"xdp peer": 0.0}
    taken = {name: [ndr.Sample(rate, rate, name == ndr.LIMIT, QUIET)] for name, rate in rates.items()}
    made = {one.name: one for one in ndr._results(contenders, taken)}
    assert {name for name, one in made.items() if one.unit == "x" and name.startswith("NDR")} == {
        "NDR: DPU, af_xdp / bridge",
        "NDR: DPU, af_xdp / xdp peer",
    }
    assert made["NDR: DPU, af_xdp / bridge"].median == 2.5
    assert made["NDR: DPU, af_xdp / xdp peer"].median == 500  # of the lowest rate, which the peer did not do
    assert made["p99 at 50 % of NDR: DPU, af_xdp / bridge"].lower_is_better
    assert made["no switch, NDR"].median == 0.1
    assert made["no switch, NDR ended by the generator"].median == 100
    assert made["bridge, NDR ended by the generator"].median == 0


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(results.shutil, "which", lambda _, **__: None)
    with pytest.raises(RuntimeError, match="apt-get install dpdk-dev ethtool"):
        ndr.run(1)


def test_a_switch_that_forwards_nothing_fails_and_rests(monkeypatch):
    calls = []
    hosts = SimpleNamespace(near=SimpleNamespace(pid=1), far=SimpleNamespace(pid=2))
    switch = SimpleNamespace(
        pids=(), wires=hosts, begin=lambda: calls.append("begin"), rest=lambda: calls.append("rest")
    )

    def no_ports(*_):
        raise OSError("no ports")

    monkeypatch.setattr(ndr, "KernelPorts", no_ports)
    with pytest.raises(OSError, match="no ports"):
        ndr.Bench(None, 1.0).sample(Contender("it", switch))
    assert calls == ["begin", "rest"]


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.package("dpdk-dev", "ethtool", "iproute2")
def test_all_of_them_are_measured(monkeypatch):
    for name in ("NDR", "PDR"):
        monkeypatch.setattr(ndr, name, Goal(loss_ratio=0.2, width=1.0, tries=1))
    monkeypatch.setattr(ndr, "RATE_MIN", 5e3)
    monkeypatch.setattr(ndr, "RATE_MAX", 2e4)
    made = {one.name: one for one in ndr.run(20, repeats=1)}
    for name in (ndr.LIMIT, "bridge", *ndr.PEERS, "DPU, af_packet", "DPU, af_xdp"):
        assert made[f"{name}, p50 at 50 % of NDR"].median > 0
    assert made["NDR: DPU, af_xdp / testpmd net_af_xdp"].unit == "x"
