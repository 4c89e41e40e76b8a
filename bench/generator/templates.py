"""Templates out of frames: where the stamp goes, and what is summed up before it is known.

Spec: RFC 791 3.1, RFC 8200 8.1 (checksums), RFC 1071.   In: frames.   Out: rows, TEMPLATE_DTYPE.
"""

import numpy as np

from bench.generator.layout import FRAME_AT, ROW_FRAME_BYTES, STAMP_BYTES
from bench.generator.stamp import find_layer4
from dpu_runtime.kernels.checksum.crc32c import crc32c_update
from dpu_runtime.kernels.checksum.internet import ones_sum
from dpu_runtime.kernels.checksum.payload import IPPROTO_TCP, IPPROTO_UDP, UDP_BYTES
from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.octets.memory import address_of, copy_memory, load_u8, store_u8, store_u16

UDP_CHECKSUM_AT, TCP_CHECKSUM_AT, IPV4_CHECKSUM_AT = 6, 16, 10  # octets

_0 = np.uint64(0)
_1 = np.uint64(1)
_8 = np.uint64(8)
_16 = np.uint64(16)
_LOW8 = np.uint64(0xFF)
_LOW16 = np.uint64(0xFFFF)
_LOW32 = np.uint64(0xFFFF_FFFF)


@kernel
def layer4_of(frame):
    """`find_layer4` of a frame, uint8[n]."""
    return find_layer4(address_of(frame), np.uint64(len(frame)))


@helper
def _swapped(word):
    return (word & _LOW8) << _8 | word >> _8


@helper
def _sum(address, size):
    """Ones-complement sum of 16-bit words as they lie, little-endian."""
    return _swapped(np.uint64(ones_sum(address, size)) & _LOW16)


@kernel
def finish(frames, rows, templates):
    """Make the templates of frames that have UDP or TCP, and room for the stamp behind it.

    frames     uint8[n, octets]           in/out, stamp and checksum become zero; must outlive the templates
    rows       uint8[n, ROW_BYTES]        out
    templates  TEMPLATE_DTYPE[n]          out
    """
    size = np.uint64(frames.shape[1])
    in_row = min(size, np.uint64(ROW_FRAME_BYTES))
    for i in range(np.uint64(len(frames))):
        frame = address_of(frames) + np.uint64(i) * size
        ip_at, l4_at, behind = find_layer4(frame, size)
        ip, l4, stamp = frame + np.uint64(ip_at), frame + np.uint64(l4_at), frame + np.uint64(behind)
        is_udp = behind == l4_at + UDP_BYTES
        checksum = l4 + np.uint64(UDP_CHECKSUM_AT if is_udp else TCP_CHECKSUM_AT)
        store_u16(checksum, _0)
        for k in range(np.uint64(STAMP_BYTES)):
            store_u8(stamp + np.uint64(k), _0)
        l4_size = frame + size - l4
        protocol = np.uint64(IPPROTO_UDP if is_udp else IPPROTO_TCP)
        addresses, address_octets = ip + _8, np.uint64(32)
        if np.uint64(load_u8(ip)) >> np.uint64(4) == np.uint64(4):
            addresses, address_octets = ip + np.uint64(12), _8
            header_checksum = ip + np.uint64(IPV4_CHECKSUM_AT)
            store_u16(header_checksum, _0)
            store_u16(header_checksum, _sum(ip, l4 - ip) ^ _LOW16)
        t = templates[i]
        t["sum"] = (
            _sum(addresses, address_octets) + _swapped(protocol) + _swapped(l4_size) + _sum(l4, l4_size)
        )
        behind_stamp = stamp + np.uint64(STAMP_BYTES)
        t["crc"] = crc32c_update(_LOW32, behind_stamp, frame + size - behind_stamp)
        t["payload_addr"] = frame + in_row
        t["payload_len"] = size - in_row
        t["frame_len"] = size
        t["header_end"] = np.uint64(FRAME_AT) + in_row
        t["stamp_at"] = stamp - frame
        t["checksum_at"] = checksum - frame
        row = address_of(rows) + np.uint64(i) * np.uint64(rows.shape[1]) + np.uint64(FRAME_AT)
        copy_memory(row, frame, in_row)
