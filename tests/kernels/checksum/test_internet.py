"""Internet checksum sums, incremental updates and owed checksums, against scapy's octets."""

import ctypes
import mmap
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.packet import Raw
from scapy.utils import checksum as scapy_checksum

from dpu_runtime.kernels.checksum import internet as checksum
from dpu_runtime.kernels.compile.jit import PYTHON_MODE
from dpu_runtime.kernels.drops import DROP_REASON_COUNT, Drop
from dpu_runtime.kernels.layout import (
    HEADROOM_BYTES,
    ROW_BYTES,
    VERDICT_DROP,
    VERDICT_PASS,
    VIRTIO_NET_HDR_F_DATA_VALID,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
)
from tests.kernels.batches import FILL, Batch
from tests.kernels.ip_batches import (
    ETHER,
    SHAPES,
    V6,
    ip_batch,
    move_split,
    packet,
    plain_sum,
    pseudo_sum,
    walk,
)

CHECKSUM_OFFSETS = {1: 2, 6: 16, 17: 6, 58: 2, 132: 8}  # octets, by protocol
EXAMPLES = 30 if PYTHON_MODE else 300


pytestmark = pytest.mark.usefixtures("payload_layouts")
shapes = pytest.mark.parametrize("network, transport", SHAPES, ids=["-".join(s) for s in SHAPES])


SUMS = {"words": checksum.ones_sum_words}
if PYTHON_MODE or checksum.HAS_WIDE_SUM:
    SUMS["wide"] = checksum.ones_sum_wide
sums = pytest.mark.parametrize("ones_sum", SUMS.values(), ids=SUMS)


def sum_of(data, shift=0, ones_sum=checksum.ones_sum):
    """ones_sum of `data` laid `shift` octets past a 64-bit word, with 0xA5 around it."""
    room = np.full(len(data) + 24, FILL, np.uint8)
    at = -room.ctypes.data % 8 + shift
    room[at : at + len(data)] = np.frombuffer(data, np.uint8)
    return int(ones_sum(np.uint64(room.ctypes.data + at), np.uint64(len(data))))


def owe(batch, i, frame):
    """Turn packet `i`, whose checksum is right, into one that owes it, as a virtio driver does."""
    fields = walk(frame)
    proto = fields["ip_proto"]
    record = batch.meta[i]
    record["offload"] = VIRTIO_NET_HDR_F_NEEDS_CSUM
    record["csum_start"] = HEADROOM_BYTES + fields["l4"]
    record["csum_offset"] = CHECKSUM_OFFSETS[proto]
    at = HEADROOM_BYTES + fields["l4"] + CHECKSUM_OFFSETS[proto]
    field = b"\xa5\x5a\xa5\x5a" if proto == 132 else pseudo_sum(frame).to_bytes(2, "big")
    if proto == 1:
        field = b"\0\0"  # ICMP has no pseudo header
    batch.headers[i, at : at + len(field)] = list(field)


def complete(batch):
    """Run the kernel on the whole batch; returns (passed, drops)."""
    drops = np.zeros(DROP_REASON_COUNT, np.uint64)
    return checksum.complete_checksums(batch.headers, batch.meta, len(batch.meta), drops), drops


# sums


@sums
def test_rfc_1071_example(ones_sum):
    assert sum_of(bytes.fromhex("0001f203f4f5f6f7"), 0, ones_sum) == 0xDDF2


@sums
def test_sum_of_every_length_and_alignment(ones_sum):
    data = random.Random(1).randbytes(301)
    for length in range(301):
        expected = plain_sum(data[:length])
        for shift in range(8) if not PYTHON_MODE else (length % 8,):
            assert sum_of(data[:length], shift, ones_sum) == expected, (length, shift)
        assert scapy_checksum(data[:length]) == expected ^ 0xFFFF


@sums
@pytest.mark.parametrize("length", [1480, 1499, 1500, 9000, 65535])
def test_sum_of_long_data(length, ones_sum):
    data = random.Random(2).randbytes(length)
    assert sum_of(data, 3, ones_sum) == plain_sum(data)
    assert sum_of(b"\xff" * length, 1, ones_sum) == plain_sum(b"\xff" * length)


@sums
def test_sum_is_zero_for_zeros_only(ones_sum):
    for length in range(70):
        assert sum_of(bytes(length), 0, ones_sum) == 0
        if length >= 2:
            assert sum_of(b"\xff\xff" + bytes(length - 2), 0, ones_sum) == 0xFFFF


