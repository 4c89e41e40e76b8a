"""The virtio-net header: taken over as it comes, judged against what was parsed, written anew."""

import struct

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Raw

from kernels.drops import DROP_REASON_COUNT, Drop
from kernels.jit import kernel
from kernels.layout import HEADROOM_BYTES, VERDICT_DROP, VERDICT_PASS
from kernels.parse import parse
from kernels.virtio_net import VNET_HDR_BYTES, check_vnet, decode_vnet, encode_vnet
from tests.kernels.batches import FILL, Batch

VNET = struct.Struct("<BBHHHHH")  # virtio 1.2 5.1.6
FIELDS = ("flags", "gso_type", "hdr_len", "gso_size", "csum_start", "csum_offset", "num_buffers")
ETH = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
DATA = Raw(b"x" * 400)
TCP4 = ETH / IP() / TCP(dport=80) / DATA
TCP6 = ETH / IPv6() / TCP(dport=80) / DATA
UDP4 = ETH / IP() / UDP(dport=80) / DATA
SCTP4 = ETH / IP() / SCTP(sport=1, dport=2)
OTHER4 = ETH / IP(proto=89) / DATA
ICMP_LIKE = ETH / ARP()
L4, L4_V6 = 34, 54  # octets from the start of the frame
NEEDS_CSUM, DATA_VALID = 1, 2
TCPV4, UFO, TCPV6, UDP_L4, ECN = 1, 3, 4, 5, 0x80


@kernel
def encode_all(headers, meta, count):
    for i in range(count):
        encode_vnet(headers[i], meta[i])


def received(packet, **fields):
    """Batch of one packet with a virtio-net header of `fields`, all others 0."""
    batch = Batch([bytes(packet)])
    header = VNET.pack(*(fields.get(name, 0) for name in FIELDS))
    batch.headers[0, HEADROOM_BYTES - VNET_HDR_BYTES : HEADROOM_BYTES] = np.frombuffer(header, np.uint8)
    decode_vnet(batch.headers, batch.meta, 1)
    return batch


def judged(packet, **fields):
    """Drop reason of a received packet after the parser and check_vnet, NONE when it passed."""
    batch = received(packet, **fields)
    drops = np.zeros(DROP_REASON_COUNT, np.uint64)
    parse(batch.headers, batch.meta, 1, drops)
    assert not drops.any()
    passed = check_vnet(batch.headers, batch.meta, 1, drops)
    m = batch.meta[0]
    reason = Drop(m["drop_reason"])
    assert (passed, m["verdict"]) == ((1, VERDICT_PASS) if reason == Drop.NONE else (0, VERDICT_DROP))
    assert [Drop(i) for i in np.flatnonzero(drops)] == [reason] * (1 - passed)
    return reason


def owed(start=L4, offset=16, **more):
    return {"flags": NEEDS_CSUM, "csum_start": start, "csum_offset": offset, **more}


def large(gso_type, start=L4, offset=16, **more):
    return {**owed(start, offset), "gso_type": gso_type, "gso_size": 100, "hdr_len": 54, **more}


def test_every_field_is_taken_over():
    m = received(
        TCP4, flags=3, gso_type=0x81, hdr_len=0x1234, gso_size=0xFEDC, csum_start=34, csum_offset=16
    ).meta[0]
    assert (m["offload"], m["gso_type"], m["gso_hdr_len"], m["gso_size"]) == (3, 0x81, 0x1234, 0xFEDC)
    assert (m["csum_start"], m["csum_offset"]) == (HEADROOM_BYTES + 34, 16)


@pytest.mark.parametrize("start", [0xFFFF, 0xFFFF - HEADROOM_BYTES, 0xFFFF - HEADROOM_BYTES + 1])
def test_a_checksum_start_beyond_16_bits_does_not_wrap(start):
    assert received(TCP4, csum_start=start).meta[0]["csum_start"] == 0xFFFF
    assert judged(TCP4, **owed(start)) == Drop.VNET_CSUM_START


