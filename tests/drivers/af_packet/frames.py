"""Frames that no host answers, by size."""

import random
import struct

MACS = bytes.fromhex("02bb00000001 02aa00000001")


def frame(size, seed=0):
    """A broadcast of `size` octets."""
    body = random.Random(size * 1000 + seed).randbytes(max(0, size - 14))
    return bytes.fromhex("ffffffffffff 02aa00000001 88b5") + body


def tagged(plain, tci, tpid=0x8100):
    """The frame with a tag."""
    return plain[:12] + struct.pack(">HH", tpid, tci) + plain[12:]


def gso_frame(size, tag=None, port=1000, kind=1, segment=1448):
    """A TCP/IPv4 packet of `size` octets to be segmented, its checksum owed: (virtio-net header, frame)."""
    udp = kind == 5
    total = size - 14
    ip = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, total & 0xFFFF, 1, 0, 64, 17 if udp else 6, 0, b"\n\1\0\1", b"\n\1\0\2"
    )
    words = sum(struct.unpack(">10H", ip))
    checksum = ~(words % 0xFFFF) & 0xFFFF
    ip = ip[:10] + struct.pack(">H", checksum) + ip[12:]
    if udp:
        l4 = struct.pack(">HHHH", port, 5000, total - 20, 0)
    else:
        l4 = struct.pack(">HHIIBBHHH", port, 5000, 1, 1, 0x50, 0x10, 1000, 0, 0)
    plain = MACS + b"\x08\x00" + ip + l4
    plain += random.Random(size).randbytes(size - len(plain))
    l2_bytes = 14 if tag is None else 18
    offset = 6 if udp else 16
    start = l2_bytes + 20
    header = struct.pack("<BBHHHH", 1, kind, start + len(l4), segment, start, offset)
    return header, plain if tag is None else tagged(plain, tag)
