"""The parser against truncated frames, boundary values and wrong headers."""

import struct

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, Jumbo
from scapy.layers.l2 import ARP, GRE, Dot1AD, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import (
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    HEADROOM_BYTES,
    TUNNEL_NONE,
    TUNNEL_VXLAN,
    VIRTIO_NET_HDR_GSO_UDP_L4,
)
from tests.kernels.parse.check import check
from tests.kernels.parse.frames import ETH, FRAMES, IP4, IP6, TCP0, chain_frame

# A truncated frame is dropped for one of the layers it has, or passes.
FAMILY = {
    "ipv4": {Drop.IPV4_TRUNCATED, Drop.IPV4_LENGTH},
    "ipv6": {Drop.IPV6_TRUNCATED, Drop.IPV6_LENGTH, Drop.IPV6_EXTENSION},
    "tcp": {Drop.TCP_TRUNCATED},
    "udp": {Drop.UDP_TRUNCATED, Drop.UDP_LENGTH},
    "sctp": {Drop.SCTP_TRUNCATED},
    "icmp": {Drop.ICMP_TRUNCATED},
    "gre": {Drop.GRE_TRUNCATED},
    "arp": {Drop.ARP_MALFORMED},
    "ethernet": {Drop.RUNT, Drop.VLAN_TRUNCATED},
}
LAYER4_OF = {6: "tcp", 17: "udp", 132: "sctp", 1: "icmp", 58: "icmp", 47: "gre"}


def family(rec):
    """Drop reasons that fit what the whole frame was parsed to."""
    names = {"ethernet"}
    names |= {0x0800: {"ipv4"}, 0x86DD: {"ipv6"}, 0x0806: {"arp"}}.get(int(rec["ethertype"]), set())
    if rec["l4_offset"]:
        names.add(LAYER4_OF[int(rec["ip_proto"])])
    return {Drop.NONE}.union(*(FAMILY[name] for name in names))


def header_bytes(rec, frame):
    """Octets up to the end of the last header, tunnel headers included; all without a layer 4."""
    if not rec["l4_offset"]:
        return len(frame)
    last = int(rec["l5_offset"]) - HEADROOM_BYTES
    return min(len(frame), last + (16 if rec["tunnel"] else 0))


def shorten(frame, rec, size):
    """`frame` cut to `size` octets, with the IP length made to fit."""
    l3 = int(rec["l3_offset"]) - HEADROOM_BYTES
    cut = bytearray(frame[:size])
    if rec["ethertype"] == 0x0800 and size >= l3 + 4:
        struct.pack_into("!H", cut, l3 + 2, size - l3)
    if rec["ethertype"] == 0x86DD and size >= l3 + 40:
        struct.pack_into("!H", cut, l3 + 4, size - l3 - 40)
    return bytes(cut)


@pytest.mark.parametrize("name", FRAMES)
def test_every_truncated_length(name):
    """The frame ends early; then the IP length says so too; then only the header row ends early."""
    frame = FRAMES[name]
    whole = check([frame])[0]
    sizes = list(range(header_bytes(whole, frame) + 1))
    truncated = check([frame[:size] for size in sizes])
    shortened = check([shorten(frame, whole, size) for size in sizes])
    hidden = check([frame] * len(sizes), visible=sizes)
    for meta in (truncated, shortened, hidden):
        assert set(meta["drop_reason"].tolist()) <= family(whole)
        assert set(meta["drop_reason"][:14].tolist()) == {Drop.RUNT}
    assert hidden[-1]["drop_reason"] == Drop.NONE


def reason(packet, **options):
    return Drop(int(check([bytes(packet)], **options)[0]["drop_reason"]))


