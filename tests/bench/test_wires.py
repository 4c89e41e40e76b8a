"""bench/peers/wires, wire_load: what is sent is counted and compared, and each peer carries it."""

import sys

import pytest

from bench.peers import ovs_kernel, testpmd, wire_load
from bench.peers.hugepages import hugepages
from bench.peers.wire_load import Count
from bench.peers.wires import INTERFACE, Direct, KernelBridge, Wires

SECONDS = 0.15
CPU = 1
FORGED = 256  # packets that somebody else sends
DESTINATION, SOURCE = bytes.fromhex("020000000302"), bytes.fromhex("020000000301")

pytestmark = [pytest.mark.root, pytest.mark.package("gcc", "libc6-dev", "ethtool", "iproute2")]


@pytest.fixture(scope="module")
def program():
    """The program, compiled once."""
    with wire_load.built() as path:
        yield path


def count(**fields):
    """A Count with these fields, the others 0."""
    return Count(**(dict.fromkeys(Count.__dataclass_fields__, 0) | fields))


def test_a_line_is_parsed():
    words = " ".join(f"{name}={n}" for n, name in enumerate(Count.__dataclass_fields__))
    assert wire_load.parse(words.replace("seconds=0", "seconds=0.5")) == Count(0.5, *range(1, 11))


def test_lost_is_a_part_of_all_that_was_sent():
    assert count(total_sent=200, total_frames=150).lost_percent == 25
    assert count().lost_percent == 0
    assert count(seconds=0.5, frames=10, sent=20).rate == 20
    assert count(seconds=0.5, frames=10, sent=20).sent_rate == 40


@pytest.mark.parametrize("rate", [None, 20_000])
@pytest.mark.parametrize("octets", [64, 1500])
def test_what_is_sent_arrives_once_and_whole(program, octets, rate):
    with Direct(CPU, gro=True) as direct:
        made = wire_load.load(program, direct.wires, 0, octets, SECONDS, rate, warm_up=0.05)
    assert made.total_frames == made.total_sent > made.frames > 500
    assert made.total_octets == made.total_frames * octets
    assert made.checked >= made.total_frames // 256
    assert made.damaged == made.repeated == made.reordered == made.missed == 0
    assert made.seconds >= SECONDS
    if rate:
        assert made.sent_rate < 1.1 * rate


def test_packets_that_are_not_the_senders_are_noticed(program):
    """Somebody sends packets to the same address meanwhile."""
    forged = DESTINATION + SOURCE + bytes.fromhex("0800") + bytes(50)
    code = f"""
import socket, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
s.bind(("{INTERFACE}", 0))
for _ in range({FORGED}):
    s.send(bytes.fromhex("{forged.hex()}"))
    time.sleep(0.002)
"""
    with Direct(CPU, gro=True) as direct:
        process = direct.wires.near.start(sys.executable, "-c", code)
        made = wire_load.load(program, direct.wires, 0, 64, 0.3, 20_000)
        process.wait()
    assert 0 < made.damaged <= FORGED
    assert made.total_frames > made.total_sent


def test_a_program_that_fails_says_why(program):
    with Direct(CPU, gro=True) as direct, pytest.raises(RuntimeError, match="usage: wire_load"):
        wire_load.load(program, direct.wires, 0, 10, SECONDS)


@pytest.fixture
def carries(program):
    """Check that something that joins wires forwards packets as they are, and again after a rest."""

    def check(switch):
        for octets in (64, 1500):
            switch.begin()
            made = wire_load.load(program, switch.wires, 0, octets, SECONDS, 20_000, warm_up=0.05)
            switch.rest()
            assert made.frames > 500
            assert made.total_octets == made.total_frames * octets
            assert made.damaged == made.repeated == made.reordered == 0

    return check


def test_the_bridge_forwards(carries):
    with KernelBridge(CPU, gro=True) as bridge:
        carries(bridge)


@pytest.mark.package("dpdk-dev")
@pytest.mark.parametrize("driver", ["net_af_packet", "net_af_xdp"])
def test_testpmd_forwards(carries, driver):
    with (
        hugepages(testpmd.MEMORY_MB + 32),
        Wires(CPU, gro=True) as wires,
        testpmd.KernelPorts(wires, CPU, driver) as switch,
    ):
        carries(switch)


@pytest.mark.package("openvswitch-switch-dpdk")
@pytest.mark.parametrize("afxdp", [False, True])
def test_open_vswitch_forwards(carries, socket_dir, afxdp):
    with Wires(CPU, gro=True) as wires, ovs_kernel.OvsKernel(wires, CPU, socket_dir, afxdp) as switch:
        carries(switch)
