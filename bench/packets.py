"""Packets and rules that the benches of the kernels run on; the same for the same arguments."""

import random
import struct
from collections import namedtuple

import numpy as np
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from dpu_runtime.kernels.acl.layout import ACTION_ALLOW
from dpu_runtime.kernels.acl.table import AclRule
from dpu_runtime.kernels.layout import (
    BATCH_SIZE,
    HEADER_BYTES,
    HEADROOM_BYTES,
    META_DTYPE,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_TCPV4,
)

CLIENT, SERVER = "02:00:00:00:00:01", "02:00:00:00:00:02"
POOL_PACKETS = 8 * BATCH_SIZE
FLOWS = 64  # in a pool
# octets of Ethernet frames without FCS
FRAME_64 = (60,)
FRAME_1500 = (1514,)
IMIX = (60,) * 7 + (590,) * 4 + (1514,)  # "simple IMIX", 7:4:1
SIZES = {"64 B": FRAME_64, "1500 B": FRAME_1500, "IMIX": IMIX}

Pool = namedtuple(
    "Pool",
    [
        "rows",  # uint8[n, HEADER_BYTES], fronts of the frames
        "vnet",  # uint8[n, 12]
        "meta",  # META_DTYPE[n], placement fields
        "data",  # uint8[], payloads
        "starts",  # int64[n], where each begins
    ],
)


def make_pool(frames, vnet=b"\0" * 12):
    """Pool of `frames` (bytes), all with the virtio-net header `vnet`."""
    count = len(frames)
    rows, meta = np.zeros((count, HEADER_BYTES), np.uint8), np.zeros(count, META_DTYPE)
    starts = np.zeros(count, np.int64)
    payloads, end = [], 0
    for i, frame in enumerate(frames):
        front, payload = frame[:HEADER_BYTES], frame[HEADER_BYTES:]
        rows[i, : len(front)] = np.frombuffer(front, np.uint8)
        starts[i] = end
        end += len(payload)
        payloads.append(payload)
        meta[i]["payload_len"], meta[i]["frame_len"] = len(payload), len(frame)
        meta[i]["l2_offset"], meta[i]["header_end"] = HEADROOM_BYTES, HEADROOM_BYTES + len(front)
    data = np.frombuffer(b"".join(payloads) + b"\0", np.uint8).copy()
    return Pool(rows, np.tile(np.frombuffer(vnet, np.uint8), (count, 1)), meta, data, starts)


def _frame(length, flow, protocol):
    packet = Ether(src=CLIENT, dst=SERVER) / IP(src=f"10.0.0.{flow % 250 + 1}", dst="192.168.0.1")
    packet /= protocol(sport=1024 + flow, dport=443)
    return bytes(packet / Raw(bytes(length - len(packet))))


def plain_pool(lengths, protocol=UDP):
    """Ordinary packets of FLOWS flows with good checksums, frame lengths drawn from `lengths`."""
    rng = random.Random(1)
    return make_pool([_frame(rng.choice(lengths), i % FLOWS, protocol) for i in range(POOL_PACKETS)])


def owed_pool(lengths):
    """TCP packets whose checksum is owed."""
    vnet = struct.pack("<BBHHHHH", VIRTIO_NET_HDR_F_NEEDS_CSUM, 0, 0, 0, 34, 16, 0)
    return plain_pool(lengths, TCP)._replace(vnet=np.tile(np.frombuffer(vnet, np.uint8), (POOL_PACKETS, 1)))


def large_pool(size, octets=64_000, count=4):
    """TCP packets of `octets` of payload, to be cut into segments of `size`."""
    vnet = struct.pack("<BBHHHHH", VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, 54, size, 34, 16, 0)
    packet = Ether(src=CLIENT, dst=SERVER) / IP(src="10.0.0.1", dst="192.168.0.1") / TCP(sport=9, dport=443)
    return make_pool([bytes(packet / Raw(bytes(octets)))] * count, vnet)


def stream_pool(size, flows=1):
    """Bursts of TCP segments with `size` octets of payload that follow each other, `flows` interleaved."""
    frames = []
    for i in range(POOL_PACKETS):
        flow, number = i % flows, i // flows
        packet = Ether(src=CLIENT, dst=SERVER) / IP(src="10.0.0.1", dst="192.168.0.1", id=number & 0xFFFF)
        packet /= TCP(sport=1024 + flow, dport=443, flags="A", seq=number * size)
        frames.append(bytes(packet / Raw(bytes(size))))
    return make_pool(frames)


def rule_set(count):
    """Firewall-like rules that all allow: every packet takes the whole pipeline.

    Prefix pairs of the flows' networks, TCP or UDP, a port or a range of ports; a third matches some flow.
    """
    rng = random.Random(count)
    rules = []
    for i in range(count):
        rule = AclRule(priority=count - i, action=ACTION_ALLOW, hit=8 + i, ip_version=4)
        length = rng.choice((16, 20, 24, 24, 28, 32, 32))
        rule.src = 0x0A000000 | rng.getrandbits(24)
        rule.src_mask = (1 << 32) - (1 << (32 - length))
        if rng.random() < 0.5:
            rule.dst, rule.dst_mask = 0xC0A80000 | rng.getrandbits(8), 0xFFFFFFFF
        rule.proto = rng.choice((6, 17))
        first = rng.choice((22, 53, 80, 443, 8080))
        rule.dport = (first, first + rng.choice((0, 0, 0, 100)))
        rules.append(rule)
    return rules
