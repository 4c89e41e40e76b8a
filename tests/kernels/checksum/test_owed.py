"""Owed checksums that nothing marks: found by the value Linux leaves, and finished to scapy's octets."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import HAO, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrRouting
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from dpu_runtime.kernels.checksum.internet import complete_checksums
from dpu_runtime.kernels.checksum.owed import mark_owed
from dpu_runtime.kernels.compile.jit import PYTHON_MODE
from dpu_runtime.kernels.drops import DROP_REASON_COUNT
from dpu_runtime.kernels.layout import (
    HEADROOM_BYTES,
    PORT_DTYPE,
    PORT_RX_OWED,
    PORTS_MAX,
    VERDICT_DROP,
    VIRTIO_NET_HDR_F_DATA_VALID,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
)
from dpu_runtime.kernels.offload.virtio_net import check_vnet
from dpu_runtime.kernels.parse.parse import parse
from tests.kernels.batches import FILL, Batch
from tests.kernels.ip_batches import ETHER, V4, V6, ip_headers, packet, plain_sum, pseudo_sum, walk

PORT = 3
FIELD_AT = {"tcp": 16, "udp": 6, "sctp": 8}  # octets behind the start of layer 4
EXAMPLES = 20 if PYTHON_MODE else 200
pytestmark = pytest.mark.usefixtures("payload_layouts")
shapes = pytest.mark.parametrize("network", ip_headers())
transports = pytest.mark.parametrize("transport", FIELD_AT)


def parsed(frames):
    """A batch of `frames`, parsed."""
    batch = Batch(frames, PORT)
    drops = np.zeros(DROP_REASON_COUNT, np.uint64)
    assert parse(batch.headers, batch.meta, len(frames), drops) == len(frames)
    return batch


def mark(batch, count=None, flags=PORT_RX_OWED):
    """Run the kernel, which must not change an octet; returns how many it marked."""
    ports = np.zeros(PORTS_MAX, PORT_DTYPE)
    ports[PORT]["flags"] = flags
    before, marks = batch.headers.copy(), batch.meta["offload"].copy()
    marked = mark_owed(batch.headers, batch.meta, len(batch.meta) if count is None else count, ports)
    assert (batch.headers == before).all()
    assert marked == np.count_nonzero(batch.meta["offload"] ^ marks)
    return marked


def finish(batch):
    """Check what was marked as the pipeline does, and finish it; all must pass."""
    drops = np.zeros(DROP_REASON_COUNT, np.uint64)
    assert check_vnet(batch.headers, batch.meta, len(batch.meta), drops) == len(batch.meta)
    assert complete_checksums(batch.headers, batch.meta, len(batch.meta), drops) == len(batch.meta)
    return [batch.frame(i) for i in range(len(batch.meta))]


def field_of(frame, transport):
    """Where the checksum lies in `frame`."""
    at = walk(frame)["l4"] + FIELD_AT[transport]
    return slice(at, at + (4 if transport == "sctp" else 2))


def with_field(frame, transport, value):
    """`frame` with another checksum."""
    field = field_of(frame, transport)
    return frame[: field.start] + value + frame[field.stop :]


def owing(frame, transport):
    """`frame` as Linux hands it to a device that says it does checksums."""
    value = bytes(4) if transport == "sctp" else pseudo_sum(frame).to_bytes(2, "big")
    return with_field(frame, transport, value)


@shapes
@transports
def test_a_debt_is_found_and_finished(network, transport):
    rng = random.Random(1)
    sizes = [*range(0, 301, 37 if PYTHON_MODE else 7), 1400, 1401]
    frames = [packet(network, transport, rng.randbytes(size)) for size in sizes]
    batch = parsed([owing(frame, transport) for frame in frames])
    assert mark(batch) == len(frames)
    assert (batch.meta["csum_start"] == batch.meta["l4_offset"]).all()
    assert (batch.meta["csum_offset"] == FIELD_AT[transport]).all()
    assert finish(batch) == frames


@shapes
@transports
def test_padding_and_tags_are_no_part_of_it(network, transport):
    frame = packet(network, transport, b"abc")
    tagged = frame[:12] + b"\x88\xa8\x00\x05\x81\x00\x00\x07" + frame[12:]
    owes = owing(frame, transport)
    batch = parsed([owes + b"\xee" * 9, owes[:12] + tagged[12:20] + owes[12:] + b"\xee"])
    assert mark(batch) == 2
    assert finish(batch) == [frame + b"\xee" * 9, tagged + b"\xee"]


@shapes
@pytest.mark.parametrize("transport", [*FIELD_AT, "icmp"])
def test_complete_packets_are_left_alone(network, transport):
    batch = parsed([packet(network, transport, random.Random(k).randbytes(k)) for k in range(50)])
    before = batch.meta.copy()
    assert mark(batch) == 0
    assert (batch.meta == before).all()


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.sampled_from(list(ip_headers())),
    st.sampled_from(["tcp", "udp"]),
    st.binary(min_size=2, max_size=400),
    st.integers(0, 0xFFFF),
)
def test_a_complete_packet_that_happens_to_have_the_value_keeps_it(network, transport, data, port):
    """Choose the first payload word so that the right checksum is the pseudo header's sum."""
    frame = packet(network, transport, b"\0\0" + data[2:])
    l4 = walk(frame)["l4"]
    frame = bytearray(frame[:l4] + port.to_bytes(2, "big") + frame[l4 + 2 :])
    pseudo = pseudo_sum(bytes(frame))
    field = field_of(bytes(frame), transport)
    frame[field] = pseudo.to_bytes(2, "big")
    end = 14 + walk(bytes(frame))["l3_len"]
    word = plain_sum(pseudo.to_bytes(2, "big") + bytes(frame[l4:end])) ^ 0xFFFF
    payload = l4 + (8 if transport == "udp" else (frame[l4 + 12] >> 4) * 4)
    frame[payload : payload + 2] = word.to_bytes(2, "big")
    total = plain_sum(pseudo.to_bytes(2, "big") + bytes(frame[l4:end]))
    assert total == 0xFFFF, "the packet is not complete"
    batch = parsed([bytes(frame)])
    assert mark(batch) == 1
    (finished,) = finish(batch)
    if transport == "tcp" and pseudo == 0xFFFF:
        frame[field] = finished[field]  # either zero
        assert finished[field] in (b"\0\0", b"\xff\xff")
    assert finished == bytes(frame)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_both_zeros(transport):
    """The case above with 0xFFFF, which chance seldom finds: an address that takes the sum there."""
    frame = packet("ipv4", transport, b"\0\0abcd")
    gap = (0xFFFF - pseudo_sum(frame)) % 0xFFFF
    low = int.from_bytes(frame[28:30], "big") + gap
    low = (low & 0xFFFF) + (low >> 16)
    frame = frame[:28] + low.to_bytes(2, "big") + frame[30:]
    assert pseudo_sum(frame) == 0xFFFF
    frame = with_field(frame, transport, b"\xff\xff")
    l4 = walk(frame)["l4"]
    word = plain_sum(frame[l4:]) ^ 0xFFFF
    frame = frame[:-6] + word.to_bytes(2, "big") + frame[-4:]
    batch = parsed([frame])
    assert mark(batch) == 1
    zero = b"\0\0" if transport == "tcp" else b"\xff\xff"
    assert finish(batch) == [with_field(frame, transport, zero)]