@pytest.mark.compiled
@sums
def test_nothing_is_read_behind_the_end(ones_sum):
    page = mmap.PAGESIZE
    area = mmap.mmap(-1, 2 * page)
    room = np.frombuffer(area, np.uint8)
    room[:] = 0xFF
    libc = ctypes.CDLL(None, use_errno=True)
    second = ctypes.c_void_p(room.ctypes.data + page)
    assert libc.mprotect(second, ctypes.c_size_t(page), 0) == 0  # a read ends this process
    for length in range(200):
        found = ones_sum(np.uint64(room.ctypes.data + page - length), np.uint64(length))
        assert found == plain_sum(b"\xff" * length)


@given(st.integers(0, 2**64 - 1))
@settings(max_examples=EXAMPLES, deadline=None)  # the first one compiles
def test_fold(total):
    folded = int(checksum.fold(np.uint64(total)))
    assert folded % 0xFFFF == total % 0xFFFF
    assert 0 <= folded <= 0xFFFF
    assert (folded == 0) == (total == 0)


@pytest.mark.parametrize("total", [0, 0xFFFF, 0x10000, 0xFFFF0000, 2**32 - 1, 2**32, 2**63, 2**64 - 1])
def test_fold_at_the_edges(total):
    folded = int(checksum.fold(np.uint64(total)))
    assert folded == (0 if total == 0 else (total - 1) % 0xFFFF + 1)


# incremental update


def test_rfc_1624_section_4_corner():
    # where RFC 1141's equation gives 0xFFFF
    assert int(checksum.update16(0xDD2F, 0x5555, 0x3285)) == 0x0000


@given(st.binary(min_size=2, max_size=60), st.integers(0, 29), st.integers(0, 0xFFFF))
@settings(max_examples=EXAMPLES, deadline=None)  # the first one compiles
def test_update16_is_a_full_recompute(data, word, new):
    data = b"\0\1" + data + b"\0" * (len(data) % 2)  # as in a packet, some covered word is not 0
    at = 2 + word * 2 % (len(data) - 2)
    changed = data[:at] + new.to_bytes(2, "big") + data[at + 2 :]
    old = int.from_bytes(data[at : at + 2], "big")
    assert int(checksum.update16(plain_sum(data) ^ 0xFFFF, old, new)) == plain_sum(changed) ^ 0xFFFF


@given(st.binary(min_size=4, max_size=60), st.integers(0, 29), st.integers(0, 2**32 - 1))
@settings(max_examples=EXAMPLES, deadline=None)  # the first one compiles
def test_update32_is_a_full_recompute(data, word, new):
    data = b"\0\1" + data + b"\0" * (len(data) % 2)
    at = 2 + word * 2 % (len(data) - 4)
    changed = data[:at] + new.to_bytes(4, "big") + data[at + 4 :]
    old = int.from_bytes(data[at : at + 4], "big")
    assert int(checksum.update32(plain_sum(data) ^ 0xFFFF, old, new)) == plain_sum(changed) ^ 0xFFFF


EDGES = (0x0000, 0x0001, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)


def test_update_corners():
    for rest in EDGES[1:]:
        for old in EDGES:
            for new in EDGES:
                before = plain_sum(rest.to_bytes(2, "big") + old.to_bytes(2, "big")) ^ 0xFFFF
                after = plain_sum(rest.to_bytes(2, "big") + new.to_bytes(2, "big")) ^ 0xFFFF
                assert int(checksum.update16(before, old, new)) == after, (rest, old, new)
                wide = int(checksum.update32(before, old, new << 16))  # the same word, moved
                assert wide == after, (rest, old, new)


# sums of packets


@shapes
def test_pseudo_header(network, transport):
    frame = packet(network, transport, b"abc")
    batch = ip_batch([frame])
    fields = walk(frame)
    l4_len = 14 + fields["l3_len"] - fields["l4"]
    total = checksum.pseudo_header_sum(batch.meta[0], np.uint64(l4_len))
    assert int(checksum.fold(total)) == pseudo_sum(frame)


def test_no_pseudo_header_without_ip():
    assert int(checksum.pseudo_header_sum(Batch([b"\0" * 60]).meta[0], np.uint64(20))) == 0


