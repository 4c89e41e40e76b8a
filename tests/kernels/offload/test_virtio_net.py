"""The virtio-net header: what comes in is decoded, judged against the parsed packet, and written again."""

import struct

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from dpu_runtime.kernels import layout
from dpu_runtime.kernels.compile.jit import PYTHON_MODE, kernel
from dpu_runtime.kernels.drops import DROP_REASON_COUNT, Drop
from dpu_runtime.kernels.layout import HEADER_BYTES, HEADROOM_BYTES
from dpu_runtime.kernels.octets.memory import address_of
from dpu_runtime.kernels.offload.virtio_net import VNET_HDR_BYTES, check_vnet, decode_vnet, encode_vnet
from dpu_runtime.kernels.parse.parse import parse
from tests.kernels.batches import FILL, Batch

NEEDS_CSUM = layout.VIRTIO_NET_HDR_F_NEEDS_CSUM
DATA_VALID = layout.VIRTIO_NET_HDR_F_DATA_VALID
TCPV4, TCPV6 = layout.VIRTIO_NET_HDR_GSO_TCPV4, layout.VIRTIO_NET_HDR_GSO_TCPV6
UDP_L4, ECN = layout.VIRTIO_NET_HDR_GSO_UDP_L4, layout.VIRTIO_NET_HDR_GSO_ECN
CHECKSUM_OFFSETS = {6: 16, 17: 6, 132: 8}  # TCP, UDP, SCTP: octets from the layer 4 header
EXAMPLES = 200 if PYTHON_MODE else 2000

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
DATA = Raw(b"d" * 1400)
INNER = Ether(src="02:00:00:00:00:03", dst="02:00:00:00:00:04") / IP() / TCP(sport=1, dport=2)
FRAMES = {
    "tcp4": ETHER / IP() / TCP() / DATA,
    "tcp4-vlan": ETHER / Dot1Q(vlan=7) / IP() / TCP() / DATA,
    "tcp6": ETHER / IPv6() / TCP() / DATA,
    "udp4": ETHER / IP() / UDP(sport=9, dport=9) / DATA,
    "udp6": ETHER / IPv6() / UDP(sport=9, dport=9) / DATA,
    "sctp": ETHER / IP() / SCTP() / SCTPChunkData(data=b"x" * 40),
    "icmp": ETHER / IP() / ICMP() / DATA,
    "vxlan": ETHER / IP() / UDP(sport=9, dport=4789) / VXLAN(vni=5) / INNER / DATA,
    "fragment": ETHER / IP(frag=10, proto=17) / Raw(b"f" * 100),
    "arp": ETHER / ARP(psrc="10.0.0.1", pdst="10.0.0.2"),
    "other": Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02", type=0x88B5) / Raw(bytes(60)),
    "short": ETHER / IP() / TCP(),
}
FRAMES = {name: bytes(frame) for name, frame in FRAMES.items()}


@kernel
def encode_all(headers, meta, count):
    """Write the header of each packet."""
    for i in range(count):
        encode_vnet(address_of(headers[i]), meta[i], 0)
    return count


def vnet(flags=0, gso_type=0, hdr_len=0, gso_size=0, csum_start=0, csum_offset=0, num_buffers=0):
    """The header's octets, virtio 1.2 5.1.6."""
    return struct.pack("<BBHHHHH", flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers)


def judged(frame, header):
    """A batch of `frame` behind `header`, decoded, parsed and checked, with its drop reason."""
    batch = Batch([frame])
    batch.headers[0, HEADROOM_BYTES - VNET_HDR_BYTES : HEADROOM_BYTES] = np.frombuffer(header, np.uint8)
    drops = np.zeros(DROP_REASON_COUNT, np.uint64)
    assert decode_vnet(batch.headers, batch.meta, 1) == 1
    assert parse(batch.headers, batch.meta, 1, drops) == 1
    drops[:] = 0
    before = batch.headers.copy()
    passed = check_vnet(batch.headers, batch.meta, 1, drops)
    assert (batch.headers == before).all()
    reason = Drop(int(batch.meta[0]["drop_reason"]))
    assert (passed, int(batch.meta[0]["verdict"])) == ((1, 0) if reason == Drop.NONE else (0, 1))
    assert drops.tolist() == [int(reason != Drop.NONE and n == reason) for n in range(DROP_REASON_COUNT)]
    return batch, reason


