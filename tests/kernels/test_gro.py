"""kernels/gro.py: what is merged is the large packet again, and segmentation brings every octet back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from kernels.checksum import complete_checksum
from kernels.gro import GRO_DTYPE, GRO_FLOWS_MAX, GRO_SEGMENTS_MAX, gro_merge
from kernels.jit import PYTHON_MODE
from kernels.layout import (
    META_DTYPE,
    PORT_DTYPE,
    PORT_RX_GRO,
    PORT_TX_CSUM,
    PORT_TX_TSO4,
    PORT_TX_TSO6,
    PORT_TX_USO,
    ROW_BYTES,
    VERDICT_DROP,
    VERDICT_MERGED,
    VERDICT_PASS,
    VIRTIO_NET_HDR_F_DATA_VALID,
    VIRTIO_NET_HDR_GSO_TCPV4,
)
from kernels.segment import gso_segment, gso_segment_count
from tests.kernels.batches import FILL
from tests.kernels.fields import owe_checksum, parsed_batch
from tests.kernels.streams import LAYER3, MACS, STAMPS, TAGS, cut, frame_of, gso_batch, octets, tcp, udp

IN_PORT, OTHER_IN_PORT, PLAIN_IN_PORT, OUT_PORT = 1, 2, 3, 0
ALL_FLAGS = PORT_TX_CSUM | PORT_TX_TSO4 | PORT_TX_TSO6 | PORT_TX_USO
GUARD_BYTES = 64


class Merge:
    """One call of gro_merge over all packets of a batch, with guard octets behind the arena."""

    def __init__(self, batch, out_flags=ALL_FLAGS, arena_bytes=256 * 1024, used=0, order=None):
        n = len(batch.meta)
        ports = np.zeros(4, PORT_DTYPE)
        ports["flags"] = [out_flags, PORT_RX_GRO, PORT_RX_GRO, 0]
        memory = np.full(arena_bytes + GUARD_BYTES, FILL, np.uint8)
        self.arena = memory[:arena_bytes]
        self.used = np.array([used], np.uint64)
        self.batch = batch
        indices = np.array(range(n) if order is None else order, np.uint16)
        count = len(indices)
        gro = np.frombuffer(bytes([FILL]) * (n * GRO_DTYPE.itemsize), GRO_DTYPE).copy()
        left = gro_merge(
            batch.headers, batch.meta, indices, count, ports, OUT_PORT, self.arena, self.used, gro
        )
        assert (memory[arena_bytes:] == FILL).all()
        assert used <= self.used[0] <= arena_bytes
        assert (memory[int(self.used[0]) : arena_bytes] == FILL).all()
        self.order = [int(i) for i in indices[:left]]
        merged = [i for i in range(n) if batch.meta[i]["verdict"] == VERDICT_MERGED]
        assert len(merged) == count - left
        assert not set(merged) & set(self.order)

    def frames(self):
        """Frames that the far side gets: GSO packets cut, owed checksums finished, keyed by flow."""
        flows = {}
        for i in self.order:
            headers, meta = self.batch.headers, self.batch.meta
            m = meta[i]
            key = (int(m["src_port"]), int(m["dst_port"]), int(m["ip_proto"]))
            frames = flows.setdefault(key, [])
            if m["gso_type"] == 0:
                assert complete_checksum(headers, meta, i) == 0
                frames.append(frame_of(headers[i], m))
                continue
            total = gso_segment_count(m)
            assert total > 1
            rows, out = np.zeros((total, ROW_BYTES), np.uint8), np.zeros(total, META_DTYPE)
            assert gso_segment(headers, meta, i, 0, rows, out) == total
            frames += [frame_of(rows[k], out[k]) for k in range(total)]
        return flows


def batch_of(frames, in_port=IN_PORT):
    return parsed_batch(frames, in_port)


def expect_large(headers, data, size, **how):
    """Merge what scapy cut; the result is the GSO packet that makes exactly these."""
    merge = Merge(batch_of(cut(headers, data, size)), **how)
    assert merge.order == [0]
    expected = gso_batch(headers, data, size)
    m, e = merge.batch.meta[0], expected.meta[0]
    assert frame_of(merge.batch.headers[0], m) == expected.frame(0)
    same = set(META_DTYPE.names) - {"payload_addr", "in_port"}
    assert {name: int(m[name]) for name in same} == {name: int(e[name]) for name in same}
    return merge


@pytest.mark.parametrize("layer4", ["tcp", "tcp-stamps", "udp"])
@pytest.mark.parametrize("layer3", ["v4", "v6"])
@pytest.mark.parametrize("tags", TAGS)
def test_every_header_combination(tags, layer3, layer4):
    layer4 = udp() if layer4 == "udp" else tcp(STAMPS if layer4 == "tcp-stamps" else (), flags="PA")
    headers = TAGS[tags]() / LAYER3[layer3]() / layer4
    expect_large(headers, octets(3001), 1000)


@pytest.mark.parametrize("make", [tcp, udp], ids=["tcp", "udp"])
@pytest.mark.parametrize("size", [8, 9, 60, 201, 202, 203, 1448])
@pytest.mark.parametrize("extra", [-7, 0, 1])
def test_payload_in_the_row_and_behind(make, size, extra):
    """The head's row is filled up before the arena is used, so it looks like a received one."""
    expect_large(Ether(**MACS) / LAYER3["v4"]() / make(), octets(5 * size + extra), size)