END = 256  # octets of the frame in the row
JUDGED = [
    (TCP4, {}, Drop.NONE),
    (TCP4, {"flags": DATA_VALID}, Drop.NONE),
    (TCP4, {"flags": 4}, Drop.VNET_FLAGS),
    (TCP4, {"flags": 0xFF}, Drop.VNET_FLAGS),
    # fields without the flag or type that gives them a meaning are noise
    (TCP4, {"csum_start": 0xFFFF, "csum_offset": 0xFFFF, "gso_size": 7, "hdr_len": 0xFFFF}, Drop.NONE),
    # an owed checksum
    (TCP4, owed(), Drop.NONE),
    (UDP4, owed(offset=6), Drop.NONE),
    (SCTP4, owed(offset=8), Drop.NONE),
    (TCP6, owed(L4_V6), Drop.NONE),
    (TCP4, owed(offset=6), Drop.VNET_CSUM_OFFSET),
    (UDP4, owed(offset=16), Drop.VNET_CSUM_OFFSET),
    (SCTP4, owed(offset=16), Drop.VNET_CSUM_OFFSET),
    (TCP4, owed(L4 - 1), Drop.VNET_CSUM_START),
    (TCP4, owed(0), Drop.VNET_CSUM_START),
    (TCP4, owed(END), Drop.VNET_CSUM_START),
    (TCP4, owed(END - 1), Drop.VNET_CSUM_OFFSET),
    (TCP4, owed(100, END - 102), Drop.NONE),  # inside: a tunnel's inner packet
    (TCP4, owed(100, END - 101), Drop.VNET_CSUM_OFFSET),
    (TCP4, owed(100, 0xFFFF), Drop.VNET_CSUM_OFFSET),
    (OTHER4, owed(14), Drop.NONE),  # no layer 4: layer 3 is the floor
    (OTHER4, owed(13), Drop.VNET_CSUM_START),
    (ICMP_LIKE, owed(13), Drop.VNET_CSUM_START),
    # a large packet
    (TCP4, large(TCPV4), Drop.NONE),
    (TCP4, large(TCPV4 | ECN), Drop.NONE),
    (TCP6, large(TCPV6, L4_V6), Drop.NONE),
    (UDP4, large(UDP_L4, offset=6), Drop.NONE),
    (UDP4, large(UDP_L4 | ECN, offset=6), Drop.VNET_GSO_TYPE),
    (UDP4, large(UFO, offset=6), Drop.VNET_GSO_TYPE),
    (TCP4, large(TCPV6), Drop.VNET_GSO_TYPE),
    (TCP6, large(TCPV4, L4_V6), Drop.VNET_GSO_TYPE),
    (UDP4, large(TCPV4, offset=6), Drop.VNET_GSO_TYPE),
    (TCP4, large(UDP_L4), Drop.VNET_GSO_TYPE),
    (TCP4, large(ECN), Drop.VNET_GSO_TYPE),
    (TCP4, large(0x7F), Drop.VNET_GSO_TYPE),
    (OTHER4, {"gso_type": TCPV4, "gso_size": 100}, Drop.VNET_GSO_TYPE),
    (TCP4, large(TCPV4, flags=0), Drop.VNET_FLAGS),
    (TCP4, large(TCPV4, 100), Drop.VNET_FLAGS),  # owed somewhere else
    (TCP4, large(TCPV4, gso_size=0), Drop.VNET_GSO_SIZE),
    (TCP4, large(TCPV4, hdr_len=len(TCP4)), Drop.NONE),
    (TCP4, large(TCPV4, hdr_len=len(TCP4) + 1), Drop.VNET_HDR_LEN),
]


@pytest.mark.parametrize(("packet", "fields", "reason"), JUDGED, ids=range(len(JUDGED)))
def test_headers_that_contradict_the_packet_are_dropped(packet, fields, reason):
    assert judged(packet, **fields) == reason


def test_a_packet_that_was_dropped_before_is_left_alone():
    batch = received(TCP4, flags=0xFF)
    batch.meta[0]["verdict"], batch.meta[0]["drop_reason"] = VERDICT_DROP, Drop.RUNT
    drops = np.zeros(DROP_REASON_COUNT, np.uint64)
    assert check_vnet(batch.headers, batch.meta, 1, drops) == 0
    assert batch.meta[0]["drop_reason"] == Drop.RUNT and not drops.any()


@pytest.mark.parametrize("packet", [TCP4, UDP4], ids=["tcp", "udp"])
@pytest.mark.parametrize(
    "fields", [{}, owed(), large(TCPV4), {"flags": DATA_VALID}], ids=["plain", "owed", "large", "valid"]
)
def test_what_is_written_is_what_was_taken(packet, fields):
    batch = received(packet, **fields)
    parse(batch.headers, batch.meta, 1, np.zeros(DROP_REASON_COUNT, np.uint64))
    batch.headers[0, :HEADROOM_BYTES] = FILL
    encode_all(batch.headers, batch.meta, 1)
    header = batch.headers[0, HEADROOM_BYTES - VNET_HDR_BYTES : HEADROOM_BYTES].tobytes()
    expected = {name: fields.get(name, 0) for name in FIELDS}
    if fields.get("gso_type"):
        expected["hdr_len"] = L4 + (20 if TCP in packet else 8)  # what was parsed, not what came
    assert dict(zip(FIELDS, VNET.unpack(header), strict=True)) == expected
    assert (batch.headers[0, : HEADROOM_BYTES - VNET_HDR_BYTES] == FILL).all()


def test_the_header_moves_with_the_frame():
    """A tag in front of the frame moves csum_start as the other side counts it."""
    batch = received(TCP4, **owed())
    batch.meta[0]["l2_offset"] -= 4
    encode_all(batch.headers, batch.meta, 1)
    at = HEADROOM_BYTES - 4 - VNET_HDR_BYTES
    header = VNET.unpack(batch.headers[0, at : at + VNET_HDR_BYTES].tobytes())
    assert dict(zip(FIELDS, header, strict=True))["csum_start"] == L4 + 4
