"""Parsed fields of test packets, taken from scapy: kernel tests that do not depend on our parser."""

import struct

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, IPv6ExtHdrRouting
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether

from dpu_runtime.kernels.layout import (
    HEADROOM_BYTES,
    PARSED_FRAGMENT,
    PARSED_IP_OPTIONS,
    PARSED_IPV4,
    PARSED_IPV6,
    PARSED_PORTS,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
)
from tests.kernels.batches import Batch

_MAPPED = 0xFFFF << 32  # ::ffff:0:0/96


def layer_offsets(packet):
    """Offset of every layer of `packet` in its frame, by class."""
    offsets, total = {}, len(bytes(packet))
    layer = packet
    while layer:
        offsets.setdefault(type(layer), total - len(bytes(layer)))
        layer = layer.payload
    return offsets


def ones_sum(data):
    """Ones-complement sum of big-endian 16-bit words, octet by octet."""
    total = sum(octet << (8 if at % 2 == 0 else 0) for at, octet in enumerate(data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo_header(packet, l4_len):
    """Octets of the pseudo header of TCP or UDP in `packet`."""
    proto = 6 if TCP in packet else 17
    if IP in packet:
        head = bytes(packet[IP])
        return head[12:20] + struct.pack("!HH", proto, l4_len)
    head = bytes(packet[IPv6])
    target = head[24:40]
    if IPv6ExtHdrRouting in packet and packet[IPv6ExtHdrRouting].segleft:
        final = IPv6(dst=packet[IPv6ExtHdrRouting].addresses[-1])
        target = bytes(final)[24:40]
    return head[8:24] + target + struct.pack("!II", l4_len, proto)


def fill_fields(batch, i, packet):
    """Write the parser's fields of packet `i` of `batch`, which is `packet` (scapy, lengths set)."""
    m = batch.meta[i]
    at = layer_offsets(packet)
    l3 = IP if IP in packet else IPv6
    l4 = TCP if TCP in packet else UDP
    m["l3_offset"] = HEADROOM_BYTES + at[l3]
    m["l4_offset"] = HEADROOM_BYTES + at[l4]
    frame = bytes(packet)
    l4_bytes = (frame[at[l4] + 12] >> 4) * 4 if l4 is TCP else 8
    m["l5_offset"] = m["l4_offset"] + l4_bytes
    m["ip_proto"] = 6 if l4 is TCP else 17
    m["src_port"], m["dst_port"] = struct.unpack_from("!HH", frame, at[l4])
    m["tcp_flags"] = frame[at[l4] + 13] if l4 is TCP else 0
    m["tags"] = sum(tag in at for tag in (Dot1Q, Dot1AD))
    parsed = PARSED_PORTS
    if l3 is IP:
        m["l3_len"] = struct.unpack_from("!H", frame, at[l3] + 2)[0]
        src, dst = struct.unpack_from("!II", frame, at[l3] + 12)
        m["src_lo"], m["dst_lo"] = src | _MAPPED, dst | _MAPPED
        parsed |= PARSED_IPV4
        if at[l4] - at[l3] > 20:
            parsed |= PARSED_IP_OPTIONS
        if struct.unpack_from("!H", frame, at[l3] + 6)[0] & 0x3FFF:
            parsed |= PARSED_FRAGMENT
    else:
        m["l3_len"] = 40 + struct.unpack_from("!H", frame, at[l3] + 4)[0]
        m["src_hi"], m["src_lo"], m["dst_hi"], m["dst_lo"] = struct.unpack_from("!4Q", frame, at[l3] + 8)
        parsed |= PARSED_IPV6
        if at[l4] - at[l3] > 40:
            parsed |= PARSED_IP_OPTIONS
        if IPv6ExtHdrFragment in packet:
            parsed |= PARSED_FRAGMENT
    m["parsed"] = parsed


def owe_checksum(batch, i, packet):
    """Put the pseudo header's sum into the checksum field of packet `i` and mark it as owed."""
    m = batch.meta[i]
    m["csum_start"] = m["l4_offset"]
    m["csum_offset"] = 16 if TCP in packet else 6
    m["offload"] = VIRTIO_NET_HDR_F_NEEDS_CSUM
    l4_len = int(m["l3_len"]) - int(m["l4_offset"] - m["l3_offset"])
    seed = ones_sum(pseudo_header(packet, l4_len))
    field = int(m["csum_start"]) + int(m["csum_offset"])
    batch.headers[i, field : field + 2] = seed >> 8, seed & 0xFF


def parsed_batch(packets, in_port=0):
    """A Batch of scapy packets or frames (TCP or UDP over IP) with the parser's fields filled."""
    frames = [bytes(p) for p in packets]
    batch = Batch(frames, in_port)
    for i, frame in enumerate(frames):
        fill_fields(batch, i, Ether(frame))
    return batch
