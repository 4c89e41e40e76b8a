"""kernels/offload/segment.py against scapy: the large packet is cut in Python, every octet compared."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from dpu_runtime.kernels.compile.jit import PYTHON_MODE
from dpu_runtime.kernels.layout import (
    BATCH_SIZE,
    HEADROOM_BYTES,
    META_DTYPE,
    PARSED_AUTH,
    PARSED_FRAGMENT,
    PARSED_IPV4,
    PARSED_IPV6,
    PAYLOAD_PIECES_MAX,
    ROW_BYTES,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_TCPV6,
    VIRTIO_NET_HDR_GSO_UDP,
    VIRTIO_NET_HDR_GSO_UDP_L4,
)
from dpu_runtime.kernels.offload.segment import (
    GSO_IOV_MAX,
    GSO_SEGMENTS_MAX,
    GSO_SIZE_MIN,
    GSO_UDP_SEGMENTS_MAX,
    gso_segment,
    gso_segment_count,
)
from tests.kernels.batches import FILL
from tests.kernels.offload.streams import (
    LAYER3,
    MACS,
    STAMPS,
    TAGS,
    TCP_OPTIONS,
    cut,
    frame_of,
    gso_batch,
    octets,
    tcp,
    udp,
)
from tests.kernels.pieces import payload_of, pieces_of, scatter

pytestmark = pytest.mark.usefixtures("payload_layouts")

IOV = np.zeros((GSO_IOV_MAX, 2), np.uint64)


def segment_all(batch, rows, iov_entries=GSO_IOV_MAX):
    """Cut packet 0 with `rows` rows a call; checks what every segment promises, returns the frames."""
    before = batch.headers.copy(), batch.meta.copy()
    source = batch.meta[0]
    total = gso_segment_count(source)
    frames = []
    while len(frames) < total:
        out_headers = np.full((rows, ROW_BYTES), FILL, np.uint8)
        out_meta = np.frombuffer(bytes([FILL]) * (rows * META_DTYPE.itemsize), META_DTYPE).copy()
        memory = np.full((iov_entries + 1, 2), 0xA5A5A5A5A5A5A5A5, np.uint64)
        iov = memory[:iov_entries]
        written = gso_segment(batch.headers, batch.meta, 0, len(frames), out_headers, out_meta, iov)
        check_lists(out_meta[:written], memory)
        wanted = min(rows, total - len(frames))
        assert 0 < written <= wanted
        assert written == wanted or iov_entries < GSO_IOV_MAX  # only lists can be too many
        for k in range(written):
            check_segment(source, out_headers[k], out_meta[k])
            frames.append(frame_of(out_headers[k], out_meta[k]))
        assert written < wanted or (out_headers[written:] == FILL).all()
        assert not gso_segment(batch.headers, batch.meta, 0, total, out_headers, out_meta, iov)
    assert (batch.headers == before[0]).all()
    assert (batch.meta == before[1]).all()
    return frames


def check_lists(segments, memory):
    """Lists lie one behind the other in `memory` but for its last entry, each with a free entry in front."""
    used = memory.ctypes.data
    for m in segments:
        if m["payload_iov"]:
            assert len(pieces_of(m)) > 1
            assert m["payload_iov"] == used + 16
            memory[(used - memory.ctypes.data) // 16] = 0  # the free entry may be written at any time
            used += 16 + 16 * len(pieces_of(m))
    assert used <= memory.ctypes.data + memory.nbytes - 16
    assert (memory[-1] == 0xA5A5A5A5A5A5A5A5).all()


def check_segment(source, row, m):
    """Placement and offload fields of a segment agree; all others are the source's."""
    l2, end = int(m["l2_offset"]), int(m["header_end"])
    assert m["frame_len"] == end - l2 + m["payload_len"]
    assert m["l3_len"] == m["frame_len"] - (m["l3_offset"] - m["l2_offset"])
    assert end == ROW_BYTES or m["payload_len"] == 0
    assert (row[:l2] == FILL).all()
    assert (row[end:] == FILL).all()
    changed = {"payload_addr", "payload_len", "payload_iov", "frame_len", "header_end", "l3_len", "tcp_flags"}
    zero = {"offload", "gso_type", "gso_size", "gso_hdr_len", "csum_start", "csum_offset"}
    assert all(m[name] == 0 for name in zero)
    for name in set(META_DTYPE.names) - changed - zero:
        assert m[name] == source[name], name
    if m["ip_proto"] == 6:
        assert m["tcp_flags"] == row[int(m["l4_offset"]) + 13]


