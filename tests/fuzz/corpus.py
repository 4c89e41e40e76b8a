"""What the fuzzer mutates: one frame for each protocol and combination, large packets, streams.

Frames come with the virtio-net header that an honest sender would put in front.
"""

import random
import struct
from collections import namedtuple

import numpy as np
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from dpu_runtime.kernels.layout import (
    FRAME_BYTES_MAX,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6,
    VIRTIO_NET_HDR_GSO_UDP_L4,
)
from tests.kernels.ip_batches import ip_headers, packet, pseudo_sum, walk
from tests.kernels.offload.streams import LAYER3, TAGS, TCP_OPTIONS, octets, tcp, udp
from tests.kernels.parse.frames import FRAMES, chain_frame, chains

VNET = struct.Struct("<BBHHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers
STREAM_PACKETS = 40
LARGE_SHARE = 40  # one in so many packets starts as a large one

Corpus = namedtuple(
    "Corpus",
    [
        "data",  # uint8[], frames one after another, then FRAME_BYTES_MAX octets of noise
        "starts",  # int64[frames]
        "lengths",  # int64[frames]
        "vnet",  # uint8[frames, 12]
        "picks",  # int64[], frames to choose from, each as often as it is wanted
    ],
)


def host_mac(number):
    """MAC address of the host on port `number`."""
    return 0x0200_0000_0100 + number


def _owed(packet, gso_type=0, size=0):
    """(frame, virtio-net header) of a packet whose layer 4 checksum is owed."""
    layer4 = packet.getlayer(TCP) or packet.getlayer(UDP)
    frame = bytes(packet)
    start = len(frame) - len(bytes(layer4))
    offset = 16 if TCP in packet else 6
    header = 14 if not size else start + (len(bytes(layer4)) - len(bytes(layer4.payload)))
    return frame, VNET.pack(VIRTIO_NET_HDR_F_NEEDS_CSUM, gso_type, header, size, start, offset, 0)


def _large_packets():
    for number, (tag, layer3, size, length) in enumerate(
        (tag, layer3, size, length)
        for tag in TAGS
        for layer3 in LAYER3
        for size, length in ((1448, 8000), (536, 3000), (1200, 64000), (9, 1000))
    ):
        ethernet = TAGS[tag]()
        options = list(TCP_OPTIONS.values())[number % len(TCP_OPTIONS)]
        gso_type = VIRTIO_NET_HDR_GSO_TCPV4 if layer3.startswith("v4") else VIRTIO_NET_HDR_GSO_TCPV6
        flags = "PA" if number % 3 else "CPAF"
        if "C" in flags:
            gso_type |= VIRTIO_NET_HDR_GSO_ECN
        data = octets(length, number)
        yield _owed(ethernet / LAYER3[layer3]() / tcp(options, flags) / Raw(data), gso_type, size)
        yield _owed(ethernet / LAYER3[layer3]() / udp() / Raw(data), VIRTIO_NET_HDR_GSO_UDP_L4, size)


def _stream(layer3, layer4, size):
    """Consecutive packets of a flow with good checksums: GRO merges them."""
    for number in range(STREAM_PACKETS):
        packet = Ether(src="02:00:00:00:01:01", dst="02:00:00:00:01:02") / LAYER3[layer3]() / layer4()
        if IP in packet:
            packet[IP].id = number
        if TCP in packet:
            packet[TCP].seq = (packet[TCP].seq + number * size) & 0xFFFFFFFF
        yield bytes(packet / Raw(octets(size, number)))


def _small_packets():
    yield from FRAMES.values()
    yield from (bytes(chain_frame(order)) for order in chains())
    yield from (bytes(chain_frame(("destination",) * count)) for count in (7, 8, 9, 20))
    rng = random.Random(1)
    yield from (rng.randbytes(length) for length in (14, 60, 256, 257, 1514))
    for layer3 in LAYER3:
        yield bytes(TAGS["untagged"]() / LAYER3[layer3]() / tcp() / Raw(octets(1400)))
        yield bytes(TAGS["vlan"]() / LAYER3[layer3]() / udp() / Raw(octets(1400)))
    yield from _unmarked_debts()


def _unmarked_debts():
    """Frames that owe their checksum, as AF_XDP delivers them."""
    for network in ip_headers():
        for transport, offset in (("tcp", 16), ("udp", 6)):
            frame = packet(network, transport, octets(100))
            at = walk(frame)["l4"] + offset
            yield frame[:at] + pseudo_sum(frame).to_bytes(2, "big") + frame[at + 2 :]


def build():
    """Make the corpus."""
    plain = VNET.pack(0, 0, 0, 0, 0, 0, 0)
    small = [(frame, plain) for frame in _small_packets()]
    small += [_owed(Ether(frame)) for frame, _ in small[:40] if TCP in Ether(frame)]
    streams = [
        (frame, plain)
        for layer3 in ("v4", "v6")
        for layer4, size in ((tcp, 60), (tcp, 1400), (udp, 300))
        for frame in _stream(layer3, layer4, size)
    ]
    large = [entry for entry in _large_packets() if len(entry[0]) <= FRAME_BYTES_MAX]
    entries = small + streams + large
    lengths = np.array([len(frame) for frame, _ in entries], np.int64)
    noise = random.Random(2).randbytes(FRAME_BYTES_MAX)
    data = np.frombuffer(b"".join(frame for frame, _ in entries) + noise, np.uint8)
    vnet = np.frombuffer(b"".join(header for _, header in entries), np.uint8).reshape(len(entries), -1)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    rng = np.random.default_rng(3)
    few = np.arange(len(small) + len(streams))
    many = np.arange(len(few), len(entries))
    picks = np.concatenate([few] * LARGE_SHARE + [rng.choice(many, len(few))])
    return Corpus(data.copy(), starts.astype(np.int64), lengths, vnet.copy(), picks.astype(np.int64))
