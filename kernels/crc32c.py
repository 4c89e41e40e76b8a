"""CRC32c (Castagnoli), as SCTP and iSCSI use it.

Spec: RFC 3720 12.1 and B.4 (polynomial, test vectors), RFC 9260 6.8 and appendix A (SCTP).
In:   memory by address.   Out: the CRC as a uint64 below 2**32.
"""

import numpy as np

from kernels.jit import helper
from kernels.memory import address_of, load_u8, load_u64

POLYNOMIAL = 0x82F63B78  # 0x1EDC6F41, bits reversed
SCTP_CHECKSUM_OFFSET = 8  # octets, RFC 9260 3.1
SCTP_CHECKSUM_BYTES = 4


def _slicing_tables():
    """Tables for eight octets a step: row k moves an octet past k zero octets."""
    tables = np.zeros((8, 256), np.uint32)
    for octet in range(256):
        crc = octet
        for _ in range(8):
            crc = (crc >> 1) ^ (POLYNOMIAL if crc & 1 else 0)
        tables[0, octet] = crc
    for k in range(1, 8):
        previous = tables[k - 1]
        tables[k] = (previous >> 8) ^ tables[0][previous & 0xFF]
    return tables


_TABLES = _slicing_tables()
_0 = np.uint64(0)
_1 = np.uint64(1)
_8 = np.uint64(8)
_LOW8 = np.uint64(0xFF)
_LOW32 = np.uint64(0xFFFFFFFF)


@helper
def crc32c_update_software(state, addr, length):
    """CRC register after `length` octets at `addr`, from tables, eight octets a step."""
    crc = np.uint64(state)
    at = np.uint64(addr)
    left = np.uint64(length)
    while left >= _8:
        word = load_u64(at) ^ crc
        crc = np.uint64(
            _TABLES[7, word & _LOW8]
            ^ _TABLES[6, (word >> _8) & _LOW8]
            ^ _TABLES[5, (word >> np.uint64(16)) & _LOW8]
            ^ _TABLES[4, (word >> np.uint64(24)) & _LOW8]
            ^ _TABLES[3, (word >> np.uint64(32)) & _LOW8]
            ^ _TABLES[2, (word >> np.uint64(40)) & _LOW8]
            ^ _TABLES[1, (word >> np.uint64(48)) & _LOW8]
            ^ _TABLES[0, word >> np.uint64(56)]
        )
        at += _8
        left -= _8
    while left > _0:
        crc = (crc >> _8) ^ np.uint64(_TABLES[0, (crc ^ np.uint64(load_u8(at))) & _LOW8])
        at += _1
        left -= _1
    return crc


crc32c_update = crc32c_update_software


@helper
def crc32c(addr, length):
    """CRC32c of `length` octets at `addr`."""
    return crc32c_update(_LOW32, addr, length) ^ _LOW32


@helper
def sctp_checksum(headers, meta, i, start, end):
    """CRC32c of the SCTP packet `i` from row offset `start` to `end`, with its checksum field as zero.

    The caller has checked that the field lies in the row and that `end` is not beyond the payload.
    Written into the field least significant octet first (RFC 9260 appendix A).
    """
    record = meta[i]
    first = np.uint64(start)
    last = np.uint64(end)
    header_end = np.uint64(record["header_end"])
    row_addr = address_of(headers[i])
    row_last = min(last, header_end)
    field = first + np.uint64(SCTP_CHECKSUM_OFFSET)
    crc = crc32c_update(_LOW32, row_addr + first, np.uint64(SCTP_CHECKSUM_OFFSET))
    # four zero octets in place of the field
    for _ in range(SCTP_CHECKSUM_BYTES):
        crc = (crc >> _8) ^ np.uint64(_TABLES[0, crc & _LOW8])
    field += np.uint64(SCTP_CHECKSUM_BYTES)
    crc = crc32c_update(crc, row_addr + field, row_last - field)
    if last > header_end:
        crc = crc32c_update(crc, np.uint64(record["payload_addr"]), last - header_end)
    return crc ^ _LOW32
