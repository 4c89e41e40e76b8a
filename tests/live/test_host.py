"""Host programs on vhost_user ports of a real daemon: frames, offloads, limits."""

import hashlib
import os

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from dpu_runtime.host import DpuError, Error
from tests.live.daemon import wait_until
from tests.live.host_ports import (
    GSO_TCPV4,
    NEEDS_CSUM,
    TCP_HEADERS_BYTES,
    TCP_OWED,
    UDP_OWED,
    HostPort,
    checksum_is_right,
    connect,
    mac,
    owed,
    tcp_segment,
    udp,
)

pytestmark = [pytest.mark.root, pytest.mark.compiled]

PAYLOAD_BYTES = 65_000
GSO = {**TCP_OWED, "gso_type": GSO_TCPV4, "gso_size": 1448, "hdr_len": TCP_HEADERS_BYTES}


@pytest.fixture
def host_port(dpu):
    """Make ports with a host program on each; they hang up in the end."""
    made = []

    def make(name, **options):
        made.append(HostPort(dpu, name, len(made) + 1, **options))
        return made[-1]

    yield make
    for port in made:
        port.close()


@pytest.fixture
def pair(host_port):
    """Two host programs that the switch knows, on ports that take jumbo frames."""
    a, b = (host_port(name, keys={"mtu": 9000}) for name in "ab")
    connect(a, b)
    return a, b


@pytest.mark.parametrize("size", [18, 64, 214, 215, 1472, 8000])
def test_frames_cross_as_they_are(dpu, pair, size):
    a, b = pair
    frames = [udp(1, 2, os.urandom(size)) for _ in range(200)]
    for frame in frames[:100]:
        assert a.port.send(frame, timeout=2)
    assert [got[0] for got in b.receive(100)] == frames[:100]
    for frame in frames[100:]:
        assert a.port.send(frame, timeout=2)
    assert [got[0] for got in b.receive(100)] == frames[100:]


def test_port_show_tells_what_was_negotiated(pair):
    a, _ = pair
    info = a.info()
    assert info["state"] == "up"
    assert info["offloads"]["tso4"] and info["offloads"]["tx_csum"]
    assert info["vhost_user"]["connected"]
    assert info["vhost_user"]["peer_pid"] == os.getpid()
    assert {"CSUM", "HOST_TSO4", "MRG_RXBUF", "VERSION_1"} <= set(info["vhost_user"]["features"])
    a.close()
    assert wait_until(lambda: a.info()["state"] == "not connected")
    assert any("not connected" in note for note in a.info()["notes"])


def test_large_segment_crosses_in_one_piece_with_its_checksum_owed(dpu, pair):
    a, b = pair
    frame = tcp_segment(1, 2, os.urandom(PAYLOAD_BYTES))
    for _ in range(20):
        assert a.port.send(frame, timeout=2, **_offload(GSO))
        ((octets, flags, gso_type, gso_size),) = b.receive()
        assert octets == frame
        assert (flags & NEEDS_CSUM, gso_type, gso_size) == (NEEDS_CSUM, GSO_TCPV4, 1448)
    counters = b.counters()
    assert (counters["gso_segments"], counters["tx_checksums"]) == (0, 0)


