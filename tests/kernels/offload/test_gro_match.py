"""kernels/offload/gro_match.py: two packets that are merged, and every single difference that forbids it."""

import pytest
from scapy.layers.inet import IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from dpu_runtime.kernels.layout import (
    HEADROOM_BYTES,
    PORT_TX_CSUM,
    PORT_TX_TSO4,
    PORT_TX_TSO6,
    PORT_TX_USO,
    ROW_BYTES,
    VERDICT_DROP,
    VIRTIO_NET_HDR_F_DATA_VALID,
    VIRTIO_NET_HDR_GSO_TCPV4,
)
from dpu_runtime.kernels.offload.segment import TCP_FIN, TCP_PSH
from tests.kernels.offload.merging import ALL_FLAGS, OTHER_IN_PORT, PLAIN_IN_PORT, Merge, batch_of, rebuilt
from tests.kernels.offload.streams import FULL_OPTIONS, LAYER3, MACS, STAMPS, TAGS, cut, octets, tcp, udp


def pair(layer3="v4", layer4=tcp):
    """Two packets that are merged as they stand."""
    return [Ether(f) for f in cut(Ether(**MACS) / LAYER3[layer3]() / layer4(), octets(200), 100)]


def changed(layer, **fields):
    def change(a, b):
        for name, value in fields.items():
            b[layer].setfieldval(name, value)
        return [a, rebuilt(b)]

    return change


def both(layer, **fields):
    def change(a, b):
        return [changed(layer, **fields)(a, a)[1], changed(layer, **fields)(a, b)[1]]

    return change


def first_flags(flags):
    return lambda a, b: [changed(TCP, flags=flags)(a, a)[1], b]


def tagged(a, b):
    return [a, Ether(bytes(Ether(**MACS) / Dot1Q(vlan=1) / b.payload))]


def extended(a, b):
    out = [Ether(**MACS) / p[IPv6].copy() for p in (a, b)]
    for p in out:
        inner = p[IPv6].payload
        p[IPv6].remove_payload()
        p[IPv6].nh = 60
        p[IPv6].add_payload(IPv6ExtHdrDestOpt(nh=6) / inner)
    return [rebuilt(p) for p in out]


def padded_payload(a, b):
    b[TCP].payload = Raw(octets(101))
    return [a, rebuilt(b)]


def corrupted(which):
    def change(a, b):
        frames = [bytearray(bytes(a)), bytearray(bytes(b))]
        frames[which][70] ^= 0x10
        return frames

    return change


def bad_ip_checksum(a, b):
    frame = bytearray(bytes(b))
    frame[24] ^= 0x10
    return [a, frame]


NOT_MERGED_V4 = {
    "source MAC": changed(Ether, src="02:00:00:00:00:09"),
    "destination MAC": changed(Ether, dst="02:00:00:00:00:09"),
    "VLAN tag": tagged,
    "source address": changed(IP, src="10.1.2.4"),
    "destination address": changed(IP, dst="10.1.2.4"),
    "TTL": changed(IP, ttl=60),
    "TOS": changed(IP, tos=3),
    "DF": changed(IP, flags=0),
    "reserved bit": both(IP, flags=6),
    "identification": changed(IP, id=0x1234),
    "fixed identification without DF": both(IP, flags=0, id=5),
    "IPv4 options": both(IP, options=[IPOption_NOP()] * 4),
    "more fragments": both(IP, flags="MF"),
    "IPv4 checksum": bad_ip_checksum,
    "source port": changed(TCP, sport=1),
    "destination port": changed(TCP, dport=1),
    "gap": changed(TCP, seq=0xFFFFFA00 + 101),
    "overlap": changed(TCP, seq=0xFFFFFA00 + 99),
    "retransmission": lambda a, b: [a, a.copy()],
    "reordered": lambda a, b: [b, a],
    "acknowledgment": changed(TCP, ack=78),
    "window": changed(TCP, window=503),
    "urgent pointer": changed(TCP, urgptr=1),
    "reserved flag bits": changed(TCP, reserved=1),
    "options": changed(TCP, options=STAMPS),
    "SYN": both(TCP, flags="SA"),
    "RST": both(TCP, flags="RA"),
    "URG": both(TCP, flags="UA"),
    "CWR": both(TCP, flags="CA"),
    "no ACK": both(TCP, flags="P"),
    "ECE on one": changed(TCP, flags="EA"),
    "PSH on the first": first_flags("PA"),
    "FIN on the first": first_flags("FA"),
    "longer than the first": padded_payload,
    "no payload": lambda a, b: [a, rebuilt(Ether(bytes(b)[:-100]))],
    "bad TCP checksum on the first": corrupted(0),
    "bad TCP checksum": corrupted(1),
}
NOT_MERGED_V6 = {
    "source address": changed(IPv6, src="2001:db8::2"),
    "destination address": changed(IPv6, dst="2001:db8::2"),
    "hop limit": changed(IPv6, hlim=8),
    "traffic class": changed(IPv6, tc=0xB9),
    "flow label": changed(IPv6, fl=0x12346),
    "extension header": extended,
    "bad TCP checksum": corrupted(1),
}
NOT_MERGED_UDP = {
    "longer": lambda a, b: [rebuilt(Ether(bytes(a)[:-1])), b],
    "no checksum": lambda a, b: [bytes(p)[:40] + bytes(2) + bytes(p)[42:] for p in (a, b)],
    "short UDP length": lambda a, b: [a, bytes(b)[:38] + b"\0\x6b" + bytes(b)[40:]],
    "source port": changed(UDP, sport=1),
    "TTL": changed(IP, ttl=60),
    "identification": changed(IP, id=0x1234),
    "bad UDP checksum": corrupted(1),
}
NOT_MERGED = [
    pytest.param(layer3, layer4, change, id=f"{layer4.__name__}-{layer3}-{name}")
    for layer3, layer4, table in (
        ("v4", tcp, NOT_MERGED_V4),
        ("v6", tcp, NOT_MERGED_V6),
        ("v4", udp, NOT_MERGED_UDP),
    )
    for name, change in table.items()
]


