"""Verification of received checksums: scapy's packets pass, any flipped bit does not."""

import random

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import HAO, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrRouting, PadN
from scapy.packet import Raw

from dpu_runtime.kernels.checksum.verify import verify_checksums
from dpu_runtime.kernels.compile.jit import PYTHON_MODE
from dpu_runtime.kernels.drops import DROP_REASON_COUNT, Drop
from dpu_runtime.kernels.layout import (
    HEADROOM_BYTES,
    PORT_DTYPE,
    PORT_NONE,
    PORT_RX_VERIFY,
    PORTS_MAX,
    TUNNEL_VXLAN,
    VERDICT_DROP,
    VERDICT_PASS,
    VIRTIO_NET_HDR_F_DATA_VALID,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
)
from dpu_runtime.kernels.parse.parse import parse
from tests.kernels.batches import Batch
from tests.kernels.ip_batches import ETHER, SHAPES, V4, V6, ip_batch, move_split, packet, walk

PORT = 3
BITS = (0, 3, 7) if PYTHON_MODE else range(8)
pytestmark = pytest.mark.usefixtures("payload_layouts")
shapes = pytest.mark.parametrize("network, transport", SHAPES, ids=["-".join(s) for s in SHAPES])


def verify(batch):
    """Run the kernel with PORT asking for it; returns (passed, drops)."""
    ports = np.zeros(PORTS_MAX, PORT_DTYPE)
    ports[PORT]["flags"] = PORT_RX_VERIFY
    drops = np.zeros(DROP_REASON_COUNT, np.uint64)
    return verify_checksums(batch.headers, batch.meta, len(batch.meta), ports, drops), drops


def outcome(frame, **fields):
    """(drop reason, whether marked valid) of one frame, with `fields` of its record replaced."""
    batch = ip_batch([frame], PORT)
    for name, value in fields.items():
        batch.meta[0][name] = value
    before = batch.headers.copy()
    passed, drops = verify(batch)
    record = batch.meta[0]
    assert (batch.headers == before).all()
    assert passed + drops.sum() == 1
    assert passed == (record["verdict"] == VERDICT_PASS)
    assert drops[record["drop_reason"]] == 1 - passed
    return Drop(int(record["drop_reason"])), bool(record["offload"] & VIRTIO_NET_HDR_F_DATA_VALID)


GOOD = (Drop.NONE, True)
UNKNOWN = (Drop.NONE, False)
BAD = (Drop.L4_CHECKSUM, False)


@shapes
def test_scapys_checksums_are_good(network, transport):
    rng = random.Random(1)
    sizes = [*range(0, 301, 37 if PYTHON_MODE else 7), 1400, 1401]
    frames = [packet(network, transport, rng.randbytes(size)) for size in sizes]
    batch = ip_batch(frames, PORT)
    passed, drops = verify(batch)
    assert passed == len(frames)
    assert not drops.any()
    assert (batch.meta["offload"] == VIRTIO_NET_HDR_F_DATA_VALID).all()


@shapes
def test_good_wherever_the_row_ends_and_with_padding(network, transport):
    frame = packet(network, transport, random.Random(2).randbytes(43))
    for split in range(walk(frame)["l4"] + 32, min(len(frame), 256) + 1):
        batch = ip_batch([frame + b"\xee" * 5], PORT)
        move_split(batch, 0, split, shift=split % 8)
        assert verify(batch)[0] == 1, split
        assert batch.meta[0]["offload"] == VIRTIO_NET_HDR_F_DATA_VALID