@pytest.mark.parametrize("flags", ["A", "PA", "FA", "FPA", "EA", "EPA"])
def test_tcp_flags_that_are_merged(flags):
    expect_large(Ether(**MACS) / LAYER3["v6"]() / tcp(flags=flags), octets(400), 100)


def test_identification_and_sequence_number_wrap():
    headers = Ether(**MACS) / IP(id=0xFFFF, src="10.0.0.1", dst="10.0.0.2") / tcp(seq=0xFFFFFFF0)
    expect_large(headers, octets(400), 100)


def test_fixed_identification_under_df_is_merged():
    headers = Ether(**MACS) / IP(id=0, flags="DF", src="10.0.0.1", dst="10.0.0.2") / tcp()
    frames = [Ether(frame) for frame in cut(headers, octets(400), 100)]
    for frame in frames:
        frame[IP].id = 0
        del frame[IP].chksum
    merge = Merge(batch_of(frames))
    assert merge.order == [0]
    assert int(merge.batch.meta[0]["gso_size"]) == 100


def test_owed_checksums_are_merged():
    headers = Ether(**MACS) / LAYER3["v4"]() / tcp()
    frames = cut(headers, octets(1000), 300)
    batch = batch_of(frames)
    for i, frame in enumerate(frames):
        owe_checksum(batch, i, Ether(frame))
    merge = Merge(batch)
    assert merge.order == [0]
    assert list(merge.frames().values()) == [frames]


def test_vouched_checksums_are_not_looked_at():
    frames = [bytearray(f) for f in cut(Ether(**MACS) / LAYER3["v4"]() / tcp(), octets(400), 100)]
    frames[2][50] ^= 1
    batch = batch_of(frames)
    batch.meta["offload"] = VIRTIO_NET_HDR_F_DATA_VALID
    assert Merge(batch).order == [0]


def test_ethernet_padding_is_left_behind():
    headers = Ether(**MACS) / LAYER3["v4"]() / udp()
    frames = [frame.ljust(60, b"\x5a") for frame in cut(headers, octets(50), 10)]
    merge = Merge(batch_of(frames))
    assert merge.order == [0]
    assert frame_of(merge.batch.headers[0], merge.batch.meta[0])[42:] == octets(50)


def test_longest_packet_and_segment_count():
    headers = Ether(**MACS) / LAYER3["v4"]() / tcp()
    merge = Merge(batch_of(cut(headers, octets(80000), 8000)), arena_bytes=1 << 20)
    assert merge.order == [0, 8]
    assert int(merge.batch.meta[0]["l3_len"]) == 40 + 64000
    exact = cut(headers, octets(65495), 13099)
    assert Merge(batch_of(exact)).order == [0]
    assert Merge(batch_of(cut(headers, octets(65496), 10916))).order == [0, 5]
    many = cut(headers, octets(8 * (GRO_SEGMENTS_MAX + 6)), 8)
    assert Merge(batch_of(many)).order == [0, GRO_SEGMENTS_MAX]


