"""offload/gro.py: what is merged is the large packet again, and segmentation brings every octet back."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from dpu_runtime.kernels.compile.jit import PYTHON_MODE
from dpu_runtime.kernels.layout import (
    HEADER_BYTES,
    META_DTYPE,
    PAYLOAD_PIECES_MAX,
    ROW_BYTES,
    VERDICT_MERGED,
    VERDICT_PASS,
    VIRTIO_NET_HDR_F_DATA_VALID,
)
from dpu_runtime.kernels.offload.gro import GRO_FLOWS_MAX, GRO_IOV_MAX, GRO_SEGMENTS_MAX
from tests.kernels.fields import owe_checksum
from tests.kernels.offload.merging import Merge, batch_of, rebuilt
from tests.kernels.offload.streams import (
    LAYER3,
    MACS,
    STAMPS,
    TAGS,
    cut,
    frame_of,
    gso_batch,
    octets,
    tcp,
    udp,
)
from tests.kernels.pieces import pieces_of, scatter

pytestmark = pytest.mark.usefixtures("payload_layouts")


def expect_large(headers, data, size, **how):
    """Merge what scapy cut; the result is the GSO packet that makes exactly these."""
    merge = Merge(batch_of(cut(headers, data, size)), **how)
    assert merge.order == [0]
    expected = gso_batch(headers, data, size)
    m, e = merge.batch.meta[0], expected.meta[0]
    assert frame_of(merge.batch.headers[0], m) == expected.frame(0)
    # the row of a received packet is full
    own = {"payload_addr", "payload_iov", "payload_len", "header_end", "in_port"}
    assert m["header_end"] == min(e["header_end"], m["l5_offset"] + size)
    same = set(META_DTYPE.names) - own
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
    """A member's payload begins in its row and goes on behind it, or does not."""
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
    merge = Merge(batch_of(cut(headers, octets(80000), 8000)))
    assert merge.order == [0, 8]
    assert int(merge.batch.meta[0]["l3_len"]) == 40 + 64000
    exact = cut(headers, octets(65495), 13099)
    assert Merge(batch_of(exact)).order == [0]
    assert Merge(batch_of(cut(headers, octets(65496), 10916))).order == [0, 5]
    many = cut(headers, octets(8 * (GRO_SEGMENTS_MAX + 6)), 8)
    assert Merge(batch_of(many)).order == [0, GRO_SEGMENTS_MAX]


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


# The lists of pieces


def addresses(batch, i, size):
    """Where the first `size` octets of payload of a packet lie: (address, octets), in order."""
    m = batch.meta[i]
    l5, header_end = int(m["l5_offset"]), int(m["header_end"])
    in_row = min(size, header_end - l5)
    row = batch.headers.ctypes.data + i * batch.headers.shape[1] + l5
    found = [(row, in_row)] if in_row else []
    left = size - in_row
    for addr, octets_here in pieces_of(m) if left else ():
        found.append((addr, min(octets_here, left)))
        left -= found[-1][1]
        if not left:
            break
    return found


@pytest.mark.parametrize("size", [1, 9, 202, 203, 900])
def test_payload_is_named_where_it_lies(size):
    """Nothing is copied: rows of members and the payloads behind them, without Ethernet padding."""
    frames = cut(Ether(**MACS) / LAYER3["v4"]() / udp(), octets(3 * size), size)
    batch = batch_of([frame.ljust(60, b"\x5a") for frame in frames])
    parts = [addresses(batch, i, size) for i in range(3)]
    in_row = min(size, ROW_BYTES - int(batch.meta[0]["l5_offset"]))
    assert parts[0].pop(0)[1] == in_row  # the head's own, which go with its row
    merge = Merge(batch)
    assert merge.order == [0]
    assert pieces_of(batch.meta[0]) == [part for packet in parts for part in packet]


def test_room_for_lists_of_every_size():
    frames = stream(1, 300, 1500) + stream(2, 30, 150)
    needed = Merge(batch_of(frames)).used
    for room in range(needed + 2):
        merge = Merge(batch_of(frames), room=room)
        assert [f for flow in merge.frames().values() for f in flow] == frames
        assert (len(merge.order) == 2) == (room >= needed)
    assert len(Merge(batch_of(frames), room=0).order) == len(frames)


@pytest.mark.parametrize("lengths", [[1] * 5, [1] * 127, [1] * 128, [1] * 255, [1] * 256])
def test_most_pieces_of_one_packet(lengths):
    """A member whose pieces the list of one packet has no place for begins the next one."""
    behind = HEADER_BYTES - len(Ether(**MACS) / LAYER3["v4"]() / tcp())
    size = behind + len(lengths)
    frames = stream(1, size, 64 * size)
    batch = batch_of(frames)
    batch_size = len(frames)
    for i, frame in enumerate(frames):
        m = batch.meta[i]
        m["payload_iov"], batch.payloads[i] = scatter(frame[HEADER_BYTES:], lengths, random.Random(i))
        m["payload_len"], m["payload_addr"] = len(lengths), 8
    merge = Merge(batch)
    members = max(1, (PAYLOAD_PIECES_MAX - len(lengths)) // (len(lengths) + 1) + 1)
    assert merge.order == list(range(0, batch_size, members))
    assert merge.used <= GRO_IOV_MAX
    assert list(merge.frames().values()) == [frames]


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
    st.sampled_from([0, 5, 50, GRO_IOV_MAX]),
)
def test_segmentation_undoes_merging(shapes, random, changes, room):
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
    pieces_max = random.choice([3, 17, PAYLOAD_PIECES_MAX])
    merge = Merge(batch_of(frames, pieces_max=pieces_max), room=room)
    left = {id(queue): len(queue) for queue in queues}
    expected = [f[: len(f) - left[id(q)]] for f, q in zip(flows, queues, strict=True)]
    got = merge.frames()
    assert sorted(got.values()) == sorted(flow for flow in expected if flow)
    assert all(merge.batch.meta[i]["verdict"] == VERDICT_PASS for i in merge.order)