@shapes
def test_any_flipped_bit_is_found(network, transport):
    frame = packet(network, transport, random.Random(3).randbytes(21 if PYTHON_MODE else 263))
    fields = walk(frame)
    l4 = fields["l4"]
    flips = [(at, bit, Drop.L4_CHECKSUM) for at in range(l4, len(frame)) for bit in BITS]
    if network.startswith("ipv4"):
        flips += [(at, bit, Drop.IPV4_CHECKSUM) for at in range(14, l4) for bit in BITS]
    frames = []
    for at, bit, _ in flips:
        octets = bytearray(frame)
        octets[at] ^= 1 << bit
        frames.append(bytes(octets))
    batch = ip_batch([frame] * len(flips), PORT)  # what was parsed before the bit flipped
    for i, octets in enumerate(frames):
        row = np.frombuffer(octets[:256], np.uint8)
        batch.headers[i, HEADROOM_BYTES : HEADROOM_BYTES + len(row)] = row
        batch.lay_payload(i, octets[len(row) :])
    passed, drops = verify(batch)
    assert passed == 0
    assert (batch.meta["verdict"] == VERDICT_DROP).all()
    for i, (at, bit, reason) in enumerate(flips):
        assert batch.meta[i]["drop_reason"] == reason, (at, bit)
    assert drops.sum() == len(flips)


@pytest.mark.parametrize("network", ["ipv4", "ipv6"])
@pytest.mark.parametrize("transport", ["tcp", "udp", "icmp"])
def test_flipped_address_is_found(network, transport):
    """Layer 4 covers the addresses (but not those of IPv4 for ICMP)."""
    frame = packet(network, transport, b"abc")
    expected = GOOD if (network, transport) == ("ipv4", "icmp") else BAD
    for name in ("src_lo", "dst_lo") if network == "ipv4" else ("src_lo", "src_hi", "dst_lo", "dst_hi"):
        for bit in range(32 if network == "ipv4" else 64):
            old = int(ip_batch([frame]).meta[0][name])
            assert outcome(frame, **{name: old ^ (1 << bit)}) == expected, (name, bit)


@shapes
def test_the_parser_leaves_what_is_verified(network, transport):
    frame = packet(network, transport, b"abc") + b"\xee" * 3
    batch = Batch([frame, frame], PORT)
    batch.headers[1, HEADROOM_BYTES + len(frame) - 4] ^= 1
    drops = np.zeros(DROP_REASON_COUNT, np.uint64)
    assert parse(batch.headers, batch.meta, 2, drops) == 2
    passed, drops = verify(batch)
    assert passed == 1
    assert [Drop(int(r)) for r in batch.meta["drop_reason"]] == [Drop.NONE, Drop.L4_CHECKSUM]


def test_udp_without_a_checksum():
    v4 = bytes(ETHER / IP(**V4) / UDP(sport=1, dport=2, chksum=0) / Raw(b"abc"))
    v6 = bytes(ETHER / IPv6(**V6) / UDP(sport=1, dport=2, chksum=0) / Raw(b"abc"))
    assert outcome(v4) == UNKNOWN
    assert outcome(v6) == BAD
    assert outcome(v6, tunnel=TUNNEL_VXLAN) == UNKNOWN


@pytest.mark.parametrize("network", [IP(**V4), IPv6(**V6)], ids=["ipv4", "ipv6"])
def test_a_udp_checksum_of_all_ones_stands_for_zero(network):
    frame = bytearray(bytes(ETHER / network / UDP(sport=1, dport=2) / Raw(b"\0\0")))
    at = walk(bytes(frame))["l4"] + 6
    frame[-2:] = frame[at : at + 2]  # takes the sum to all ones
    frame[at : at + 2] = b"\xff\xff"
    assert outcome(bytes(frame)) == GOOD


def test_udp_covers_its_own_length_only():
    frame = bytes(ETHER / IP(len=20 + 8 + 3 + 2, **V4) / UDP(sport=1, dport=2, len=11) / Raw(b"abc"))
    sent = bytearray(frame)
    udp = bytes(ETHER / IP(**V4) / UDP(sport=1, dport=2) / Raw(b"abc"))
    sent[40:42] = udp[40:42]
    assert outcome(bytes(sent) + b"\xee\xee") == GOOD
    for length in (0, 7, 14, 0xFFFF):
        sent[38:40] = length.to_bytes(2, "big")
        assert outcome(bytes(sent) + b"\xee\xee") == BAD


