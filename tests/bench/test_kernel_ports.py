"""bench/kernel_ports.py, kernel_ports_tcp.py: small, their checks, and that the DPU's ports carry packets."""

from types import SimpleNamespace

import pytest

from bench import kernel_ports, kernel_ports_tcp, results
from bench.kernel_ports import Contender
from bench.peers.wires import Wires
from bench.peers.wires_dpu import WiresDpu
from tests.bench.test_wires import carries, count, program  # noqa: F401  (fixtures)

KINDS = [kernel_ports.AF_PACKET, kernel_ports.AF_XDP]
needs_daemon = [
    pytest.mark.root,
    pytest.mark.package("gcc", "libc6-dev", "ethtool", "iproute2"),
]


def marked(test):
    """`test` with the marks of those that start a daemon."""
    for mark in needs_daemon:
        test = mark(test)
    return test


GOOD = {"frames": 9, "checked": 1, "total_sent": 10, "total_frames": 10, "total_octets": 640}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"frames": 0}, "no packet of 64 octets arrived"),
        ({"checked": 0, "total_frames": 10_000}, "no packet could be compared"),
        ({"damaged": 1}, "1 of 1 packets arrived with other octets"),
        ({"repeated": 1}, "arrived twice"),
        ({"reordered": 1}, "after later ones"),
        ({"total_sent": 9}, "more packets arrived than were sent"),
        ({"total_octets": 641}, "of another length"),
    ],
)
def test_what_is_not_as_it_was_sent_is_caught(fields, text):
    kernel_ports.check("it", count(**GOOD), 64)
    with pytest.raises(AssertionError, match=f"it: .*{text}"):
        kernel_ports.check("it", count(**GOOD | fields), 64)


@pytest.mark.parametrize("script", [kernel_ports, kernel_ports_tcp])
def test_missing_packages_are_named(script, monkeypatch):
    monkeypatch.setattr(results.shutil, "which", lambda _, **__: None)
    with pytest.raises(RuntimeError, match=r"apt-get install .*ethtool .*openvswitch-switch-dpdk"):
        script.run(1)


def test_ratios_are_to_the_best_of_the_same_socket_kind(monkeypatch):
    rates = {"bridge": 2, "slow": 1, "fast": 4, "other": 9, "OVS, packet sockets": 3, "DPU, af_packet": 6}
    packet = kernel_ports.AF_PACKET
    contenders = [
        Contender("bridge", None, None, "bridge"),
        Contender("slow", None, packet, "testpmd"),
        Contender("fast", None, packet, "testpmd"),
        Contender("other", None, kernel_ports.AF_XDP, "testpmd"),
        Contender("OVS, packet sockets", None, packet, "OVS"),
        Contender("DPU, af_packet", None, packet, "DPU"),
    ]

    def measure(_program, one, *_):
        made = count(seconds=1.0, frames=rates[one.name], sent=10, total_sent=10, total_frames=5)
        return kernel_ports.Sample(made, 0.0)

    monkeypatch.setattr(kernel_ports, "measure", measure)
    made = {one.name: one for one in kernel_ports._compare(None, contenders, 64, 1, 2, [])}
    ratios = {name.removeprefix("64 B: "): one.median for name, one in made.items() if one.unit == "x"}
    assert ratios == {
        "DPU, af_packet / testpmd": 1.5,
        "DPU, af_packet / OVS": 2,
        "DPU, af_packet / bridge": 3,
    }
    assert made["64 B: slow, lost"].median == 50


def test_a_switch_that_forwards_nothing_fails_and_rests(monkeypatch):
    calls = []
    switch = SimpleNamespace(
        pids=(), wires=None, begin=lambda: calls.append("begin"), rest=lambda: calls.append("rest")
    )
    monkeypatch.setattr(kernel_ports.wire_load, "load", lambda *_: count())
    with pytest.raises(AssertionError, match="it: no packet"):
        kernel_ports.measure_undisturbed(None, Contender("it", switch), 64, 1)
    assert calls == ["begin", "rest"]


@marked
@pytest.mark.parametrize("kind", KINDS)
def test_the_dpu_forwards(carries, kind, socket_dir):  # noqa: F811
    with Wires(1, gro=True) as wires, WiresDpu(wires, 1, socket_dir, kind) as switch:
        carries(switch)


@marked
@pytest.mark.slow
@pytest.mark.package("dpdk-dev", "openvswitch-switch-dpdk")
def test_all_of_them_are_measured(monkeypatch):
    monkeypatch.setattr(kernel_ports, "FRAME_OCTETS", (64,))
    monkeypatch.setattr(kernel_ports, "EASY_REPEATS", 1)
    made = {one.name: one for one in kernel_ports.run(100, repeats=1)}
    for name in ("no switch", "bridge", *kernel_ports.TESTPMD, "OVS, afxdp", *(f"DPU, {k}" for k in KINDS)):
        assert made[f"64 B: {name}"].median > 0
    assert made["64 B: DPU, af_packet / testpmd"].unit == "x"


@marked
@pytest.mark.slow
@pytest.mark.package("iperf3", "iputils-ping", "openvswitch-switch-dpdk")
def test_tcp_and_round_trips_are_measured():
    made = {one.name: one for one in kernel_ports_tcp.run(1, repeats=1, requests=20)}
    names = [kernel_ports_tcp.BRIDGE, *kernel_ports_tcp.OVS, kernel_ports_tcp.OFFLOAD]
    names += [kernel_ports_tcp.WITHOUT, kernel_ports_tcp.DPU_XDP]
    for name in names:
        assert made[f"TCP: {name}"].median > 0
        assert made[f"ping -A, p50: {name}"].median > 0
    assert made["TCP: DPU, af_packet / DPU, af_packet, no offload"].unit == "x"