@pytest.mark.parametrize(("layer3", "layer4", "change"), NOT_MERGED)
def test_not_merged(layer3, layer4, change):
    assert Merge(batch_of(pair(layer3, layer4))).order == [0]
    frames = [bytes(frame) for frame in change(*pair(layer3, layer4))]
    batch = batch_of(frames)
    untouched = batch.headers.copy()
    merge = Merge(batch)
    assert merge.order == [0, 1]
    assert (batch.headers == untouched).all()
    assert [batch.frame(i) for i in range(2)] == frames
    assert merge.used == 0


@pytest.mark.parametrize(
    ("layer3", "layer4", "flag"),
    [
        ("v4", tcp, PORT_TX_TSO4),
        ("v6", tcp, PORT_TX_TSO6),
        ("v4", udp, PORT_TX_USO),
        ("v6", udp, PORT_TX_USO),
    ],
)
def test_egress_port_flags(layer3, layer4, flag):
    frames = pair(layer3, layer4)
    assert Merge(batch_of(frames), out_flags=PORT_TX_CSUM | flag).order == [0]
    assert Merge(batch_of(frames), out_flags=ALL_FLAGS & ~flag).order == [0, 1]
    assert Merge(batch_of(frames), out_flags=ALL_FLAGS & ~PORT_TX_CSUM).order == [0, 1]


@pytest.mark.parametrize("in_port", [PLAIN_IN_PORT, 4, 0xFFFF])
def test_ingress_port_must_ask_for_gro(in_port):
    assert Merge(batch_of(pair(), in_port)).order == [0, 1]


OPTIONS = {"tcp": (), "tcp-stamps": STAMPS, "tcp-most": FULL_OPTIONS}


@pytest.mark.parametrize("layer4", [*OPTIONS, "udp"])
@pytest.mark.parametrize("layer3", ["v4", "v6"])
@pytest.mark.parametrize("tags", TAGS)
def test_every_bit_of_the_headers(tags, layer3, layer4):
    """With checksums that are vouched for, only what segmentation makes anew may differ."""
    headers = TAGS[tags]() / LAYER3[layer3]() / (udp() if layer4 == "udp" else tcp(OPTIONS[layer4]))
    batch = batch_of(cut(headers, octets(200), 100))
    batch.meta["offload"] = VIRTIO_NET_HDR_F_DATA_VALID
    rows, records = batch.headers.copy(), batch.meta.copy()
    l2, l3, l4, l5 = (int(records[1][f"l{layer}_offset"]) for layer in (2, 3, 4, 5))
    free = {l4 + 16: 0xFF, l4 + 17: 0xFF, l4 + 13: TCP_FIN | TCP_PSH}
    if layer4 == "udp":
        free = {l4 + 6: 0xFF, l4 + 7: 0xFF}
    if layer3 == "v6":
        free |= {l3 + 4: 0xFF, l3 + 5: 0xFF}
    for at in range(l2, l5):
        for bit in range(8) if at in free else (at % 8,):
            batch.headers[:], batch.meta[:] = rows, records
            batch.headers[1, at] ^= 1 << bit
            merged = Merge(batch).order == [0]
            assert merged == bool(free.get(at, 0) & 1 << bit), (at - l2, bit)


def test_headers_at_a_place_where_none_lie():
    """At the row's end, or of a size that the parser makes of no packet that may be merged."""
    for l2 in (HEADROOM_BYTES, ROW_BYTES - 129, ROW_BYTES - 128, ROW_BYTES - 127):
        frames = [bytes(frame) for frame in pair("v6")]
        batch = batch_of(frames)
        move = l2 - HEADROOM_BYTES
        for i, frame in enumerate(frames):
            m = batch.meta[i]
            front = frame[: ROW_BYTES - l2]
            batch.headers[i] = 0xA5
            batch.headers[i, l2 : l2 + len(front)] = list(front)
            batch.lay_payload(i, frame[len(front) :])
            for name in ("l2_offset", "l3_offset", "l4_offset", "l5_offset"):
                m[name] += move
            m["header_end"] = l2 + len(front)
        assert Merge(batch).order == ([0] if l2 <= ROW_BYTES - 128 else [0, 1]), l2
    batch = batch_of(pair("v6"))
    for name in ("l4_offset", "l5_offset"):
        batch.meta[name] += 64
    assert Merge(batch).order == [0, 1]


def test_records_that_are_not_merged():
    for name, value in [
        ("in_port", OTHER_IN_PORT),
        ("gso_type", VIRTIO_NET_HDR_GSO_TCPV4),
        ("verdict", VERDICT_DROP),
        ("header_end", ROW_BYTES + 1),
        ("l5_offset", 0xFFFF),
        ("l3_offset", 0),
        ("payload_len", 1),
    ]:
        for which in range(2):
            batch = batch_of(pair())
            batch.meta[which][name] = value
            assert Merge(batch).order == [0, 1], name
