"""The switch on real ports: VLANs, spoofed addresses, floods, moves, checksums of hand-made frames."""

import time

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from tests.live.daemon import wait_until
from tests.wires import next_frame

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2", "iputils-ping")]

BROADCAST = "ff:ff:ff:ff:ff:ff"
LOCAL_EXPERIMENT = 0x88B5  # IEEE 802 local experimental EtherType: nobody answers
QUIET_S = 0.3  # long enough for a frame that should not come


def frame(text, vlan=None, src="02:aa:00:00:00:01", dst=BROADCAST):
    """A frame that hosts ignore, tagged if `vlan` is given."""
    tag = Dot1Q(vlan=vlan, prio=5, type=LOCAL_EXPERIMENT) if vlan else None
    ether = Ether(src=src, dst=dst) if tag else Ether(src=src, dst=dst, type=LOCAL_EXPERIMENT)
    payload = Raw(text.encode().ljust(50, b"."))
    return bytes(ether / tag / payload if tag else ether / payload)


def arrives(wire, sent):
    """Whether exactly this frame comes in."""
    return next_frame(wire, lambda got: got == sent) is not None


def test_frames_arrive_octet_for_octet(dpu):
    a, b = dpu.container("a", mtu=9000), dpu.container("b", mtu=9000)
    with a.wire() as out, b.wire() as into:
        for size in (60, 61, 255, 256, 257, 1514, 9014):
            sent = frame("x") + bytes(range(256)) * 40
            out.send(sent[:size])
            assert arrives(into, sent[:size]), size


def test_access_ports_of_two_vlans_do_not_see_each_other(dpu):
    a, b = dpu.container("a", vlan=10), dpu.container("b", vlan=10)
    other = dpu.container("other", vlan=20)
    a.ping(b.ipv4, 2)
    assert other.ping(a.ipv4, 1, "-W", 1, check=False).returncode == 1
    with a.wire() as out, other.wire(QUIET_S) as into:
        out.send(frame("vlan 10"))
        assert next_frame(into) is None
    assert dpu.port("other")["tx_packets"] == 0


def test_tag_that_an_access_port_must_not_use(dpu):
    a = dpu.container("a", vlan=10)
    dpu.container("b", vlan=20)
    before = dpu.drops("vlan_denied")
    with a.wire() as out:
        out.send(frame("in another VLAN", vlan=20))
    assert wait_until(lambda: dpu.drops("vlan_denied") == before + 1)
    assert dpu.port("a")["rx_dropped"] == 1


def test_trunk_carries_tags_of_its_vlans_only(dpu):
    trunk, ten = dpu.container("trunk", trunk=[10, 20]), dpu.container("ten", vlan=10)
    twenty = dpu.container("twenty", vlan=20)
    with trunk.wire() as trunk_wire, ten.wire(QUIET_S) as ten_wire, twenty.wire(QUIET_S) as twenty_wire:
        trunk_wire.send(frame("to ten", vlan=10))
        assert arrives(ten_wire, frame("to ten"))
        assert next_frame(twenty_wire) is None
        twenty_wire.send(frame("from twenty", src="02:aa:00:00:00:02"))
        got = next_frame(trunk_wire)
        tag = Ether(got)[Dot1Q]
        assert (tag.vlan, tag.prio, got[18:]) == (20, 0, frame("from twenty")[14:])
        before = dpu.drops("vlan_denied")
        trunk_wire.send(frame("not a member", vlan=30))
        trunk_wire.send(frame("untagged"))
        assert wait_until(lambda: dpu.drops("vlan_denied") == before + 2)


def test_tag_crosses_ports_without_vlan_untouched(dpu):
    a, b = dpu.container("a"), dpu.container("b")
    with a.wire() as out, b.wire() as into:
        out.send(frame("tagged", vlan=77))
        assert arrives(into, frame("tagged", vlan=77))


def test_spoofed_source_address(dpu):
    a, b = dpu.container("a", spoof_check=True), dpu.container("b")
    a.ping(b.ipv4)
    before = dpu.drops("mac_spoof")
    with a.wire() as out, b.wire(QUIET_S) as into:
        for _ in range(3):
            out.send(frame("spoofed"))
        assert next_frame(into) is None
        own = frame("own", src=a.mac())
        out.send(own)
        assert arrives(into, own)
    assert dpu.drops("mac_spoof") == before + 3
    assert dpu.port("a")["rx_dropped"] == 3


def damaged(layer4, container):
    """An IPv4 packet to `container` whose layer 4 checksum is wrong by one bit."""
    ether = Ether(src="02:aa:00:00:00:01", dst=container.mac())
    packet = bytearray(bytes(ether / IP(src="10.7.0.99", dst=container.ipv4) / layer4 / Raw(b"damaged" * 9)))
    packet[-1] ^= 1
    return bytes(packet)