def test_row_and_payload_join_at_every_octet():
    rng = random.Random(3)
    frame = packet("ipv4", "udp", rng.randbytes(41))
    for split in range(34, len(frame) + 1):
        for start in (34, 35) if split > 34 else (34,):
            batch = ip_batch([frame])
            move_split(batch, 0, split, shift=split * 3 % 8)
            got = checksum.packet_sum(batch.headers, batch.meta, 0, np.uint64(HEADROOM_BYTES + start))
            assert int(got) == plain_sum(frame[start:]), (split, start)


def test_start_behind_the_row_counts_into_the_payload():
    frame = packet("ipv4", "udp", random.Random(4).randbytes(400))
    batch = ip_batch([frame])
    for start in (255, 256, 257, 300, len(frame) - 1, len(frame), len(frame) + 1):
        got = checksum.packet_sum(batch.headers, batch.meta, 0, np.uint64(HEADROOM_BYTES + start))
        assert int(got) == plain_sum(frame[start:])


def test_packet_ends_where_the_ip_header_says():
    frame = packet("ipv4", "udp", b"x")
    batch = ip_batch([frame + b"\xee" * 17])
    start = np.uint64(HEADROOM_BYTES + 34)
    assert int(checksum.packet_sum(batch.headers, batch.meta, 0, start)) == plain_sum(frame[34:])
    batch.meta[0]["parsed"] = 0
    whole = plain_sum(frame[34:] + b"\xee" * 17)
    assert int(checksum.packet_sum(batch.headers, batch.meta, 0, start)) == whole
    batch = ip_batch([frame])
    batch.meta[0]["l3_len"] = 65535  # never beyond what is there
    assert int(checksum.packet_sum(batch.headers, batch.meta, 0, start)) == plain_sum(frame[34:])


# owed checksums


@shapes
def test_completed_checksum_is_scapys(network, transport):
    rng = random.Random(5)
    step = 37 if PYTHON_MODE else 1 if network in ("ipv4", "ipv6") else 7
    sizes = [*range(0, 301, step), 1400]
    frames = [packet(network, transport, rng.randbytes(size)) for size in sizes]
    batch = ip_batch(frames)
    for i, frame in enumerate(frames):
        owe(batch, i, frame)
    passed, drops = complete(batch)
    assert passed == len(frames)
    assert not drops.any()
    for i, frame in enumerate(frames):
        assert batch.frame(i) == frame, sizes[i]
        assert batch.meta[i]["offload"] == 0
        assert (batch.headers[i, :HEADROOM_BYTES] == FILL).all()
        assert (batch.headers[i, batch.meta[i]["header_end"] :] == FILL).all()


@shapes
def test_completed_wherever_the_row_ends(network, transport):
    frame = packet(network, transport, random.Random(6).randbytes(43))
    fields = walk(frame)
    first = fields["l4"] + CHECKSUM_OFFSETS[fields["ip_proto"]] + (4 if transport == "sctp" else 2)
    for split in range(first, min(len(frame), 256) + 1):
        batch = ip_batch([frame])
        owe(batch, 0, frame)
        move_split(batch, 0, split, shift=split % 8)
        assert complete(batch)[0] == 1
        assert batch.frame(0) == frame, split


def test_ethernet_padding_is_not_summed():
    for network, transport in SHAPES:
        frame = packet(network, transport, b"a")
        batch = ip_batch([frame + b"\xee\xdd\xcc"])
        owe(batch, 0, frame)
        assert complete(batch)[0] == 1
        assert batch.frame(0) == frame + b"\xee\xdd\xcc"


def udp_with_sum(total):
    """A UDP frame, right but for its checksum field, whose covered octets sum to `total`."""
    frame = bytearray(packet("ipv4", "udp", b"\0\0ab"))
    frame[40:42] = b"\0\0"
    rest = int(checksum.fold(np.uint64(pseudo_sum(bytes(frame)) + plain_sum(bytes(frame[34:])))))
    frame[42:44] = ((total - rest) % 0xFFFF).to_bytes(2, "big")
    return frame


def test_a_udp_checksum_of_zero_is_sent_as_all_ones():
    for total, expected in ((0xFFFF, 0xFFFF), (0xFFFE, 0x0001), (0x0001, 0xFFFE)):
        frame = udp_with_sum(total)
        batch = ip_batch([bytes(frame)])
        owe(batch, 0, bytes(frame))
        complete(batch)
        assert int.from_bytes(batch.frame(0)[40:42], "big") == expected


