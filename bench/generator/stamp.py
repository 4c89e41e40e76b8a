"""The stamp of a packet: written when it is sent, found and checked when it is received.

Spec: RFC 768, RFC 9293 3.1 (checksums); RFC 1071 2 (any byte order); RFC 3720 12.1 (CRC32c).
In:   frames by address.   Not: sequence numbers (receive.py); IPv6 extension headers, fragments, tunnels.
"""

import numpy as np

from bench.generator.layout import FRAME_AT, MAGIC, STAMP_BYTES, STAMP_DTYPE
from dpu_runtime.kernels.checksum.crc32c import crc32c_update, crc_u16, crc_u32, crc_u64
from dpu_runtime.kernels.checksum.payload import (
    ETHERNET_BYTES,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV4_BYTES_MIN,
    IPV6_BYTES,
    TAG_BYTES,
    TAGS_MAX,
    TCP_BYTES_MIN,
    UDP_BYTES,
)
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.octets.memory import (
    address_of,
    copy_short,
    load_u8,
    load_u16,
    load_u32,
    load_u64,
    store_u16,
    store_u32,
    store_u64,
)

# as a little-endian load sees them
_VLAN, _SERVICE_VLAN = 0x0081, 0xA888  # IEEE 802.1Q 9.4: 0x8100, 0x88A8
_IPV4, _IPV6 = 0x0008, 0xDD86  # 0x0800, 0x86DD
_FRAGMENT = 0xFF3F  # more fragments, or an offset: RFC 791 3.1, octets 6 and 7
_TYPE_AT = ETHERNET_BYTES - 2

_0 = np.uint64(0)
_8 = np.uint64(8)
_16 = np.uint64(16)
_32 = np.uint64(32)
_LOW16 = np.uint64(0xFFFF)
_LOW32 = np.uint64(0xFFFF_FFFF)
_SEQUENCE = np.uint64(STAMP_DTYPE.fields["sequence"][1])
_TICKS = np.uint64(STAMP_DTYPE.fields["ticks"][1])
_MAGIC = np.uint64(STAMP_DTYPE.fields["magic"][1])
_STAMP = np.uint64(STAMP_BYTES)


@helper
def _stamp_hash(crc, sequence, ticks, mark):
    """Hash of a stamp: `crc` is the register behind the rest of the payload; `mark` is magic and stream."""
    return crc_u16(crc_u32(crc_u64(crc, sequence), ticks), mark) ^ _LOW32


@helper
def write_stamp(frame, template, sequence, ticks, stream):
    """Stamp the packet of `template` whose front lies at address `frame`, and finish its checksum.

    sequence  uint64    ticks  uint64 below 2**32    stream  uint64 below 256
    """
    mark = np.uint64(MAGIC) | stream << _8
    hashed = _stamp_hash(np.uint64(template["crc"]), sequence, ticks, mark)
    at = frame + np.uint64(template["stamp_at"])
    store_u32(at, hashed)
    store_u64(at + _SEQUENCE, sequence)
    store_u32(at + _TICKS, ticks)
    store_u16(at + _MAGIC, mark)
    # 2**16 is 1 modulo 2**16 - 1, so wider words add up to the same sum
    total = np.uint64(template["sum"]) + hashed + (sequence & _LOW32) + (sequence >> _32) + ticks + mark
    total = (total & _LOW32) + (total >> _32)
    total = (total & _LOW16) + (total >> _16)
    total = (total & _LOW16) + (total >> _16)
    total = (total & _LOW16) + (total >> _16)
    checksum = total ^ _LOW16
    store_u16(frame + np.uint64(template["checksum_at"]), checksum if checksum != _0 else _LOW16)


@helper
def put_front(rows, index, template, target):
    """Copy the front of template `index`, what lies in its row, to address `target`."""
    row = address_of(rows) + np.uint64(index) * np.uint64(rows.shape[1])
    copy_short(target, row + np.uint64(FRAME_AT), np.uint64(template["header_end"]) - np.uint64(FRAME_AT))


@helper
def find_layer4(frame, size):
    """Where UDP or TCP is in the frame of `size` octets at address `frame`.

    Returns (offset of IP, of UDP or TCP, of what is behind its header), octets from the frame's start; zeros
    when there is no such thing in it.
    """
    at = ETHERNET_BYTES
    length = np.int64(size)
    if length < ETHERNET_BYTES + TAGS_MAX * TAG_BYTES + IPV4_BYTES_MIN:
        return 0, 0, 0
    kind = np.int64(load_u16(frame + np.uint64(_TYPE_AT)))
    for _ in range(TAGS_MAX):
        if kind in (_VLAN, _SERVICE_VLAN):
            kind = np.int64(load_u16(frame + np.uint64(at + TAG_BYTES - 2)))
            at += TAG_BYTES
    ip = at
    if kind == _IPV4:
        protocol = np.int64(load_u8(frame + np.uint64(ip + 9)))
        at += (np.int64(load_u8(frame + np.uint64(ip))) & 15) * 4
        if at < ip + IPV4_BYTES_MIN or np.int64(load_u16(frame + np.uint64(ip + 6))) & _FRAGMENT:
            return 0, 0, 0
    elif kind == _IPV6 and length >= ip + IPV6_BYTES:
        protocol = np.int64(load_u8(frame + np.uint64(ip + 6)))
        at += IPV6_BYTES
    else:
        return 0, 0, 0
    if protocol == IPPROTO_UDP and length >= at + UDP_BYTES:
        return ip, at, at + UDP_BYTES
    if protocol == IPPROTO_TCP and length >= at + TCP_BYTES_MIN:
        header = (np.int64(load_u8(frame + np.uint64(at + 12))) >> 4) * 4
        if header >= TCP_BYTES_MIN and length >= at + header:
            return ip, at, at + header
    return 0, 0, 0


@helper
def read_stamp(frame, in_row, payload, payload_len):
    """Read the stamp of a received packet.

    frame    address of its first octets, of which `in_row` lie there
    payload  address of the others, `payload_len` of them

    Returns (magic and stream, 0 without a stamp; sequence, ticks, whether the hash is right).
    """
    _, _, behind = find_layer4(frame, in_row)
    at = np.uint64(behind)
    if at == _0 or at + _STAMP > in_row:
        return _0, _0, _0, False
    at += frame
    mark = np.uint64(load_u16(at + _MAGIC))
    sequence = load_u64(at + _SEQUENCE)
    ticks = np.uint64(load_u32(at + _TICKS))
    crc = crc32c_update(_LOW32, at + _STAMP, frame + in_row - at - _STAMP)
    crc = crc32c_update(crc, payload, payload_len)
    whole = _stamp_hash(crc, sequence, ticks, mark) == np.uint64(load_u32(at))
    return mark, sequence, ticks, whole