@pytest.mark.parametrize("layer4", [UDP(sport=9, dport=9), ICMP()], ids=["udp", "icmp"])
def test_wrong_checksum_is_dropped_where_it_is_verified(dpu, layer4):
    a, b = dpu.container("a", verify_checksum=True), dpu.container("b")
    careless = dpu.container("careless")
    before = dpu.drops("l4_checksum")
    with a.wire() as out, careless.wire() as careless_out, b.wire(QUIET_S) as into:
        bad = damaged(layer4, b)
        out.send(bad)
        assert next_frame(into) is None
        careless_out.send(bad)
        assert arrives(into, bad)
        good = bytes([*bad[:-1], bad[-1] ^ 1])
        out.send(good)
        assert arrives(into, good)
    assert dpu.drops("l4_checksum") == before + 1
    a.ping(b.ipv4)  # an owed checksum is not a wrong one


def test_malformed_frames_are_dropped_by_name(dpu):
    a, b = dpu.container("a", verify_checksum=True), dpu.container("b")
    ether = Ether(src="02:aa:00:00:00:01", dst=b.mac())
    bad = {
        "ipv4_header": ether / IP(ihl=3, dst=b.ipv4) / Raw(bytes(40)),
        "ipv4_length": ether / IP(len=2000, dst=b.ipv4) / Raw(bytes(40)),
        "ipv4_checksum": ether / IP(chksum=1, dst=b.ipv4) / Raw(bytes(40)),
        "udp_length": ether / IP(dst=b.ipv4) / UDP(len=7) / Raw(bytes(40)),
        "source_multicast": Ether(src="03:00:00:00:00:01", dst=b.mac()) / Raw(bytes(46)),
        "link_local": Ether(src="02:aa:00:00:00:01", dst="01:80:c2:00:00:0e") / Raw(bytes(46)),
    }
    before = dpu.stats()["drops"]
    with a.wire() as out, b.wire(QUIET_S) as into:
        for packet in bad.values():
            out.send(bytes(packet))
        assert next_frame(into) is None
    after = dpu.stats()["drops"]
    assert {reason: after.get(reason, 0) - before.get(reason, 0) for reason in bad} == dict.fromkeys(bad, 1)
    assert dpu.port("a")["rx_dropped"] == len(bad)


def test_flood_goes_to_all_others_and_counts_copies(dpu):
    containers = [dpu.container(f"c{n}") for n in range(5)]
    before = dpu.stats()
    wires = [container.wire(QUIET_S) for container in containers]
    try:
        wires[0].send(frame("to all"))
        assert [arrives(wire, frame("to all")) for wire in wires] == [False, True, True, True, True]
    finally:
        for wire in wires:
            wire.close()
    after = dpu.stats()
    assert after["switch"]["flooded"] - before["switch"]["flooded"] == 1
    assert after["balance"]["copies"] - before["balance"]["copies"] == 3
    assert [after["ports"][f"c{n}"]["tx_packets"] for n in range(5)] == [0, 1, 1, 1, 1]


def test_flood_through_ports_with_and_without_tags(dpu):
    source, native = dpu.container("source", vlan=10), dpu.container("native", vlan=10)
    trunk, plain = dpu.container("trunk", trunk=[10]), dpu.container("plain", vlan=11)
    with (
        source.wire() as out,
        native.wire() as native_wire,
        trunk.wire() as trunk_wire,
        plain.wire(QUIET_S) as plain_wire,
    ):
        out.send(frame("mixed"))
        assert arrives(native_wire, frame("mixed"))
        assert Ether(next_frame(trunk_wire))[Dot1Q].vlan == 10
        assert next_frame(plain_wire) is None


def test_nobody_to_flood_to(dpu):
    a = dpu.container("a")
    before = dpu.drops("no_egress")
    with a.wire() as out:
        out.send(frame("alone"))
    assert wait_until(lambda: dpu.drops("no_egress") == before + 1)


def test_address_moves_to_another_port(dpu):
    a, b, c = (dpu.container(name) for name in "abc")
    moving = "02:bb:00:00:00:01"
    with a.wire(QUIET_S) as a_wire, b.wire() as b_wire, c.wire(QUIET_S) as c_wire:
        b_wire.send(frame("here", src=moving))
        assert arrives(a_wire, frame("here", src=moving))
        a_wire.send(frame("one", dst=moving))
        assert arrives(b_wire, frame("one", dst=moving))
        assert not arrives(c_wire, frame("one", dst=moving))
        moves = dpu.stats()["switch"]["mac_moves"]
        time.sleep(0.1)
        c_wire.send(frame("now here", src=moving))
        assert wait_until(lambda: dpu.stats()["switch"]["mac_moves"] == moves + 1)
        a_wire.send(frame("two", dst=moving))
        assert arrives(c_wire, frame("two", dst=moving))
        b_wire.settimeout(QUIET_S)
        assert not arrives(b_wire, frame("two", dst=moving))
        before = dpu.drops("hairpin")
        c_wire.send(frame("to itself", dst=moving, src="02:bb:00:00:00:02"))
        assert wait_until(lambda: dpu.drops("hairpin") == before + 1)


def test_address_of_a_deleted_port_is_forgotten(dpu):
    a, b = dpu.container("a"), dpu.container("b")
    a.ping(b.ipv4)
    dpu.call("port.del", name="b")
    again = dpu.container("again")  # takes the slot of b
    with a.wire() as out, again.wire() as into:
        lost = frame("whoever has it", dst="02:cc:00:00:00:01")
        out.send(lost)
        assert arrives(into, lost)
    assert dpu.port("again")["rx_packets"] == 0
    again.ping(a.ipv4)