def check(headers, data, size, rows=5, **how):
    batch = gso_batch(headers, data, size, **how)
    expected = cut(headers, data, size)
    got = segment_all(batch, rows)
    assert len(got) == len(expected)
    for number, (ours, scapys) in enumerate(zip(got, expected, strict=True)):
        assert ours == scapys, f"segment {number}"


@pytest.mark.parametrize("layer4", ["tcp-none", "tcp-stamps", "tcp-full", "udp"])
@pytest.mark.parametrize("layer3", LAYER3)
@pytest.mark.parametrize("tags", TAGS)
def test_every_header_combination(tags, layer3, layer4):
    layer4 = udp() if layer4 == "udp" else tcp(TCP_OPTIONS[layer4[4:]])
    headers = TAGS[tags]() / LAYER3[layer3]() / layer4
    check(headers, octets(3001), 1000, owed=True)
    if layer3 != "v6-routing":  # only the sender's sum knows the final destination
        check(headers, octets(3001), 1000, owed=False)


@pytest.mark.parametrize("make", [tcp, udp], ids=["tcp", "udp"])
@pytest.mark.parametrize("layer3", ["v4", "v6"])
@pytest.mark.parametrize("size", [8, 100, 101, 1448])
def test_payload_lengths_around_multiples(make, layer3, size):
    """From wholly in the row to wholly behind it, odd and even."""
    headers = Ether(**MACS) / LAYER3[layer3]() / make()
    for multiple in (1, 2, 3):
        for length in range(multiple * size - 1, multiple * size + 2):
            check(headers, octets(length), size)


@pytest.mark.parametrize("length", [0, 1, 7, 8])
def test_payload_within_one_segment(length):
    check(Ether(**MACS) / LAYER3["v4"]() / tcp(flags="PA"), octets(length), 8)


def test_payload_wholly_behind_the_row():
    """A row that ends with the headers; its segments are filled up all the same."""
    headers = Ether(**MACS) / LAYER3["v4"]() / tcp()
    data = octets(2000)
    batch = gso_batch(headers, data, 700)
    m = batch.meta[0]
    in_row = int(m["header_end"] - m["l5_offset"])
    batch.lay_payload(0, data)
    m["header_end"] = m["l5_offset"]
    assert in_row > 0
    assert segment_all(batch, 2) == cut(headers, data, 700)


def test_pushed_and_popped_headers():
    """l2_offset moved after reception: the row then holds more or less than HEADER_BYTES of the frame."""
    for tags in ("vlan", "qinq"):
        headers = TAGS[tags]() / LAYER3["v4"]() / tcp()
        data = octets(2000)
        for move in (-8, -4, 4, 8):
            batch = gso_batch(headers, data, 333)
            row, m = batch.headers[0], batch.meta[0]
            whole = batch.frame(0)
            l2 = HEADROOM_BYTES + move
            fits = ROW_BYTES - l2
            row[:] = FILL
            front = np.frombuffer(whole[:fits], np.uint8)
            row[l2 : l2 + len(front)] = front
            batch.lay_payload(0, whole[fits:])
            m["l2_offset"] = l2
            for name in ("l3_offset", "l4_offset", "l5_offset", "csum_start"):
                m[name] = int(m[name]) + move
            assert segment_all(batch, 3) == cut(headers, data, 333)


@pytest.mark.parametrize("padding", [1, 46])
@pytest.mark.parametrize("length", [1, 60, 300])
def test_ethernet_padding_is_not_payload(length, padding):
    check(Ether(**MACS) / LAYER3["v4"]() / udp(), octets(length), 50, padding=padding)
    check(Ether(**MACS) / LAYER3["v6"]() / tcp(), octets(length), 50, padding=padding)


@pytest.mark.parametrize("ecn", [False, True])
@pytest.mark.parametrize("flags", ["A", "PA", "FA", "FPA", "CA", "CPA", "ECA", "EA", "FPCEA", "SA", "RA"])
def test_tcp_flags(flags, ecn):
    check(Ether(**MACS) / LAYER3["v4"]() / tcp(flags=flags), octets(500), 200, ecn=ecn)
    check(Ether(**MACS) / LAYER3["v6"]() / tcp(flags=flags), octets(200), 200, ecn=ecn)