def with_octet(packet, offset, value):
    frame = bytearray(bytes(packet))
    frame[offset] = value
    return bytes(frame)


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (b"", Drop.RUNT),
        (ETH / IP4(version=5) / TCP0, Drop.IPV4_HEADER),
        (ETH / IP4(ihl=4) / TCP0, Drop.IPV4_HEADER),
        (ETH / IP4(ihl=15, len=40, proto=6) / TCP0, Drop.IPV4_TRUNCATED),
        (ETH / IP4(len=19) / TCP0, Drop.IPV4_LENGTH),
        (ETH / IP4(len=41) / TCP0, Drop.IPV4_LENGTH),
        (ETH / IP4(len=0) / TCP0, Drop.IPV4_LENGTH),
        (ETH / IP4(len=20, proto=6) / TCP0, Drop.TCP_TRUNCATED),
        (ETH / IP4(len=39, proto=6) / TCP0, Drop.TCP_TRUNCATED),
        (ETH / IP4() / TCP(dataofs=4), Drop.TCP_HEADER),
        (ETH / IP4() / TCP(dataofs=6), Drop.TCP_TRUNCATED),
        (ETH / IP4(flags="MF", proto=6) / Raw(bytes(TCP0)[:16]), Drop.TCP_TRUNCATED),
        (ETH / IP4() / UDP(len=7), Drop.UDP_LENGTH),
        (ETH / IP4() / UDP(len=0), Drop.UDP_LENGTH),
        (ETH / IP4() / UDP(len=9), Drop.UDP_LENGTH),
        (ETH / IP4(len=29, proto=17) / UDP(len=10) / b"xy", Drop.UDP_LENGTH),
        (ETH / IP4() / UDP(len=8) / b"behind", Drop.NONE),
        (ETH / IP4(proto=1) / Raw(b"1234567"), Drop.ICMP_TRUNCATED),
        (ETH / IP6(nh=58) / Raw(b"1234567"), Drop.ICMP_TRUNCATED),
        (ETH / IP4(proto=132) / Raw(b"12345678901"), Drop.SCTP_TRUNCATED),
        (ETH / IP4(proto=47) / Raw(b"\0\0\0"), Drop.GRE_TRUNCATED),
        (ETH / IP4(proto=47) / Raw(b"\x20\0\x08\0" + b"key"), Drop.GRE_TRUNCATED),
        (ETH / IP6(version=4, nh=6) / TCP0, Drop.IPV6_HEADER),
        (ETH / IP6(plen=21, nh=6) / TCP0, Drop.IPV6_LENGTH),
        (ETH / IP6(plen=19, nh=6) / TCP0, Drop.TCP_TRUNCATED),
        (ETH / IP6(plen=0, nh=6) / TCP0, Drop.TCP_TRUNCATED),
        (ETH / IP6(plen=0, nh=59), Drop.NONE),
        (ETH / IP6(plen=0) / IPv6ExtHdrHopByHop(options=[Jumbo(jumboplen=70000)]) / TCP0, Drop.IPV6_LENGTH),
        (ETH / IP6(nh=60) / Raw(b"\x06\x00\0\0\0\0\0"), Drop.IPV6_EXTENSION),
        (ETH / IP6(nh=60) / Raw(b"\x06\x01" + bytes(13)), Drop.IPV6_EXTENSION),
        (ETH / IP6(nh=51) / Raw(b"\x06\x00" + bytes(30)), Drop.IPV6_EXTENSION),
        (Ether(src="03:00:00:00:00:01") / IP4() / TCP0, Drop.SOURCE_MULTICAST),
        (Ether(src="ff:ff:ff:ff:ff:ff") / ARP(), Drop.SOURCE_MULTICAST),
        (ETH / ARP(hwtype=6), Drop.ARP_MALFORMED),
        (ETH / ARP(ptype=0x86DD, pdst=b"1234", psrc=b"1234"), Drop.ARP_MALFORMED),
        (with_octet(ETH / ARP(), 18, 8), Drop.ARP_MALFORMED),
        (with_octet(ETH / ARP(), 19, 16), Drop.ARP_MALFORMED),
        (Ether(type=0x8100) / Raw(b"\0\1\x08"), Drop.VLAN_TRUNCATED),
        (ETH / Dot1AD(vlan=1, type=0x8100) / Raw(b"\0\1\x08"), Drop.VLAN_TRUNCATED),
    ],
)
def test_boundary(packet, expected):
    assert reason(packet) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (b"\x00\xff\xff\xff", Drop.NONE),  # nothing behind the end of options counts
        (b"\x01\x01\x01\x07", Drop.IPV4_HEADER),  # a type without a length
        (b"\x07\x00\x00\x00", Drop.IPV4_HEADER),
        (b"\x07\x01\x00\x00", Drop.IPV4_HEADER),
        (b"\x07\x02\x01\x01", Drop.NONE),
        (b"\x07\x04\x00\x00", Drop.NONE),
        (b"\x07\x05\x00\x00", Drop.IPV4_HEADER),
        (b"\x01" * 40, Drop.NONE),
    ],
)
def test_ipv4_options(options, expected):
    header = bytearray(bytes(IP4(ihl=5 + len(options) // 4, len=20 + len(options) + 20, proto=6)))
    assert reason(bytes(Ether(type=0x0800)) + bytes(header[:20]) + options + bytes(TCP0)) == expected


def test_ipv4_fragment_bounds():
    """Offset and total length together reach 65535, and one octet more."""
    fits = ETH / IP4(frag=8188, proto=17, len=31) / Raw(b"x" * 11)
    over = ETH / IP4(frag=8188, proto=17, len=32) / Raw(b"x" * 12)
    assert [reason(fits), reason(over)] == [Drop.NONE, Drop.IPV4_FRAGMENT]


def test_ipv6_fragment_bounds():
    """The payload of the whole packet reaches 65535 octets, and one octet more."""
    fits = ETH / IP6() / IPv6ExtHdrFragment(offset=8191, nh=17) / Raw(b"x" * 7)
    over = ETH / IP6() / IPv6ExtHdrFragment(offset=8191, nh=17) / Raw(b"x" * 8)
    counted = ETH / IP6() / IPv6ExtHdrHopByHop() / IPv6ExtHdrFragment(offset=8191, nh=17) / Raw(b"x")
    assert [reason(fits), reason(over), reason(counted)] == [
        Drop.NONE,
        Drop.IPV6_FRAGMENT,
        Drop.IPV6_FRAGMENT,
    ]


def test_largest_frames():
    head = bytes(ETH / IP4(len=65535, proto=6) / TCP0)
    tags = bytes(ETH / Dot1AD(vlan=1) / Dot1Q(vlan=2) / IP4(len=65535, proto=6) / TCP0)
    assert reason(head + bytes(65535 + 14 - len(head))) == Drop.NONE
    assert reason(tags + bytes(FRAME_BYTES_MAX - len(tags))) == Drop.NONE
    assert reason(tags + bytes(FRAME_BYTES_MAX + 1 - len(tags))) == Drop.OVERSIZE


def test_ipv6_packet_that_l3_len_cannot_say():
    for payload, expected in ((65535 - 40, Drop.NONE), (65536 - 40, Drop.IPV6_LENGTH)):
        head = bytes(ETH / IP6(plen=payload, nh=6) / TCP0)
        assert reason(head + bytes(payload - 20)) == expected


def test_gso_packet_may_have_any_udp_length():
    for length in (0, 7, 8, 65535):
        packet = ETH / IP4() / UDP(len=length) / b"data"
        assert reason(packet, gso_type=VIRTIO_NET_HDR_GSO_UDP_L4) == Drop.NONE


def test_headers_behind_the_row():
    """The frame is whole, but its headers reach past HEADER_BYTES."""
    options = ("destination",) * 7
    room = HEADER_BYTES - len(bytes(chain_frame(options, 59, Raw(b""))))
    assert room > 20

    def padded(octets, proto, layer4):
        """A chain whose last header grows by `octets`."""
        frame = bytearray(bytes(chain_frame(options, 60, Raw(b""))))
        header = bytes([proto, octets // 8 - 1]) + bytes(octets - 2)
        frame += header + bytes(layer4)
        struct.pack_into("!H", frame, 18, len(frame) - 54)
        return bytes(frame)

    inside = room // 8 * 8
    assert reason(padded(inside, 59, Raw(b"x" * 100))) == Drop.NONE
    assert reason(padded(inside + 8, 59, Raw(b"x" * 100))) == Drop.IPV6_EXTENSION
    assert reason(padded(inside, 6, TCP0 / (b"x" * 100))) == Drop.TCP_TRUNCATED
    assert reason(padded(inside, 17, UDP() / (b"x" * 100))) == Drop.UDP_TRUNCATED
    assert reason(padded(inside, 58, ICMPv6EchoRequest(data=b"x" * 100))) == Drop.ICMP_TRUNCATED
    assert reason(padded(inside, 47, GRE() / (b"x" * 100))) == Drop.GRE_TRUNCATED


VALID = bytes(VXLAN(vni=5, flags=8))
NO_TUNNEL = [
    (4789, VALID[:7]),
    (4789, b"\x00" + VALID[1:]),  # the I flag is not set
    (6081, b"\x40\0\x65\x58" + bytes(12)),  # version 1
    (6081, b"\x02\0\x65\x58" + bytes(11)),  # options cut short
    (6081, bytes(7)),
    (2152, b"\x10\xff\0\0" + bytes(4)),  # GTP', not GTP
    (2152, b"\x50\xff\0\0" + bytes(4)),  # version 2
    (2152, b"\x30\x01\0\0" + bytes(4)),  # echo request
    (2152, b"\x30\xff\0\x01" + bytes(4)),  # length behind the datagram
    (2152, b"\x32\xff\0\x03" + bytes(8)),  # a sequence number that the length does not hold
    (2152, b"\x32\xff\0\x04" + bytes(7)),  # nor the datagram
    (4790, VALID),
]


@pytest.mark.parametrize(("port", "payload"), NO_TUNNEL)
def test_a_port_alone_is_no_tunnel(port, payload):
    rec = check([bytes(ETH / IP4() / UDP(sport=1, dport=port) / Raw(payload))])[0]
    assert (rec["drop_reason"], rec["tunnel"], rec["tunnel_id"]) == (Drop.NONE, TUNNEL_NONE, 0)
    assert rec["dst_port"] == port


def test_a_tunnel_header_lies_inside_the_udp_length():
    packets = [ETH / IP4() / UDP(dport=4789, len=size) / Raw(VALID + b"inner") for size in (16, 15)]
    assert check([bytes(p) for p in packets])["tunnel"].tolist() == [TUNNEL_VXLAN, TUNNEL_NONE]


def test_gre_of_another_kind_has_no_layer_4():
    kinds = (b"\x20\x01\x88\x0b", b"\x40\x00\x08\x00", b"\x00\x07\x08\x00")
    meta = check([bytes(ETH / IP4(proto=47) / Raw(kind + bytes(20))) for kind in kinds])
    assert not meta["drop_reason"].any() and not meta["l4_offset"].any() and not meta["tunnel"].any()


def test_ipv4_with_icmp_inside_padding():
    """An ICMP header that lies in the Ethernet padding is not the packet's."""
    assert reason(bytes(ETH / IP(len=24, proto=1) / ICMP()) + bytes(18)) == Drop.ICMP_TRUNCATED
