"""bench/generator/patterns: what is sent is what was asked for; scapy takes it apart."""

import struct

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw
from scapy.utils import wrpcap

from bench.generator import patterns
from bench.generator.layout import MAGIC, STAMP_BYTES, STAMP_DTYPE
from bench.generator.patterns import INCREMENT, RANDOM, Pattern, from_capture, from_pattern
from tests.bench.generator_frames import frames_of, valid

pytestmark = pytest.mark.in_memory

STREAM = 7


def fields(frame):
    packet = Ether(frame)
    network = packet[IPv6] if packet.haslayer(IPv6) else packet[IP]
    return network.src, network.dst, packet[UDP].sport, packet[UDP].dport


@pytest.mark.parametrize("size", [64, 65, 271, 272, 273, 1518])
@pytest.mark.parametrize("keys", [{}, {"vlan": 5}, {"src": "fd00::1", "dst": "fd00::2"}])
def test_frames_have_the_length_and_valid_checksums(size, keys):
    pattern = Pattern(size=max(size, Pattern(**keys).size_least), **keys)
    for number, frame in enumerate(frames_of(from_pattern(pattern), 3, STREAM)):
        assert len(frame) == pattern.size - 4
        assert valid(frame)
        packet = Ether(frame)
        assert (packet.src, packet.dst) == (pattern.src_mac, pattern.dst_mac)
        assert packet.haslayer(Dot1Q) == ("vlan" in keys)
        stamp = np.frombuffer(bytes(packet[UDP].payload)[:STAMP_BYTES], STAMP_DTYPE)[0]
        assert (stamp["sequence"], stamp["magic"], stamp["stream"]) == (number, MAGIC, STREAM)


def test_flows_count_up_or_are_drawn_and_all_differ():
    vary = {"src": INCREMENT, "sport": INCREMENT, "dst": RANDOM, "dport": RANDOM}
    pattern = Pattern(flows=100, vary=vary, src="10.0.0.200", sport=2000, seed=3)
    pool = from_pattern(pattern)
    seen = [fields(frame) for frame in frames_of(pool, 200, STREAM)]
    assert seen[:100] == seen[100:] and len(set(seen)) == 100
    assert [f[2] for f in seen[:100]] == list(range(2000, 2100))
    assert seen[99][0] == "10.0.1.43"
    assert len({f[1] for f in seen}) == len({f[3] for f in seen}) == 100
    again = [fields(frame) for frame in frames_of(from_pattern(pattern), 100, STREAM)]
    assert again == seen[:100]
    other = from_pattern(Pattern(flows=100, vary=vary, src="10.0.0.200", sport=2000, seed=4))
    assert [fields(frame) for frame in frames_of(other, 100, STREAM)] != again


def test_imix_is_seven_to_four_to_one_and_every_flow_has_every_size():
    pool = from_pattern(Pattern(size="imix", flows=5))
    frames = frames_of(pool, 60, STREAM)
    sizes = [len(frame) + 4 for frame in frames]
    assert [sizes[:12].count(size) for size in (64, 594, 1518)] == [7, 4, 1]
    assert all(map(valid, frames))
    assert len({(len(frame), fields(frame)) for frame in frames}) == 15
    assert pool.octets_mean == pytest.approx((7 * 60 + 4 * 590 + 1514) / 12)


def test_a_tagged_imix_is_lengthened_and_that_is_counted():
    pool = from_pattern(Pattern(size="imix", vlan=9))
    assert pool.padded == 7
    assert min(len(frame) for frame in frames_of(pool, 12, STREAM)) == 64


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"size": 63}, "size = 63: 64 to 1518"),
        ({"size": "large"}, "size = 'large': 64 to 1518 octets with FCS, or imix"),
        ({"size": 1519}, "size = 1519"),
        ({"flows": 0}, "flows = 0: 1 to"),
        ({"flows": 1 << 20}, "flows = 1048576: 1 to"),
        ({"flows": 100, "sport": 65500}, "flows = 100: sport has room for 36 values from 65500 on"),
        ({"flows": 2, "vary": {}}, "flows = 2: 1 if nothing varies"),
        ({"sport": 70000}, "sport = 70000: 0 to 65535"),
        ({"src": "10.0.0"}, "src = '10.0.0': an IPv4 or IPv6 address"),
        ({"dst": "fd00::1"}, "dst = 'fd00::1': an address of the version of src"),
        ({"src_mac": "2:0"}, "src_mac = '2:0': six octets"),
        ({"vlan": 4095}, "vlan = 4095: 1 to 4094"),
        ({"vary": {"mac": INCREMENT}}, "vary = 'mac': src, dst, sport, dport"),
        ({"vary": {"src": "up"}}, "vary src = 'up': increment, random"),
        ({"src": "fd00::1", "dst": "fd00::2"}, "size = 64: 84 or more"),
    ],
)
def test_what_cannot_be_is_refused(keys, text):
    with pytest.raises(ValueError, match=text):
        from_pattern(Pattern(**keys))


def capture(tmp_path, *packets):
    path = tmp_path / "some.pcap"
    wrpcap(str(path), packets)
    return path


def test_a_capture_is_sent_again_with_its_headers(tmp_path):
    head = Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b")
    ours = [
        head / IP(src="192.0.2.1", dst="192.0.2.2", ttl=9) / UDP(sport=5, dport=6) / Raw(b"x" * 500),
        head / IP(src="192.0.2.1", dst="192.0.2.2") / TCP(sport=7, dport=8, options=[("MSS", 1400)]),
        head / Dot1Q(vlan=3) / IPv6(src="fd00::1", dst="fd00::2") / UDP(sport=9, dport=10) / Raw(b"abc"),
    ]
    others = [
        head / ARP(),
        head / IP() / ICMP(),
        head / IP(flags="MF") / UDP() / Raw(b"y" * 64),
        head / IP() / UDP() / Raw(b"z" * 1600),
    ]
    pool = from_capture(capture(tmp_path, *ours[:2], *others, ours[2]))
    assert pool.skipped == {"no UDP or TCP, or a fragment": 3, "longer than 1518 octets with FCS": 1}
    assert pool.padded == 2
    frames = frames_of(pool, 4, STREAM)
    assert all(map(valid, frames))
    first, second, third, again = map(Ether, frames)
    assert first[IP].ttl == 9 and first[UDP].sport == 5 and len(first) == len(ours[0])
    assert second[TCP].options == [("MSS", 1400)] and len(second[TCP].payload) == STAMP_BYTES
    assert third[Dot1Q].vlan == 3 and third[UDP].dport == 10 and third[IPv6].plen == 8 + STAMP_BYTES
    assert again[UDP].sport == 5


def test_captures_without_packets_to_send_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"pcap = 'some.pcap': packets that can be sent; it has \{"):
        from_capture(capture(tmp_path, Ether() / ARP()))
    text = tmp_path / "text.pcap"
    text.write_text("no capture")
    with pytest.raises(ValueError, match=r"text\.pcap"):
        from_capture(text)
    with pytest.raises(ValueError, match=r"nowhere.pcap.*No such file"):
        from_capture(tmp_path / "nowhere.pcap")
    loopback = tmp_path / "null.pcap"
    loopback.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 0))
    with pytest.raises(ValueError, match="link type Ethernet, not 0"):
        from_capture(loopback)


def test_a_capture_with_too_many_packets_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(patterns, "CAPTURE_FRAMES_MAX", 1)
    packet = Ether() / IP() / UDP()
    with pytest.raises(ValueError, match="1 packets at most"):
        from_capture(capture(tmp_path, packet, packet))
