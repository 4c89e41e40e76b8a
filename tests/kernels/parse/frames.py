"""Frames for the parser's tests: one scapy packet for each protocol and combination."""

import itertools
from functools import partial

from scapy.contrib.geneve import GENEVE, GeneveOptions
from scapy.contrib.gtp import GTP_U_Header, GTPPDUSessionContainer
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption, IPOption_NOP, IPOption_RR
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP, GRE, LLC, STP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.layers.vxlan import VXLAN
from scapy.packet import Padding, Raw

SRC, DST = "02:00:00:00:00:01", "02:00:00:00:00:02"
ETH = Ether(src=SRC, dst=DST)
IP4 = partial(IP, src="192.0.2.1", dst="198.51.100.200")
IP6 = partial(IPv6, src="2001:db8::1:2", dst="2001:db8:ffff::ff")
TCP0 = TCP(sport=40000, dport=443, flags="SA")
UDP0 = UDP(sport=53, dport=65535)
INNER = Ether(src=SRC, dst=DST) / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=7, dport=9)

LAYER4 = {
    "tcp": TCP0 / b"payload",
    "tcp_options": TCP(
        sport=1, dport=2, flags="FPUEC", options=[("MSS", 1460), ("WScale", 7), ("EOL", None)]
    ),
    "tcp_longest": TCP(sport=3, dport=4, options=[("NOP", None)] * 40),
    "udp": UDP0 / b"payload",
    "udp_empty": UDP(sport=5, dport=6),
    "sctp": SCTP(sport=3868, dport=36412, tag=1) / SCTPChunkData(data=b"x" * 8),
    "gre": GRE() / IP() / b"inner",
    "gre_key": GRE(key_present=1, key=0xDEADBEEF) / IP() / b"inner",
    "gre_all": GRE(chksum_present=1, key_present=1, key=7, seqnum_present=1, sequence_number=9) / IP(),
    "vxlan": UDP(sport=1024, dport=4789) / VXLAN(vni=0xABCDEF, flags=8) / INNER,
    "geneve": UDP(sport=1025, dport=6081) / GENEVE(vni=0x123456) / INNER,
    "geneve_options": UDP(sport=1026, dport=6081)
    / GENEVE(vni=1, options=GeneveOptions(data=b"\1\2\3\4"))
    / INNER,
    "gtpu": UDP(sport=2152, dport=2152) / GTP_U_Header(teid=0xFEDCBA98, gtp_type=255) / IP() / UDP(),
    "gtpu_extension": UDP(sport=9, dport=2152)
    / GTP_U_Header(teid=5, gtp_type=255)
    / GTPPDUSessionContainer(type=0, QFI=3)
    / IP(),
}
NEXT_HEADERS = {"tcp": 6, "udp": 17, "sctp": 132, "gre": 47, "vxlan": 17, "geneve": 17, "gtpu": 17}

# One of each that may follow another; hop-by-hop goes first only.
EXTENSIONS = {
    "hop": IPv6ExtHdrHopByHop(),
    "routing": IPv6ExtHdrRouting(addresses=["2001:db8::9"], type=2),
    "atomic": IPv6ExtHdrFragment(id=1),
    "first": IPv6ExtHdrFragment(id=2, m=1),
    "destination": IPv6ExtHdrDestOpt(),
    "auth": AH(spi=1, seq=2, payloadlen=4, icv=b"i" * 12),
}
NUMBERS = {"hop": 0, "routing": 43, "atomic": 44, "first": 44, "destination": 60, "auth": 51}


def _layer4_frames():
    for name, layer4 in LAYER4.items():
        proto = NEXT_HEADERS[name.split("_")[0]]
        yield f"ipv4-{name}", ETH / IP4(proto=proto) / layer4
        yield f"ipv6-{name}", ETH / IP6(nh=proto) / layer4
    yield "ipv4-ospf", ETH / IP4(proto=89) / Raw(b"\2\1" + b"o" * 42)
    yield "ipv4-icmp", ETH / IP4() / ICMP(type=8, id=1, seq=2) / b"ping"
    yield "ipv6-icmpv6", ETH / IP6() / ICMPv6EchoRequest(id=1, seq=2, data=b"ping")
    yield "ipv4-icmpv6-number", ETH / IP(proto=58) / Raw(b"12345678")
    yield "ipv6-icmp-number", ETH / IPv6(nh=1) / Raw(b"12345678")
    yield "ipv6-no-next-header", ETH / IPv6(nh=59)
    yield "ipv6-esp", ETH / IPv6(nh=50) / Raw(b"e" * 32)
    yield "ipv4-esp", ETH / IP(proto=50) / Raw(b"e" * 32)