@pytest.mark.parametrize("make", [tcp, udp], ids=["tcp", "udp"])
def test_every_chunking(make):
    headers = Ether(**MACS) / LAYER3["v4"]() / make()
    data = octets(1234)
    expected = cut(headers, data, 100)
    for rows in range(1, len(expected) + 2):
        assert segment_all(gso_batch(headers, data, 100), rows) == expected


@pytest.mark.parametrize("piece_octets", [1, 46, 234])
@pytest.mark.parametrize("size", [400, 1448, 8000, 59000])
def test_most_pieces(size, piece_octets):
    """A burst finds room for all of its lists; with less room, a call writes fewer segments."""
    headers = Ether(**MACS) / LAYER3["v4"]() / tcp()
    data = octets(60000)
    batch = gso_batch(headers, data, size)
    payload = payload_of(batch.meta[0])
    front = [piece_octets] * (PAYLOAD_PIECES_MAX - 1)
    lengths = [*front, len(payload) - sum(front)]
    batch.meta[0]["payload_iov"], kept = scatter(payload, lengths, random.Random(size))
    expected = cut(headers, data, size)
    assert segment_all(batch, BATCH_SIZE) == expected
    assert segment_all(batch, BATCH_SIZE, PAYLOAD_PIECES_MAX + 1) == expected
    assert kept


def test_largest_packet():
    headers = TAGS["qinq"]() / LAYER3["v4"]() / tcp(STAMPS)
    data = octets(65535 - 20 - 32)
    assert segment_all(gso_batch(headers, data, 1448), 64) == cut(headers, data, 1448)


def test_udp_checksum_of_zero_is_sent_as_ones():
    headers = Ether(**MACS) / LAYER3["v4"]() / udp()
    rest = octets(18)
    word = bytes(headers / Raw(bytes(2) + rest))[40:42]  # what makes the sum all ones
    assert bytes(headers / Raw(word + rest))[40:42] == bytes([0xFF, 0xFF])
    check(headers, word + rest + octets(20), 20)


@settings(max_examples=20 if PYTHON_MODE else 80, deadline=None)
@given(
    st.sampled_from(sorted(TAGS)),
    st.sampled_from(sorted(LAYER3)),
    st.sampled_from([tcp, udp]),
    st.integers(8, 1500),
    st.integers(0, 5000),
    st.integers(1, 64),
    st.integers(0, 2**32),
)
def test_any_packet(tags, layer3, make, size, length, rows, seed):
    length = min(length, size * GSO_UDP_SEGMENTS_MAX)
    check(TAGS[tags]() / LAYER3[layer3]() / make(), octets(length, seed), size, rows)


# What cannot be cut


def refused(batch):
    rows = np.full((4, ROW_BYTES), FILL, np.uint8)
    out = np.zeros(4, META_DTYPE)
    assert gso_segment_count(batch.meta[0]) == 0
    assert gso_segment(batch.headers, batch.meta, 0, 0, rows, out, IOV) == 0
    assert (rows == FILL).all()


HOSTILE = {
    "size 0": {"gso_size": 0},
    "tiny size": {"gso_size": GSO_SIZE_MIN - 1},
    "no gso": {"gso_type": 0},
    "fragmentation": {"gso_type": VIRTIO_NET_HDR_GSO_UDP},
    "other family": {"gso_type": VIRTIO_NET_HDR_GSO_TCPV6},
    "datagrams of tcp": {"gso_type": VIRTIO_NET_HDR_GSO_UDP_L4},
    "unknown type": {"gso_type": 0x7F},
    "tcp type of udp": {"ip_proto": 17},
    "unknown protocol": {"ip_proto": 132},
    "fragment": {"parsed": PARSED_IPV4 | PARSED_FRAGMENT},
    "authenticated": {"parsed": PARSED_IPV4 | PARSED_AUTH},
    "no family": {"parsed": 0},
    "both families": {"parsed": PARSED_IPV4 | PARSED_IPV6},
    "no layer 4": {"l4_offset": 0, "l5_offset": 0},
    "no layer 3": {"l3_offset": 0},
    "short tcp header": {"l5_offset": HEADROOM_BYTES + 14 + 20 + 16},
    "long tcp header": {"l5_offset": HEADROOM_BYTES + 14 + 20 + 64},
    "odd tcp header": {"l5_offset": HEADROOM_BYTES + 14 + 20 + 21},
    "layer 5 behind the row": {"l5_offset": 0xFFFF},
    "row too long": {"header_end": ROW_BYTES + 1},
    "row ends in the header": {"header_end": HEADROOM_BYTES + 50},
    "frame length": {"frame_len": 65535},
    "payload length": {"payload_len": 0xFFFFFFFF},
    "tunnel in front": {"l2_offset": HEADROOM_BYTES - 50},
    "l3_len below headers": {"l3_len": 39},
    "l3_len beyond the frame": {"l3_len": 65535},
    "foreign csum_start": {"csum_start": HEADROOM_BYTES},
    "foreign csum_offset": {"csum_offset": 6},
}


