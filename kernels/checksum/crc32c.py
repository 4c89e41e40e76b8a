"""CRC32c (Castagnoli), as SCTP and iSCSI use it.

Spec: RFC 3720 12.1 and B.4 (polynomial, test vectors), RFC 9260 6.8 and appendix A (SCTP);
      Intel, "Fast CRC Computation for iSCSI Polynomial Using CRC32 Instruction" (three streams).
In:   memory by address.   Out: the CRC as a uint64 below 2**32.

Three implementations with one result: the processor's CRC32 instruction where it has it, with PCLMULQDQ
to join streams; before it, where there is VPCLMULQDQ, folding for what is long (crc32c_fold.py); tables
elsewhere. The choice is made once, when this file is imported.
"""

import numpy as np

from dpu_runtime.kernels.checksum.crc32c_fold import BLOCK_BYTES, crc32c_blocks, times_x
from dpu_runtime.kernels.checksum.payload import PIECE_BYTES, piece, piece_at
from dpu_runtime.kernels.compile.jit import PYTHON_MODE, has_instructions, helper, primitive
from dpu_runtime.kernels.octets.memory import address_of, load_u8, load_u16, load_u32, load_u64

if not PYTHON_MODE:
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils

SCTP_CHECKSUM_OFFSET = 8  # octets, RFC 9260 3.1
SCTP_CHECKSUM_BYTES = 4
STREAM_WORDS_MIN = 4  # below this, joining streams costs more than it saves
STREAM_WORDS_MAX = 32  # 64-bit words of each of the three streams; more of them outrun the prefetcher
FOLD_BLOCKS_MIN = 4  # blocks of crc32c_fold; below, the streams are as fast


def _octet_tables():
    """uint32[8, 256]: row k takes an octet past k more octets of zero."""
    tables = np.zeros((8, 256), np.uint32)
    for octet in range(256):
        crc = octet
        for _ in range(8):
            crc = times_x(crc)
        tables[0, octet] = crc
    for k in range(1, 8):
        tables[k] = (tables[k - 1] >> 8) ^ tables[0][tables[k - 1] & 0xFF]
    return tables


