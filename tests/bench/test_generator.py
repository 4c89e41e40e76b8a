"""python -m bench.generator: over real ports of each kind, and what it refuses."""

import re
import subprocess
import sys

import pytest

from bench.generator.__main__ import main
from bench.peers import vhost_dpu
from bench.peers.wires import INTERFACE, Direct
from bench.results import ROOT

RATE, SECONDS = 5000, 0.3


def generator(*words, seconds=SECONDS):
    """Run the command line as a user does."""
    argv = [sys.executable, "-m", "bench.generator", "--seconds", seconds, *words]
    return subprocess.run(map(str, argv), cwd=ROOT, capture_output=True, text=True, check=False)


def figures(done):
    """{line of the table: [figure of each column]}."""
    assert done.returncode == 0, done.stderr
    rows = (re.split(r"  +", line.strip()) for line in done.stdout.splitlines() if "  " in line)
    return {
        name: [float(c.replace(",", "")) for c in cells]
        for name, *cells in rows
        if all(c[0].isdigit() for c in cells)
    }


def check(found, least=0.5 * RATE * SECONDS):
    """Everything that was sent came, once, in order and whole."""
    assert least <= found["sent"][-1] <= 1.01 * RATE * SECONDS
    assert found["received"] == found["sent"]
    for name in ("lost", "duplicated", "reordered", "stale", "corrupted", "missed"):
        assert set(found[name]) == {0}, found
    assert 0 < found["latency p50, us"][-1] <= found["latency max, us"][-1]


@pytest.mark.root
@pytest.mark.package("ethtool", "iproute2")
@pytest.mark.parametrize("transport", ["af_packet", "af_xdp"])
def test_packets_cross_a_wire(transport):
    with Direct(1, gro=True) as direct:
        ends = ["--netns", f"pid:{direct.wires.near.pid}", "--rx-netns", f"pid:{direct.wires.far.pid}"]
        ports = ["--transport", transport, "--tx", INTERFACE, "--rx", INTERFACE, *ends]
        done = generator(*ports, "--rate", RATE, "--size", "imix", "--flows", 7, "--vlan", 3)
    assert "7 of them lengthened" in done.stdout
    check(figures(done))


@pytest.mark.root
@pytest.mark.package("gcc", "libc6-dev")
def test_packets_cross_the_dpu_on_libdpu(socket_dir):
    socket = f"{socket_dir}/a.sock"
    with vhost_dpu.VhostDpu([socket], 1, socket_dir, vhost_dpu.LOOPED):
        done = generator("--transport", "libdpu", "--tx", socket, "--rx", socket, "--rate", RATE)
    check(figures(done))


@pytest.mark.root
@pytest.mark.package("ethtool", "iproute2")
def test_the_own_limit_is_shown_beside():
    done = generator("--transport", "af_packet", "--own-limit", seconds=0.1)
    found = figures(done)
    assert "own limit" in done.stdout
    assert found["received"][0] > 1000 and found["corrupted"] == [0]


@pytest.mark.root
@pytest.mark.package("ethtool", "iproute2")
def test_without_a_receiver_nothing_is_said_of_losses():
    with Direct(1) as direct:
        where = ["--netns", f"pid:{direct.wires.near.pid}", "--tx", INTERFACE]
        done = generator("--transport", "af_packet", *where, "--rate", RATE)
        assert re.search(r"^lost +-$", done.stdout, re.M), done.stdout + done.stderr
        direct.wires.near.run("ip", "link", "set", INTERFACE, "down")
        refused = generator("--transport", "af_packet", *where)
    assert refused.returncode == 1
    assert f"bench.generator: {INTERFACE} refuses packets: " in refused.stderr


@pytest.mark.root
@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("", "required: --transport"),
        ("--transport dpdk", "invalid choice: 'dpdk' (choose from 'af_packet', 'af_xdp', 'libdpu')"),
        ("--transport af_packet", "--tx: the port to send on"),
        ("--transport af_packet --tx nope", "port 'tx': link: no interface 'nope'"),
        ("--transport af_packet --tx lo --netns nope", "network namespace 'nope'"),
        ("--transport libdpu --tx /nope", "connect to /nope: No such file"),
        ("--transport af_xdp --tx lo --size 63", "size = 63: 64 to 1518 octets with FCS, or imix"),
        ("--transport af_xdp --tx lo --rate 1e9", "--rate: '1e9': 0 to 100000000, such as 100k or 1.5M"),
        ("--transport af_xdp --tx lo --pcap /nope", "pcap '/nope'"),
        ("--transport af_packet --tx lo --cpu 9999", "--cpu 9999: "),
    ],
)
def test_bad_input_is_refused_with_what_is_allowed(words, text, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench.generator", *words.split()])
    with pytest.raises(SystemExit) as stopped:
        main()
    printed = capsys.readouterr().err + str(stopped.value)
    assert text in printed