def l4_start(name):
    """Octets from the frame's start to its layer 4 header."""
    frame = Ether(FRAMES[name])
    for layer in (TCP, UDP, SCTP, ICMP):
        if layer in frame:
            return len(FRAMES[name]) - len(bytes(frame[layer]))
    return 0


def owed(name, **more):
    """Header of a packet of this shape whose checksum is owed."""
    start = l4_start(name)
    proto = {"tcp": 6, "udp": 17, "sct": 132, "vxl": 17, "sho": 6}[name[:3]]
    fields = {"flags": NEEDS_CSUM, "csum_start": start, "csum_offset": CHECKSUM_OFFSETS[proto]}
    return vnet(**{**fields, **more})


GSO = {
    "tcp4": {"gso_type": TCPV4},
    "tcp4-vlan": {"gso_type": TCPV4 | ECN},
    "tcp6": {"gso_type": TCPV6},
    "udp4": {"gso_type": UDP_L4},
    "udp6": {"gso_type": UDP_L4},
}


@pytest.mark.parametrize("name", FRAMES)
def test_packet_that_owes_nothing_passes(name):
    for flags in (0, DATA_VALID):
        batch, reason = judged(FRAMES[name], vnet(flags))
        assert reason == Drop.NONE
        assert batch.meta[0]["offload"] == 0  # DATA_VALID is not the other side's to say


@pytest.mark.parametrize("name", ["tcp4", "tcp4-vlan", "tcp6", "udp4", "udp6", "sctp", "vxlan", "short"])
def test_owed_checksum_passes_and_comes_out_again(name):
    header = owed(name)
    batch, reason = judged(FRAMES[name], header)
    assert reason == Drop.NONE
    m = batch.meta[0]
    assert int(m["csum_start"]) == HEADROOM_BYTES + l4_start(name)
    area = batch.headers[0, HEADROOM_BYTES - VNET_HDR_BYTES : HEADROOM_BYTES]
    area[:] = FILL
    encode_all(batch.headers, batch.meta, 1)
    assert area.tobytes() == header
    assert batch.frame(0) == FRAMES[name]


@pytest.mark.parametrize("name", GSO)
def test_gso_packet_passes_and_says_its_header_length(name):
    batch, reason = judged(FRAMES[name], owed(name, hdr_len=66, gso_size=500, **GSO[name]))
    assert reason == Drop.NONE
    encode_all(batch.headers, batch.meta, 1)
    header_bytes = l4_start(name) + (8 if name.startswith("udp") else 20)
    out = batch.headers[0, HEADROOM_BYTES - VNET_HDR_BYTES : HEADROOM_BYTES].tobytes()
    assert out == owed(name, hdr_len=header_bytes, gso_size=500, **GSO[name])


def test_checksum_owed_inside_a_tunnel_passes():
    inner = len(FRAMES["vxlan"]) - len(DATA) - 20
    batch, reason = judged(FRAMES["vxlan"], vnet(NEEDS_CSUM, csum_start=inner, csum_offset=16))
    assert reason == Drop.NONE
    assert int(batch.meta[0]["csum_start"]) - HEADROOM_BYTES == inner


def test_header_follows_a_pushed_tag():
    """What is added in front of the frame moves the header, and the offsets that count from the frame."""
    batch, _ = judged(FRAMES["tcp4"], owed("tcp4"))
    batch.meta[0]["l2_offset"] -= 4
    encode_all(batch.headers, batch.meta, 1)
    end = HEADROOM_BYTES - 4
    out = batch.headers[0, end - VNET_HDR_BYTES : end].tobytes()
    assert out == owed("tcp4", csum_start=l4_start("tcp4") + 4)