def test_ipv4_header_is_checked_whatever_is_behind_it():
    later = bytes(ETHER / IP(frag=100, proto=6, **V4) / Raw(b"x" * 64))
    other = bytes(ETHER / IP(proto=89, **V4) / Raw(b"x" * 64))
    for frame in (later, other):
        assert outcome(frame) == UNKNOWN
        broken = frame[:24] + bytes([frame[24] ^ 1]) + frame[25:]
        assert outcome(broken) == (Drop.IPV4_CHECKSUM, False)
    # owing layer 4 does not excuse layer 3
    broken = bytearray(packet("ipv4", "tcp", b"abc"))
    broken[22] ^= 1
    assert outcome(bytes(broken), offload=VIRTIO_NET_HDR_F_NEEDS_CSUM)[0] == Drop.IPV4_CHECKSUM
    assert outcome(bytes(broken), offload=VIRTIO_NET_HDR_F_DATA_VALID)[0] == Drop.IPV4_CHECKSUM


def test_layer_4_that_cannot_be_judged_passes():
    wrong = {"chksum": 0x1234}
    first = bytes(ETHER / IP(flags="MF", **V4) / UDP(sport=1, dport=2, **wrong) / Raw(b"x" * 16))
    v6 = bytes(ETHER / IPv6(**V6) / IPv6ExtHdrFragment(m=1, id=1) / TCP(**wrong) / Raw(b"x" * 16))
    tcp = bytes(ETHER / IP(**V4) / TCP(**wrong) / Raw(b"x"))
    assert outcome(first) == UNKNOWN
    assert outcome(v6) == UNKNOWN
    assert outcome(tcp) == BAD
    assert outcome(tcp, offload=VIRTIO_NET_HDR_F_NEEDS_CSUM) == UNKNOWN
    assert outcome(tcp, offload=VIRTIO_NET_HDR_F_DATA_VALID) == GOOD
    assert outcome(tcp, l4_offset=0) == UNKNOWN


def test_ipv6_pseudo_header_with_other_addresses_is_not_judged():
    def frame(*extensions):
        packet = IPv6(**V6)
        for extension in extensions:
            packet = packet / extension
        return bytes(ETHER / packet / UDP(sport=1, dport=2, chksum=0x1234) / Raw(b"abc"))

    segments = ["2001:db8::2", "2001:db8::3"]
    on_its_way = IPv6ExtHdrRouting(addresses=segments, segleft=1)
    arrived = IPv6ExtHdrRouting(addresses=segments, segleft=0)
    home = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0\0"), HAO(hoa="2001:db8::9")])
    plain = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\xc9\xc9\xc9\xc9")])
    assert outcome(frame(on_its_way)) == UNKNOWN
    assert outcome(frame(plain, on_its_way)) == UNKNOWN
    assert outcome(frame(home)) == UNKNOWN
    assert outcome(frame(arrived)) == BAD
    assert outcome(frame(plain)) == BAD
    assert outcome(frame(arrived, home)) == UNKNOWN


def test_only_packets_of_ports_that_ask_and_that_still_pass():
    frame = bytearray(packet("ipv4", "tcp", b"abc"))
    frame[-1] ^= 1
    batch = ip_batch([bytes(frame)] * 5, PORT)
    batch.meta[0]["in_port"] = PORT + 1
    batch.meta[1]["in_port"] = PORT_NONE
    batch.meta[2]["in_port"] = PORTS_MAX
    batch.meta[3]["verdict"] = VERDICT_DROP
    passed, drops = verify(batch)
    assert passed == 3
    assert drops[Drop.L4_CHECKSUM] == 1 == drops.sum()
    assert [int(v) for v in batch.meta["verdict"]] == [0, 0, 0, VERDICT_DROP, VERDICT_DROP]
    assert not batch.meta["offload"].any()


@shapes
def test_truncated_packets_are_never_good(network, transport):
    """The record claims more than the row holds, and there is no payload."""
    frame = packet(network, transport, b"abcd")
    for end in range(14, len(frame)):
        batch = ip_batch([frame], PORT)
        move_split(batch, 0, end)
        batch.meta[0]["payload_len"] = 0
        verify(batch)
        assert not batch.meta[0]["offload"], end