def _ethernet_frames():
    tcp = IP4() / TCP0
    yield "tag", ETH / Dot1Q(vlan=100, prio=5) / tcp
    yield "tag-priority", ETH / Dot1Q(vlan=0, prio=7, dei=1) / IP6() / UDP0
    yield "qinq", ETH / Dot1AD(vlan=4095, prio=1) / Dot1Q(vlan=7, prio=2) / tcp
    yield "tag-tag", ETH / Dot1Q(vlan=1) / Dot1Q(vlan=2) / IP6() / TCP0
    yield "stag", ETH / Dot1AD(vlan=300) / ARP(psrc="10.0.0.1", pdst="10.0.0.2")
    yield "three-tags", ETH / Dot1AD(vlan=1) / Dot1Q(vlan=2) / Dot1Q(vlan=3) / tcp
    yield "arp", Ether(src=SRC, dst="ff:ff:ff:ff:ff:ff") / ARP(psrc="10.0.0.1", pdst="255.255.255.255")
    yield "arp-reply", ETH / ARP(op=2, psrc="0.0.0.0", pdst="10.0.0.2") / Raw(b"\0" * 18)
    yield "stp", Dot3(src=SRC, dst="01:80:c2:00:00:00") / LLC() / STP()
    yield "lldp", Ether(src=SRC, dst="01:80:c2:00:00:0e", type=0x88CC) / Raw(b"\2\7\4" + b"x" * 40)
    yield (
        "multicast",
        Ether(src=SRC, dst="01:00:5e:00:00:fb") / IP(dst="224.0.0.251") / UDP(sport=5353, dport=5353),
    )
    yield "nothing-behind", Ether(src=SRC, dst=DST, type=0x88B5)


def _ipv4_frames():
    options = [IPOption_NOP(), IPOption_RR(length=11, routers=["1.2.3.4", "5.6.7.8"])]
    longest = [IPOption(b"\x07\x27\x04" + b"\0" * 36), IPOption_NOP()]
    yield "options", ETH / IP(src="10.0.0.1", dst="10.0.0.2", options=options) / TCP0
    yield "longest-options", ETH / IP(options=longest) / UDP0 / b"x"
    yield (
        "fragment-first",
        ETH / IP(flags="MF", src="10.0.0.1") / UDP(sport=1, dport=2, len=3000) / (b"x" * 64),
    )
    yield "fragment-tcp", ETH / IP(flags="MF") / TCP0 / (b"x" * 12)
    yield "fragment-later", ETH / IP(flags="MF", frag=100, proto=6) / Raw(b"x" * 16)
    yield "fragment-last", ETH / IP(frag=8189, proto=17) / Raw(b"z" * 3)
    yield "fragment-options", ETH / IP(frag=1, proto=17, options=options) / Raw(b"z" * 8)
    yield "dont-fragment", ETH / IP(flags="DF") / TCP0
    yield "padded", ETH / IP4() / UDP0 / Padding(b"\0" * 18)


def chains():
    """Every legal order of every subset of the extension headers, with and without hop-by-hop."""
    for fragment in ("atomic", "first"):
        names = ("routing", fragment, "destination", "auth")
        for size in range(len(names) + 1):
            for order in itertools.permutations(names, size):
                if fragment == "first" and "first" not in order:
                    continue
                for hop in (False, True):
                    yield ("hop",) * hop + order


def chain_frame(order, proto=6, layer4=TCP0 / b"data"):
    """The frame of a chain of extension headers named by `order`, in front of `layer4`."""
    numbers = [NUMBERS[name] for name in order] + [proto]
    packet = ETH / IP6(nh=numbers[0])
    for name, following in zip(order, numbers[1:], strict=True):
        extension = EXTENSIONS[name].copy()
        extension.nh = following
        packet = packet / extension
    return packet / layer4


def _ipv6_frames():
    for order in ((), ("hop",), ("hop", "destination", "routing", "first", "auth", "destination")):
        yield "chain-" + "-".join(order), chain_frame(order)
    yield "chain-udp", chain_frame(("first",), 17, UDP(sport=1, dport=2, len=2000) / (b"x" * 32))
    later = IPv6ExtHdrFragment(offset=10, m=1, nh=60, id=3)
    yield "later", ETH / IP6() / IPv6ExtHdrHopByHop() / later / Raw(b"x" * 24)
    yield "last", ETH / IP6() / IPv6ExtHdrFragment(offset=10, nh=6) / Raw(b"x" * 3)
    yield "icmpv6-chain", chain_frame(("hop", "destination"), 58, ICMPv6EchoRequest())


FRAMES = {
    name: bytes(packet)
    for name, packet in itertools.chain(_ethernet_frames(), _layer4_frames(), _ipv4_frames(), _ipv6_frames())
}