def test_nothing_owed_means_no_offsets_out():
    batch, reason = judged(FRAMES["tcp4"], vnet(0, hdr_len=99, gso_size=99, csum_start=99, csum_offset=99))
    assert reason == Drop.NONE
    encode_all(batch.headers, batch.meta, 1)
    assert batch.headers[0, HEADROOM_BYTES - VNET_HDR_BYTES : HEADROOM_BYTES].tobytes() == vnet()


TCP_START = 34
HOSTILE = [
    ("tcp4", vnet(4), Drop.VNET_FLAGS),
    ("tcp4", vnet(0xFF), Drop.VNET_FLAGS),
    ("tcp4", owed("tcp4", flags=NEEDS_CSUM | 0x80), Drop.VNET_FLAGS),
    *(
        ("tcp4", owed("tcp4", csum_start=start), Drop.VNET_CSUM_START)
        for start in (0, 13, 14, 33, HEADER_BYTES, 1000, 0x7FFF, 0xFF7F, 0xFF80, 0xFFFF)
    ),
    ("short", owed("short", csum_start=54), Drop.VNET_CSUM_START),
    ("arp", vnet(NEEDS_CSUM, csum_start=13, csum_offset=0), Drop.VNET_CSUM_START),
    ("other", vnet(NEEDS_CSUM, csum_start=13, csum_offset=0), Drop.VNET_CSUM_START),
    *(
        ("tcp4", owed("tcp4", csum_offset=offset), Drop.VNET_CSUM_OFFSET)
        for offset in (0, 6, 15, 17, 220, 221, 1000, 0xFFFF)
    ),
    ("udp4", owed("udp4", csum_offset=16), Drop.VNET_CSUM_OFFSET),
    ("sctp", owed("sctp", csum_offset=6), Drop.VNET_CSUM_OFFSET),
    ("short", owed("short", csum_start=40, csum_offset=13), Drop.VNET_CSUM_OFFSET),
    *(
        ("tcp4", owed("tcp4", gso_type=kind, gso_size=500), Drop.VNET_GSO_TYPE)
        for kind in (TCPV6, UDP_L4, ECN, UDP_L4 | ECN, layout.VIRTIO_NET_HDR_GSO_UDP, 2, 6, 0x40, 0x7F, 0xFF)
    ),
    ("tcp6", owed("tcp6", gso_type=TCPV4, gso_size=500), Drop.VNET_GSO_TYPE),
    ("udp4", owed("udp4", gso_type=TCPV4, gso_size=500), Drop.VNET_GSO_TYPE),
    ("udp4", owed("udp4", gso_type=UDP_L4 | ECN, gso_size=500), Drop.VNET_GSO_TYPE),
    ("icmp", vnet(gso_type=TCPV4, gso_size=500), Drop.VNET_GSO_TYPE),
    ("fragment", vnet(gso_type=UDP_L4, gso_size=500), Drop.VNET_GSO_TYPE),
    ("arp", vnet(gso_type=TCPV4, gso_size=500), Drop.VNET_GSO_TYPE),
    ("tcp4", vnet(0, TCPV4, gso_size=500), Drop.VNET_FLAGS),
    ("tcp4", vnet(DATA_VALID, TCPV4, gso_size=500), Drop.VNET_FLAGS),
    ("vxlan", vnet(NEEDS_CSUM, UDP_L4, 0, 500, 84, 16), Drop.VNET_FLAGS),
    ("tcp4", owed("tcp4", gso_type=TCPV4, gso_size=0), Drop.VNET_GSO_SIZE),
    ("tcp4", owed("tcp4", gso_type=TCPV4, gso_size=500, hdr_len=0xFFFF), Drop.VNET_HDR_LEN),
    ("tcp4", owed("tcp4", gso_type=TCPV4, gso_size=500, hdr_len=len(FRAMES["tcp4"]) + 1), Drop.VNET_HDR_LEN),
]


@pytest.mark.parametrize(("name", "header", "reason"), HOSTILE)
def test_hostile_header_is_dropped_for_its_reason(name, header, reason):
    assert judged(FRAMES[name], header)[1] == reason