def test_segmented_and_finished_for_a_port_without_offloads(dpu, host_port):
    a, b = host_port("a"), host_port("b", offloads=0)
    connect(a, b)
    payload = os.urandom(PAYLOAD_BYTES)
    assert a.port.send(tcp_segment(1, 2, payload), timeout=2, **_offload(GSO))
    segments = -(-PAYLOAD_BYTES // 1448)
    got = b.receive(segments)
    assert all(checksum_is_right(octets) and flags & NEEDS_CSUM == 0 for octets, flags, _, _ in got)
    assert b"".join(bytes(Ether(octets)[TCP].payload) for octets, *_ in got) == payload
    assert b.counters()["gso_segments"] == segments - 1


def test_owed_checksum_is_finished_for_a_port_without_offloads(dpu, host_port):
    a, b = host_port("a"), host_port("b", offloads=0)
    connect(a, b)
    frame = owed(udp(1, 2, os.urandom(1200)), 6)
    assert not checksum_is_right(frame)
    assert a.port.send(frame, timeout=2, **_offload(UDP_OWED))
    ((octets, flags, _, _),) = b.receive()
    assert flags & NEEDS_CSUM == 0
    assert checksum_is_right(octets)
    assert b.counters()["tx_checksums"] == 1


@pytest.mark.package("iproute2", "iputils-ping")
def test_host_program_and_container(dpu, host_port):
    """Large frames between a host program and Linux: UDP that Linux fragments, and a reply it reads."""
    a = host_port("a")
    box = dpu.container("box")
    box.run("ip", "neigh", "replace", "10.7.0.101", "lladdr", mac(1), "dev", "eth0", "nud", "permanent")
    a.announce()
    with box.socket(kind=2) as sock:
        sock.bind((box.ipv4, 2000))
        payload = os.urandom(1400)
        frame = (
            Ether(src=mac(1), dst=box.mac()) / IP(src="10.7.0.101", dst=box.ipv4) / UDP(sport=1, dport=2000)
        )
        assert a.port.send(owed(bytes(frame / payload), 6), timeout=2, **_offload(UDP_OWED))
        assert sock.recvfrom(2000) == (payload, ("10.7.0.101", 1))
        sock.sendto(payload, ("10.7.0.101", 1))
        ((octets, *_),) = a.receive()
        assert bytes(Ether(octets)[UDP].payload) == payload
    assert box.snmp("Udp", "InCsumErrors") == 0


def test_nobody_reads(dpu, pair):
    """A guest that takes nothing costs its own packets only."""
    a, b = pair
    before = dpu.drops("tx_full")
    for _ in range(5000):
        assert a.port.send(udp(1, 2, b"x" * 100), timeout=2)
    assert wait_until(lambda: dpu.drops("tx_full") > before)
    assert dpu.settled()
    assert b.buffers_are_all_there()
    b.receive(5000, timeout_s=0.5)
    assert a.port.send(udp(1, 2, b"again"), timeout=2)
    assert b.receive()[0][0].endswith(b"again")


def test_rules_apply(dpu, pair):
    a, b = pair
    rule = dpu.rule(in_port="a", proto="udp", dport="53")
    assert a.port.send(udp(1, 2, b"no", dport=53), timeout=2)
    assert a.port.send(udp(1, 2, b"yes", dport=54), timeout=2)
    assert [Ether(octets)[UDP].dport for octets, *_ in b.receive(2, timeout_s=0.5)] == [54]
    assert dpu.hits(rule) == 1
    dpu.call("rule.del", name=rule)


def test_port_goes_and_the_program_is_told(dpu, host_port):
    a = host_port("a")
    dpu.call("port.del", name="a")
    assert not a.path.exists()
    with pytest.raises(DpuError) as refused:
        a.port.wait(2)
    assert refused.value.code == Error.ELINK
    assert not a.port.link


@pytest.mark.parametrize("large", [False, True])
def test_cross_connect(dpu, large):
    """Frames go straight to the other port, small ones and large ones with a checksum owed."""
    text = "".join(
        f'[[port]]\nname = "{name}"\nkind = "vhost_user"\n'
        f'socket = "{dpu.folder}/{name}.sock"\nxconnect = "{other}"\n'
        for name, other in (("a", "b"), ("b", "a"))
    )
    dpu.call("config.apply", toml=text)
    dpu.rule(in_port="a")  # drops everything, and is not asked
    a, b = (HostPort(dpu, name, number, add=False) for number, name in enumerate("ab", 1))
    try:
        if large:
            frames = [tcp_segment(1, 2, os.urandom(PAYLOAD_BYTES)) for _ in range(10)]
            for frame in frames:
                assert a.port.send(frame, timeout=2, **_offload(GSO))
                assert b.receive()[0][0] == frame
        else:
            frames = [udp(1, 2, os.urandom(900)) for _ in range(100)]
            for frame in frames:
                assert a.port.send(frame, timeout=2)
            got = b.receive(100)
            digest = hashlib.sha256(b"".join(octets for octets, *_ in got)).digest()
            assert digest == hashlib.sha256(b"".join(frames)).digest()
            assert dpu.stats()["kernels"]["xconnect"]["packets"] >= 100
    finally:
        a.close()
        b.close()


def _offload(fields):
    """Keywords of `send` for these fields."""
    return {key: value for key, value in fields.items() if key != "flags"}