def pseudo_valued(layers, transport, at, extra=0):
    """Octets of `layers` whose checksum field, at `at`, is the pseudo sum of its octets."""
    frame = bytes(ETHER / layers)
    value = (pseudo_sum(frame) + extra).to_bytes(2, "big")
    field = at + FIELD_AT[transport]
    return frame[:field] + value + frame[field + 2 :]


NOT_OWED = {
    "another value": pseudo_valued(IP(**V4) / TCP() / Raw(b"abc"), "tcp", 34, extra=1),
    "first fragment": pseudo_valued(IP(flags="MF", **V4) / UDP() / Raw(b"x" * 16), "udp", 34),
    "IPv6 fragment": pseudo_valued(
        IPv6(**V6) / IPv6ExtHdrFragment(nh=17, m=1) / UDP() / Raw(b"x" * 16), "udp", 62
    ),
    "UDP without": bytes(ETHER / IP(**V4) / UDP(chksum=0) / Raw(b"abc")),
    "UDP shorter than its packet": pseudo_valued(IP(**V4) / UDP(len=10) / Raw(b"abc"), "udp", 34),
    "on the way to another address": pseudo_valued(
        IPv6(**V6) / IPv6ExtHdrRouting(segleft=1, addresses=["2001:db8::2"]) / TCP() / Raw(b"abc"), "tcp", 78
    ),
    "home address": pseudo_valued(
        IPv6(**V6) / IPv6ExtHdrDestOpt(options=[HAO(hoa="2001:db8::7")]) / TCP() / Raw(b"abc"), "tcp", 78
    ),
    "inside a tunnel": bytes(ETHER / IP(**V4) / UDP(dport=4789, chksum=0) / VXLAN(vni=7))
    + pseudo_valued(IP(**V4) / TCP() / Raw(b"abc"), "tcp", 34),
}


@pytest.mark.parametrize("name", NOT_OWED)
def test_what_it_does_not_judge(name):
    batch = parsed([NOT_OWED[name]])
    assert mark(batch) == 0
    assert batch.meta[0]["offload"] == 0


def test_other_ports_marked_and_dropped_packets_are_not_touched():
    frame = packet("ipv4", "tcp", b"abc")
    owes = owing(frame, "tcp")
    assert mark(parsed([owes]), flags=0xFFFFFFFF & ~PORT_RX_OWED) == 0
    batch = parsed([owes] * 4)
    assert mark(batch, count=0) == 0
    batch.meta[0]["offload"] = VIRTIO_NET_HDR_F_NEEDS_CSUM  # a debt of its own, for another place
    batch.meta[0]["csum_start"] = 77
    batch.meta[1]["verdict"] = VERDICT_DROP
    batch.meta[2]["offload"] = VIRTIO_NET_HDR_F_DATA_VALID
    assert mark(batch, count=3) == 1
    assert batch.meta["offload"].tolist() == [1, 0, 3, 0]
    assert batch.meta[0]["csum_start"] == 77


@shapes
@transports
def test_nothing_behind_the_row_is_read(network, transport):
    """Parsed, and then the row ends anywhere: a record that the parser would not leave."""
    owes = owing(packet(network, transport, b"abcdef"), transport)
    field = field_of(owes, transport)
    for end in range(len(owes) + 1):
        batch = parsed([owes])
        batch.meta[0]["header_end"] = HEADROOM_BYTES + end
        seen = []
        for fill in (FILL, FILL ^ 0xFF):
            batch.headers[0, HEADROOM_BYTES + end :] = fill
            batch.meta[0]["offload"] = 0
            seen.append(mark(batch))
        assert seen == [end >= field.stop] * 2, end


@shapes
@transports
def test_every_truncated_frame(network, transport):
    owes = owing(packet(network, transport, b"abcdef"), transport)
    for end in range(len(owes)):
        batch = Batch([owes[:end]], PORT)
        parse(batch.headers, batch.meta, 1, np.zeros(DROP_REASON_COUNT, np.uint64))
        assert mark(batch) == 0, end