def _shift_table():
    """uint64[n]: element k is x**(64 k - 33), which moves a CRC past k words of zero.

    The 33: the carry-less product of two reversed 32-bit values comes out one bit short (x**1), and
    the CRC32 instruction that reduces it multiplies by x**32.
    """
    table = np.zeros(2 * STREAM_WORDS_MAX + 1, np.uint64)
    crc = 1 << 31  # x**0
    for exponent in range(64 * len(table) - 33):
        if (exponent + 33) % 64 == 0:
            table[(exponent + 33) // 64] = crc
        crc = times_x(crc)
    return table


HAS_CRC_INSTRUCTIONS = has_instructions("sse4.2", "crc32", "pclmul")
HAS_FOLD_INSTRUCTIONS = HAS_CRC_INSTRUCTIONS and has_instructions("avx512f", "vpclmulqdq")
_TABLES = _octet_tables()
_SHIFTS = _shift_table()
_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_3 = np.uint64(3)
_4 = np.uint64(4)
_7 = np.uint64(7)
_8 = np.uint64(8)
_24 = np.uint64(24)
_LOW8 = np.uint64(0xFF)
_LOW32 = np.uint64(0xFFFFFFFF)
_BLOCK_BYTES = np.uint64(BLOCK_BYTES)


def _crc_step(bits):
    def python(crc, value):
        state, word = int(crc), int(value)
        for k in range(0, bits, 8):
            state = (state >> 8) ^ int(_TABLES[0, (state ^ (word >> k)) & 0xFF])
        return np.uint64(state)

    @primitive(python)
    def step(typingctx, crc, value):
        def codegen(context, builder, signature, args):
            state_type = ir.IntType(64 if bits == 64 else 32)
            value_type = ir.IntType(bits)
            function_type = ir.FunctionType(state_type, [state_type, value_type])
            name = f"llvm.x86.sse42.crc32.{state_type.width}.{bits}"
            function = cgutils.get_or_insert_function(builder.module, function_type, name)
            if bits == 64:
                return builder.call(function, args)
            narrow = [builder.trunc(args[0], state_type), builder.trunc(args[1], value_type)]
            return builder.zext(builder.call(function, narrow), ir.IntType(64))

        return types.uint64(types.uint64, types.uint64), codegen

    return step


# (crc, value) -> crc after the 1, 2, 4 or 8 octets of value, the lowest first; the CRC32 instruction
crc_u8 = _crc_step(8)
crc_u16 = _crc_step(16)
crc_u32 = _crc_step(32)
crc_u64 = _crc_step(64)


def _py_carryless_multiply(a, b):
    product, left, right = 0, int(a), int(b)
    while right:
        if right & 1:
            product ^= left
        left <<= 1
        right >>= 1
    return np.uint64(product)


@primitive(_py_carryless_multiply)
def carryless_multiply(typingctx, a, b):
    """Product of two 32-bit polynomials over GF(2), uint64; PCLMULQDQ."""

    def codegen(context, builder, signature, args):
        i64 = ir.IntType(64)
        vector = ir.VectorType(i64, 2)
        function_type = ir.FunctionType(vector, [vector, vector, ir.IntType(8)])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.x86.pclmulqdq")
        zero = ir.Constant(ir.IntType(32), 0)
        lanes = [builder.insert_element(ir.Constant(vector, [0, 0]), a, zero) for a in args]
        product = builder.call(function, [*lanes, ir.Constant(ir.IntType(8), 0)])
        return builder.extract_element(product, zero)

    return types.uint64(types.uint64, types.uint64), codegen


@helper
def crc32c_update_instructions(state, addr, length):
    """CRC register after `length` octets at `addr`, by the CRC32 instruction.

    It takes three cycles but starts every cycle, so three thirds run side by side. Their CRCs are
    joined by moving the first two past the octets that follow.
    """
    crc = np.uint64(state)
    at = np.uint64(addr)
    left = np.uint64(length)
    while left >= np.uint64(STREAM_WORDS_MIN * 24):
        words = min(left // _24, np.uint64(STREAM_WORDS_MAX))
        size = words << _3
        second = _0
        third = _0
        for _ in range(words):
            crc = crc_u64(crc, load_u64(at))
            second = crc_u64(second, load_u64(at + size))
            third = crc_u64(third, load_u64(at + size + size))
            at += _8
        shifted = carryless_multiply(crc, _SHIFTS[words << _1])
        shifted ^= carryless_multiply(second, _SHIFTS[words])
        crc = crc_u64(_0, shifted) ^ third
        at += size + size
        left -= words * _24
    for _ in range(left >> _3):
        crc = crc_u64(crc, load_u64(at))
        at += _8
    if left & _4:
        crc = crc_u32(crc, np.uint64(load_u32(at)))
        at += _4
    if left & _2:
        crc = crc_u16(crc, np.uint64(load_u16(at)))
        at += _2
    if left & _1:
        crc = crc_u8(crc, np.uint64(load_u8(at)))
    return crc


@helper
def crc32c_update_tables(state, addr, length):
    """CRC register after `length` octets at `addr`, from tables, eight octets a step."""
    crc = np.uint64(state)
    at = np.uint64(addr)
    size = np.uint64(length)
    for _ in range(size >> _3):
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
    for _ in range(size & _7):
        crc = (crc >> _8) ^ np.uint64(_TABLES[0, (crc ^ np.uint64(load_u8(at))) & _LOW8])
        at += _1
    return crc


@helper
def crc32c_update_folding(state, addr, length):
    """CRC register after `length` octets at `addr`: whole blocks folded, if there are enough of them."""
    crc = np.uint64(state)
    at = np.uint64(addr)
    left = np.uint64(length)
    blocks = left // _BLOCK_BYTES
    if blocks >= np.uint64(FOLD_BLOCKS_MIN):
        crc = crc32c_blocks(crc, at, blocks)
        at += blocks * _BLOCK_BYTES
        left -= blocks * _BLOCK_BYTES
    return crc32c_update_instructions(crc, at, left)


# (state, addr, length) -> state; a CRC starts from all ones and ends complemented
crc32c_update = crc32c_update_instructions if HAS_CRC_INSTRUCTIONS else crc32c_update_tables
if HAS_FOLD_INSTRUCTIONS:
    crc32c_update = crc32c_update_folding


@helper
def crc32c(addr, length):
    """CRC32c of `length` octets at `addr`."""
    return crc32c_update(_LOW32, addr, length) ^ _LOW32


@helper
def skip_zero_word(crc):
    """CRC register after four octets of zero."""
    c = np.uint64(crc)
    return np.uint64(
        _TABLES[3, c & _LOW8]
        ^ _TABLES[2, (c >> _8) & _LOW8]
        ^ _TABLES[1, (c >> np.uint64(16)) & _LOW8]
        ^ _TABLES[0, (c >> np.uint64(24)) & _LOW8]
    )


@helper
def _update_payload(state, record, length):
    """CRC register after the first `length` octets of a record's payload."""
    crc = np.uint64(state)
    left = np.uint64(length)
    if record["payload_iov"] == _0:
        return crc32c_update(crc, np.uint64(record["payload_addr"]), left)
    entry, skip = piece_at(record, _0)
    while left > _0:
        addr, here = piece(entry, skip, left)
        crc = crc32c_update(crc, addr, here)
        left -= here
        entry, skip = entry + PIECE_BYTES, _0
    return crc


@helper
def sctp_checksum(headers, meta, i, start, end):
    """CRC32c of the SCTP packet `i` from row offset `start` to `end`, with its checksum field as zero.

    The caller has checked that the field lies in the row and that `end` is not beyond the payload.
    It goes into the field least significant octet first (RFC 9260 appendix A).
    """
    record = meta[i]
    first = np.uint64(start)
    last = np.uint64(end)
    header_end = np.uint64(record["header_end"])
    row_addr = address_of(headers[i])
    behind = first + np.uint64(SCTP_CHECKSUM_OFFSET + SCTP_CHECKSUM_BYTES)
    crc = crc32c_update(_LOW32, row_addr + first, np.uint64(SCTP_CHECKSUM_OFFSET))
    crc = skip_zero_word(crc)
    crc = crc32c_update(crc, row_addr + behind, min(last, header_end) - behind)
    if last > header_end:
        crc = _update_payload(crc, record, last - header_end)
    return crc ^ _LOW32