def test_a_tcp_checksum_of_zero_stays():
    frame = bytearray(packet("ipv4", "tcp", b"\0\0"))
    original = int.from_bytes(frame[50:52], "big")
    frame[-2:] = original.to_bytes(2, "big")  # takes the sum to all ones
    batch = ip_batch([bytes(frame)])
    owe(batch, 0, bytes(frame))
    complete(batch)
    assert batch.frame(0)[50:52] == b"\0\0"


def test_without_ip_the_sum_runs_to_the_end_of_the_frame():
    frame = bytes(14) + random.Random(7).randbytes(400)
    batch = Batch([frame])
    record = batch.meta[0]
    record["offload"] = VIRTIO_NET_HDR_F_NEEDS_CSUM
    record["csum_start"] = HEADROOM_BYTES + 20
    record["csum_offset"] = 16
    assert complete(batch)[0] == 1
    got = int.from_bytes(batch.frame(0)[36:38], "big")
    assert got == plain_sum(frame[20:]) ^ 0xFFFF


def test_nothing_owed_nothing_changed():
    frame = packet("ipv4", "tcp", b"abc")
    batch = ip_batch([frame, frame, frame])
    batch.meta[1]["offload"] = VIRTIO_NET_HDR_F_DATA_VALID
    owe(batch, 2, frame)
    batch.meta[2]["verdict"] = VERDICT_DROP
    before = batch.headers.copy(), batch.meta.copy()
    passed, drops = complete(batch)
    assert passed == 2
    assert not drops.any()
    assert (batch.headers == before[0]).all()
    assert (batch.meta == before[1]).all()


def test_other_flags_stay():
    frame = packet("ipv4", "tcp", b"abc")
    batch = ip_batch([frame])
    owe(batch, 0, frame)
    batch.meta[0]["offload"] |= VIRTIO_NET_HDR_F_DATA_VALID
    complete(batch)
    assert batch.meta[0]["offload"] == VIRTIO_NET_HDR_F_DATA_VALID


@pytest.mark.parametrize("transport", ["tcp", "sctp"])
def test_a_field_outside_the_row_is_dropped(transport):
    frame = packet("ipv4", transport, b"abc")
    good_start, good_offset = HEADROOM_BYTES + 34, 16 if transport == "tcp" else 8
    width = 2 if transport == "tcp" else 4
    cases = [(HEADROOM_BYTES - 1, good_offset), (0, good_offset), (0xFFFF, good_offset), (good_start, 0xFFFF)]
    cases += [(0xFFFF, 0xFFFF), (ROW_BYTES, 0), (ROW_BYTES - 1, 0)]
    batch = ip_batch([frame] * len(cases))
    for i, (start, offset) in enumerate(cases):
        owe(batch, i, frame)
        batch.meta[i]["csum_start"] = start
        batch.meta[i]["csum_offset"] = offset
    before = batch.headers.copy()
    passed, drops = complete(batch)
    assert passed == 0
    assert drops[Drop.CHECKSUM_UNSUPPORTED] == len(cases) == drops.sum()
    assert (batch.meta["verdict"] == VERDICT_DROP).all()
    assert (batch.meta["drop_reason"] == Drop.CHECKSUM_UNSUPPORTED).all()
    assert (batch.headers == before).all()
    # every truncation: complete only where the whole field is in the row
    for end in range(len(frame) + 1):
        batch = ip_batch([frame])
        owe(batch, 0, frame)
        batch.meta[0]["header_end"] = HEADROOM_BYTES + end
        fits = end >= 34 + good_offset + width
        assert complete(batch)[0] == fits, end
        assert batch.meta[0]["verdict"] == (VERDICT_PASS if fits else VERDICT_DROP)


def test_only_the_first_count_packets():
    frame = packet("ipv4", "tcp", b"abc")
    batch = ip_batch([frame] * 3)
    for i in range(3):
        owe(batch, i, frame)
    drops = np.zeros(DROP_REASON_COUNT, np.uint64)
    assert checksum.complete_checksums(batch.headers, batch.meta, 2, drops) == 2
    assert [int(f) for f in batch.meta["offload"]] == [0, 0, VIRTIO_NET_HDR_F_NEEDS_CSUM]


def test_a_first_fragment_owing_its_checksum_is_still_completed():
    """What is owed is a range of octets; whether it makes sense is the vnet check's to judge."""
    ip = IPv6(**V6) / IPv6ExtHdrFragment(m=1, id=5)
    frame = bytes(ETHER / ip / UDP(sport=1, dport=2, chksum=0) / Raw(b"x" * 24))
    batch = ip_batch([frame])
    owe(batch, 0, frame)
    assert complete(batch)[0] == 1