# What must not be merged


def pair(layer3="v4", layer4=tcp):
    """Two packets that are merged as they stand."""
    return [Ether(f) for f in cut(Ether(**MACS) / LAYER3[layer3]() / layer4(), octets(200), 100)]


def rebuilt(packet):
    """The packet with its lengths and checksums made anew."""
    for layer in (IP, TCP, UDP):
        if layer in packet:
            del packet[layer].chksum
    for layer, field in ((IP, "len"), (IP, "ihl"), (IPv6, "plen"), (UDP, "len"), (TCP, "dataofs")):
        if layer in packet:
            packet[layer].delfieldval(field)
    return Ether(bytes(packet))


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
    assert merge.used[0] == 0


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


# Order


def stream(port, size, length, layer3="v4", flags="A", make=tcp):
    headers = Ether(**MACS) / LAYER3[layer3]() / make()
    headers[TCP if make is tcp else UDP].sport = port
    if make is tcp:
        headers[TCP].flags = flags
    return cut(headers, octets(length, port), size)


def test_interleaved_flows():
    a, b, c = stream(1, 100, 500), stream(2, 200, 900, "v6"), stream(3, 50, 210, make=udp)
    frames = [f for turn in zip(a, b, c, strict=True) for f in turn]
    merge = Merge(batch_of(frames))
    assert merge.order == [0, 1, 2]
    assert sorted(merge.frames().values()) == sorted([a, b, c])


def test_order_is_a_selection_of_the_batch():
    a, b = stream(1, 100, 300), stream(2, 100, 300)
    batch = batch_of([f for turn in zip(a, b, strict=True) for f in turn])
    merge = Merge(batch, order=[4, 1, 0, 2])
    assert merge.order == [4, 1, 0]  # 4 is ahead of its flow, 0 and 2 follow each other
    assert [int(v) for v in batch.meta["verdict"]] == [0, 0, VERDICT_MERGED, 0, 0, 0]


def test_packet_that_is_not_merged_closes_its_flow():
    """An acknowledgment between two segments stays between them."""
    a = stream(1, 100, 400)
    bare = bytes(rebuilt(Ether(a[1][:-100])))
    merge = Merge(batch_of([a[0], a[1], bare, a[2], a[3]]))
    assert merge.order == [0, 2, 3]


@pytest.mark.parametrize("flows", [GRO_FLOWS_MAX, GRO_FLOWS_MAX + 1])
def test_open_flows_are_bounded(flows):
    streams = [stream(port, 50, 150) for port in range(1, flows + 1)]
    merge = Merge(batch_of([f for turn in zip(*streams, strict=True) for f in turn]))
    assert len(merge.order) == (flows if flows <= GRO_FLOWS_MAX else 3 * flows)
    assert sorted(merge.frames().values()) == sorted(streams)


def test_forgotten_flow_does_not_come_back():
    """A datagram must not be put in front of those that came between it and a forgotten head."""
    first = stream(100, 50, 100, make=udp)
    others = [stream(port, 50, 50)[0] for port in range(1, GRO_FLOWS_MAX + 1)]
    short = stream(100, 40, 60, make=udp)
    pushed = [stream(port, 50, 100, flags="PA")[1] for port in range(1, GRO_FLOWS_MAX + 1)]
    frames = [first[0], *others, short[0], short[1], *pushed, first[1]]
    merge = Merge(batch_of(frames))
    assert merge.frames()[(100, 40004, 17)] == [first[0], short[0], short[1], first[1]]


# The arena


def test_arena_of_every_size():
    frames = stream(1, 300, 1500) + stream(2, 30, 150)
    needed = int(Merge(batch_of(frames)).used[0])
    for size in range(0, needed + 200, 50):
        merge = Merge(batch_of(frames), arena_bytes=size)
        assert [f for flow in merge.frames().values() for f in flow] == frames
    assert len(merge.order) == 2
    assert len(Merge(batch_of(frames), arena_bytes=0).order) > 2


