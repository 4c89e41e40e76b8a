"""Large packets and the ordinary ones that Linux cuts them into, made with scapy; for GSO and GRO tests."""

import random

from scapy.layers.inet import IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

from dpu_runtime.kernels.layout import (
    VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6,
    VIRTIO_NET_HDR_GSO_UDP_L4,
)
from tests.kernels.batches import Batch
from tests.kernels.fields import fill_fields, owe_checksum
from tests.kernels.pieces import payload_of

MACS = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
V4 = {"src": "10.1.2.3", "dst": "192.168.7.9"}
V6 = {"src": "2001:db8::1", "dst": "2001:db8:1:2::99"}
STAMPS = [("NOP", None), ("NOP", None), ("Timestamp", (123456, 654321))]
FULL_OPTIONS = [("Timestamp", (1, 2)), ("SAck", (1, 2, 3, 4, 5, 6)), ("NOP", None), ("NOP", None)]

TCP_OPTIONS = {"none": [], "stamps": STAMPS, "full": FULL_OPTIONS}
TAGS = {
    "untagged": lambda: Ether(**MACS),
    "vlan": lambda: Ether(**MACS) / Dot1Q(vlan=7, prio=3),
    "qinq": lambda: Ether(**MACS) / Dot1AD(vlan=9) / Dot1Q(vlan=7),
}
LAYER3 = {
    "v4": lambda: IP(id=0xFFFE, flags="DF", tos=2, ttl=61, **V4),
    "v4-options": lambda: IP(id=77, ttl=3, options=[IPOption_NOP()] * 40, **V4),
    "v6": lambda: IPv6(fl=0x12345, tc=0xB8, hlim=9, **V6),
    "v6-extensions": lambda: IPv6(**V6) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(),
    "v6-routing": lambda: IPv6(**V6) / IPv6ExtHdrRouting(type=0, segleft=1, addresses=["2001:db8::77"]),
}


def tcp(options=(), flags="A", seq=0xFFFFFA00):
    return TCP(sport=40001, dport=40002, seq=seq, ack=77, window=502, flags=flags, options=list(options))


def udp():
    return UDP(sport=40003, dport=40004)


def octets(size, seed=1):
    return random.Random(seed).randbytes(size)


def cut(headers, data, size):
    """The oracle: the segments of `headers` (scapy, no payload) with `data`, as Linux cuts them."""
    segments = []
    chunks = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
    for number, chunk in enumerate(chunks):
        segment = headers.copy()
        if IP in segment:
            segment[IP].id = (segment[IP].id + number) & 0xFFFF
        if TCP in segment:
            segment[TCP].seq = (segment[TCP].seq + number * size) & 0xFFFFFFFF
            flags = str(segment[TCP].flags)
            if number > 0:
                flags = flags.replace("C", "")
            if number < len(chunks) - 1:
                flags = flags.replace("F", "").replace("P", "")
            segment[TCP].flags = flags
        segments.append(bytes(segment / Raw(chunk) if chunk else segment))
    return segments


def gso_batch(headers, data, size, owed=True, ecn=False, padding=0):
    """A Batch with one GSO packet, as a driver and the parser would leave it."""
    packet = headers / Raw(data) if data else headers
    packet = Ether(bytes(packet))
    batch = Batch([bytes(packet) + bytes([0x5A]) * padding])
    fill_fields(batch, 0, packet)
    if owed:
        owe_checksum(batch, 0, packet)
    m = batch.meta[0]
    m["gso_size"] = size
    m["gso_hdr_len"] = m["l5_offset"] - m["l2_offset"]
    m["gso_type"] = VIRTIO_NET_HDR_GSO_UDP_L4
    if TCP in packet:
        m["gso_type"] = VIRTIO_NET_HDR_GSO_TCPV4 if IP in packet else VIRTIO_NET_HDR_GSO_TCPV6
    if ecn:
        m["gso_type"] |= VIRTIO_NET_HDR_GSO_ECN
    return batch


def frame_of(row, m):
    return row[int(m["l2_offset"]) : int(m["header_end"])].tobytes() + payload_of(m)