@pytest.mark.parametrize("fields", HOSTILE.values(), ids=HOSTILE)
def test_hostile_records_are_refused(fields):
    batch = gso_batch(Ether(**MACS) / LAYER3["v4"]() / tcp(), octets(3000), 1000)
    assert gso_segment_count(batch.meta[0]) == 3
    for name, value in fields.items():
        batch.meta[0][name] = value
    refused(batch)


def test_udp_refuses_size_0_and_the_ecn_bit():
    headers = Ether(**MACS) / LAYER3["v4"]() / udp()
    refused(gso_batch(headers, octets(100), 0))
    refused(gso_batch(headers, octets(100), 50, ecn=True))


def test_segment_counts_are_bounded():
    headers = Ether(**MACS) / LAYER3["v4"]() / udp()
    assert (
        gso_segment_count(gso_batch(headers, octets(GSO_UDP_SEGMENTS_MAX), 1).meta[0]) == GSO_UDP_SEGMENTS_MAX
    )
    refused(gso_batch(headers, octets(GSO_UDP_SEGMENTS_MAX + 1), 1))
    headers = Ether(**MACS) / LAYER3["v6"]() / tcp()
    most = GSO_SEGMENTS_MAX * 16
    assert gso_segment_count(gso_batch(headers, octets(most), 16).meta[0]) == GSO_SEGMENTS_MAX
    refused(gso_batch(headers, octets(most + 1), 16))
    # what a Linux sender may ask for: the least MSS (48) with time stamps
    assert GSO_SEGMENTS_MAX >= 65495 // (48 - 12) + 1


PLACEMENT = ["l2_offset", "header_end", "l3_offset", "l4_offset", "l5_offset", "l3_len", "frame_len"]


@settings(max_examples=50 if PYTHON_MODE else 200, deadline=None)
@given(
    st.dictionaries(st.sampled_from(PLACEMENT), st.integers(-70, 70), min_size=1),
    st.sampled_from([8, 100, 65535]),
    st.sampled_from(["v4", "v6-extensions"]),
)
def test_wrong_placement_never_leaves_the_packet(changes, size, layer3):
    """Whatever the fields say: a refusal, or segments that stay within the row and the frame."""
    batch = gso_batch(Ether(**MACS) / LAYER3[layer3]() / tcp(STAMPS), octets(500), size, owed=False)
    m = batch.meta[0]
    for name, change in changes.items():
        m[name] = (int(m[name]) + change) & 0xFFFF
    total = gso_segment_count(m)
    rows = np.full((64, ROW_BYTES), FILL, np.uint8)
    out = np.zeros(64, META_DTYPE)
    assert gso_segment(batch.headers, batch.meta, 0, 0, rows, out, IOV) == min(total, 64)
    source = pieces_of(m)
    for segment in out[: min(total, 64)]:
        assert segment["l5_offset"] <= segment["header_end"] <= ROW_BYTES
        for addr, here in pieces_of(segment):
            assert any(first <= addr and addr + here <= first + most for first, most in source)


def test_needs_csum_is_the_only_reason_to_look_at_csum_start():
    batch = gso_batch(Ether(**MACS) / LAYER3["v4"]() / tcp(), octets(3000), 1000, owed=False)
    assert not batch.meta[0]["offload"] & VIRTIO_NET_HDR_F_NEEDS_CSUM
    assert gso_segment_count(batch.meta[0]) == 3