def test_arena_is_shared_by_calls():
    a, b = stream(1, 1000, 3000), stream(2, 1000, 3000)
    merge = Merge(batch_of(a), arena_bytes=8192, used=4096)
    assert merge.used[0] > 4096
    assert int(merge.batch.meta[0]["payload_addr"]) == merge.arena.ctypes.data + 4096
    assert list(merge.frames().values()) == [a]
    assert Merge(batch_of(b), arena_bytes=4096, used=4096).order == [0, 1, 2]


# Segmentation undoes it

CHANGES = {
    "none": lambda p: None,
    "ttl": lambda p: p[IP].setfieldval("ttl", 9) if IP in p else p[IPv6].setfieldval("hlim", 9),
    "id": lambda p: p[IP].setfieldval("id", p[IP].id ^ 0x700) if IP in p else None,
    "seq": lambda p: p[TCP].setfieldval("seq", p[TCP].seq ^ 0x100) if TCP in p else None,
    "flags": lambda p: p[TCP].setfieldval("flags", "PA") if TCP in p else None,
    "window": lambda p: p[TCP].setfieldval("window", 1) if TCP in p else None,
    "options": lambda p: p[TCP].setfieldval("options", STAMPS) if TCP in p else None,
}

flow_shapes = st.tuples(
    st.sampled_from(sorted(TAGS)),
    st.sampled_from(["v4", "v6", "v4-options"]),
    st.sampled_from([tcp, udp]),
    st.integers(1, 400),  # payload of a packet
    st.integers(1, 8),  # packets
    st.integers(0, 400),  # octets less in the last
)


def make_flow(number, shape):
    tags, layer3, make, size, packets, less = shape
    headers = TAGS[tags]() / LAYER3[layer3]() / make()
    headers[TCP if make is tcp else UDP].sport = 1000 + number
    return cut(headers, octets(max(1, size * packets - less), number), size)


@settings(max_examples=15 if PYTHON_MODE else 60, deadline=None)
@given(
    st.lists(flow_shapes, min_size=1, max_size=12),
    st.randoms(use_true_random=False),
    st.lists(st.sampled_from(sorted(CHANGES) + ["corrupt", "swap", "twice"]), max_size=6),
    st.sampled_from([0, 500, 5000, 256 * 1024]),
)
def test_segmentation_undoes_merging(shapes, random, changes, arena_bytes):
    """Whatever comes, each flow's packets leave as they came: all, in order, octet for octet."""
    flows = [make_flow(number, shape) for number, shape in enumerate(shapes)]
    for change in changes:
        flow = random.choice(flows)
        at = random.randrange(len(flow))
        if change == "corrupt":
            flow[at] = flow[at][:-1] + bytes([flow[at][-1] ^ 0x40])
        elif change == "twice" and TCP in Ether(flow[at]):
            # a datagram twice would be a fixed identification, which is not kept
            flow.insert(at, flow[at])
        elif change == "swap":
            flow[at], flow[-1] = flow[-1], flow[at]
        elif change in CHANGES:
            packet = Ether(flow[at])
            CHANGES[change](packet)
            flow[at] = bytes(rebuilt(packet))
    queues = [list(flow) for flow in flows]
    frames = []
    while any(queues) and len(frames) < 64:
        queue = random.choice([q for q in queues if q])
        # runs as well as single packets
        for _ in range(random.randint(1, len(queue))):
            frames.append(queue.pop(0))
    merge = Merge(batch_of(frames), arena_bytes=arena_bytes)
    left = {id(queue): len(queue) for queue in queues}
    expected = [f[: len(f) - left[id(q)]] for f, q in zip(flows, queues, strict=True)]
    got = merge.frames()
    assert sorted(got.values()) == sorted(flow for flow in expected if flow)
    assert all(merge.batch.meta[i]["verdict"] == VERDICT_PASS for i in merge.order)