def test_packets_that_are_dropped_already_are_left_alone():
    batch = Batch([FRAMES["tcp4"]] * 3)
    header = np.frombuffer(vnet(0xFF), np.uint8)
    batch.headers[:, HEADROOM_BYTES - VNET_HDR_BYTES : HEADROOM_BYTES] = header
    drops = np.zeros(DROP_REASON_COUNT, np.uint64)
    decode_vnet(batch.headers, batch.meta, 3)
    parse(batch.headers, batch.meta, 3, drops)
    batch.meta[1]["verdict"] = layout.VERDICT_DROP
    batch.meta[1]["drop_reason"] = Drop.RUNT
    assert check_vnet(batch.headers, batch.meta, 3, drops) == 0
    assert batch.meta["drop_reason"].tolist() == [Drop.VNET_FLAGS, Drop.RUNT, Drop.VNET_FLAGS]
    assert drops[Drop.VNET_FLAGS] == 2


def model(m, flags, gso_type, hdr_len, gso_size, start, offset):
    """The reason that the specification asks for; `m` holds what the parser found."""
    if flags & ~(NEEDS_CSUM | DATA_VALID):
        return Drop.VNET_FLAGS
    front = [int(m[key]) - HEADROOM_BYTES for key in ("l4_offset", "l3_offset") if m[key]]
    end = int(m["header_end"]) - HEADROOM_BYTES
    proto = int(m["ip_proto"]) if m["l4_offset"] else None
    if flags & NEEDS_CSUM:
        if not (front[0] if front else 0) <= start < end:
            return Drop.VNET_CSUM_START
        field = CHECKSUM_OFFSETS.get(proto, offset) if front and start == front[0] else offset
        if offset != field or start + offset + 2 > end:
            return Drop.VNET_CSUM_OFFSET
    if gso_type == 0:
        return Drop.NONE
    v4, v6 = int(m["parsed"]) & layout.PARSED_IPV4, int(m["parsed"]) & layout.PARSED_IPV6
    takes = {TCPV4: proto == 6 and v4, TCPV4 | ECN: proto == 6 and v4, UDP_L4: proto == 17}
    takes |= {TCPV6: proto == 6 and v6, TCPV6 | ECN: proto == 6 and v6}
    if not takes.get(gso_type):
        return Drop.VNET_GSO_TYPE
    if not flags & NEEDS_CSUM or start != front[0]:
        return Drop.VNET_FLAGS
    if gso_size == 0:
        return Drop.VNET_GSO_SIZE
    return Drop.VNET_HDR_LEN if hdr_len > int(m["frame_len"]) else Drop.NONE


FLAGS = st.one_of(st.sampled_from([0, 1, 2, 3]), st.integers(0, 255))
KINDS = st.one_of(st.sampled_from([0, 1, 4, 5, 0x81, 0x84]), st.integers(0, 255))
SIZES = st.one_of(st.sampled_from([0, 1, 500, 1448]), st.integers(0, 0xFFFF))
STARTS = st.one_of(st.sampled_from([14, 34, 38, 54, 84]), st.integers(0, 300), st.integers(0, 0xFFFF))
OFFSETS = st.one_of(st.sampled_from([6, 8, 16]), st.integers(0, 300), st.integers(0, 0xFFFF))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.sampled_from(sorted(FRAMES)), FLAGS, KINDS, SIZES, SIZES, STARTS, OFFSETS)
@example("tcp4", 1, 1, 0xFFFF, 1, 34, 16)
def test_any_header_at_all(name, flags, gso_type, hdr_len, gso_size, start, offset):
    header = vnet(flags, gso_type, hdr_len, gso_size, start, offset, 0xFFFF)
    batch, reason = judged(FRAMES[name], header)
    m = batch.meta[0]
    assert reason == model(m, flags, gso_type, hdr_len, gso_size, start, offset)
    if reason == Drop.NONE and flags & NEEDS_CSUM:
        assert int(m["csum_start"]) + int(m["csum_offset"]) + 2 <= int(m["header_end"])
