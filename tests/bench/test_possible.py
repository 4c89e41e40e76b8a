"""What is possible: which ratios have a floor, how it is derived, and that its rows are measured."""

import json

import pytest

from bench import possible
from bench.possible import FLOORS, floor_of
from bench.report import FIGURES

pytestmark = pytest.mark.in_memory

# Scripts that compare packets, octets or times of packets with a peer: each of their ratios has a floor.
WITH_FLOORS = (
    "tcp_containers",
    "latency",
    "udp_containers",
    "applications",
    "vhost_user",
    "vhost_tso",
    "kernel_ports",
    "kernel_ports_tcp",
)
LIMITS = {
    "bare ring, 64 B": 20.0,
    "HTTP, 1 KB, requests: veth": 4.0,
    "veth pair, 64 B": 2.0,
    "af_xdp socket, 64 B, transmit": 0.25,
    "af_packet socket, 64 B, transmit": 1.0,
    "TCP over a veth pair, one stream": 30.0,
    "TCP over a veth pair, 4 streams": 40.0,
    "TAP, 64 KB, read and write": 26.064,
    "TAP, 64 B, read and write": 2.0,
    "ping -A, p50, over a veth pair": 9.0,
    "UDP ping-pong, p99.9, over a veth pair": 20.0,
}


@pytest.mark.parametrize("script", WITH_FLOORS)
def test_every_ratio_to_a_peer_has_a_floor(script):
    path = FIGURES / f"{script}.json"
    rows = json.loads(path.read_text())["results"] if path.exists() else []  # not measured yet
    names = [row["name"] for row in rows if row["unit"] == "x"]
    assert [name for name in names if floor_of(script, name) is None] == []


@pytest.mark.parametrize(
    ("script", "figure", "value"),
    [
        ("vhost_user", "port to port, 64 B: DPU, 1000 rules / testpmd io", 20),
        ("kernel_ports", "64 B: DPU, af_xdp / bridge", 2),
        ("kernel_ports", "64 B: DPU, af_packet / bridge", 1),
        ("tcp_containers", "one stream, 1000 rules: DPU / bridge", 20),
        ("tcp_containers", "4 streams: DPU / bridge", 20),
        ("latency", "ping -A, p50: DPU / bridge", 13),
        ("latency", "UDP ping-pong beside 1 Gbit/s, p99.9: DPU / veth", 24),
        ("kernel_ports_tcp", "ping -A, p50: DPU, af_packet / bridge", 11),
        ("kernel_ports_tcp", "TCP: DPU, af_packet / bridge", 30),
        ("applications", "HTTP, 1 KB, requests: DPU / bridge", 4),
        ("growth", "rules, 100: DPU / nftables, list", 20),
        ("latency", "ping -A, p99: DPU / bridge", None),  # not measured
        ("latency", "something else: DPU / bridge", None),
        ("start", "64 B: DPU, af_xdp / bridge", None),
    ],
)
def test_the_floor_is_made_of_what_was_measured(script, figure, value):
    assert possible.possible(script, figure, LIMITS) == (value and pytest.approx(value, rel=1e-3))


def test_it_is_said_how_a_floor_is_derived():
    words = possible.derived("kernel_ports", "64 B: DPU, af_xdp / bridge")
    assert words.startswith('the least of "veth pair, 64 B" and 1 / "af_xdp socket, 64 B, transmit"')
    assert possible.derived("kernel_ports", "64 B: bridge / DPU") == ""


def test_every_line_is_of_a_script_and_of_rows_that_are_measured():
    from bench.suite import SUITE

    assert {floor.script for floor in FLOORS} <= {bench.name for bench in SUITE}
