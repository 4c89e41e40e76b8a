"""Big-endian words in a header row (network order, RFC 1700).

In:   a 1-D uint8 row and an octet offset that the caller has checked.
The octet-wise forms below compile to one load and one byte swap.
"""

import numpy as np

from dpu_runtime.kernels.compile.jit import helper

_1 = np.uint64(1)
_2 = np.uint64(2)
_3 = np.uint64(3)
_4 = np.uint64(4)


@helper
def be16(row, offset):
    """Big-endian 16-bit word at `offset`, uint32."""
    o = np.uint64(offset)
    return (np.uint32(row[o]) << np.uint32(8)) | np.uint32(row[o + _1])


@helper
def be32(row, offset):
    """Big-endian 32-bit word at `offset`, uint32."""
    o = np.uint64(offset)
    return (
        (np.uint32(row[o]) << np.uint32(24))
        | (np.uint32(row[o + _1]) << np.uint32(16))
        | (np.uint32(row[o + _2]) << np.uint32(8))
        | np.uint32(row[o + _3])
    )


@helper
def be48(row, offset):
    """Big-endian 48-bit word at `offset`, uint64: a MAC address."""
    o = np.uint64(offset)
    return (np.uint64(be16(row, o)) << np.uint64(32)) | np.uint64(be32(row, o + _2))


@helper
def be64(row, offset):
    """Big-endian 64-bit word at `offset`, uint64."""
    o = np.uint64(offset)
    return (np.uint64(be32(row, o)) << np.uint64(32)) | np.uint64(be32(row, o + _4))


@helper
def put_be16(row, offset, value):
    """Write the low 16 bits of `value` at `offset`."""
    o = np.uint64(offset)
    v = np.uint32(value)
    row[o] = np.uint8((v >> np.uint32(8)) & np.uint32(0xFF))
    row[o + _1] = np.uint8(v & np.uint32(0xFF))


@helper
def put_be32(row, offset, value):
    """Write the low 32 bits of `value` at `offset`."""
    o = np.uint64(offset)
    v = np.uint32(value)
    put_be16(row, o, v >> np.uint32(16))
    put_be16(row, o + _2, v & np.uint32(0xFFFF))
