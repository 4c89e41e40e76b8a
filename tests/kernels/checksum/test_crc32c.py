"""CRC32c against published vectors and scapy's SCTP."""

import random
from itertools import pairwise

import numpy as np
import pytest
from scapy.layers.sctp import crc32c as scapy_crc32c

from dpu_runtime.kernels.checksum import crc32c
from dpu_runtime.kernels.compile.jit import PYTHON_MODE

# RFC 3720 B.4, and the check value of the catalogue of CRCs
VECTORS = [
    (b"", 0x00000000),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (bytes.fromhex("01c00000 00000000 00000000 00000000 14000000 00000400"
                   "00000014 00000018 28000000 00000000 02000000 00000000"), 0xD9963A56),
    (b"123456789", 0xE3069283),
]  # fmt: skip
ALL_ONES = np.uint64(0xFFFFFFFF)
LENGTHS = [*range(301), 760, 767, 768, 769, 880, 1480, 1536, 1537, 9000]
if PYTHON_MODE:
    LENGTHS = [*range(33), *range(90, 105), 191, 192, 193, 300, 767, 768, 769, 880]

UPDATES = {"tables": crc32c.crc32c_update_tables, "instructions": crc32c.crc32c_update_instructions}
if PYTHON_MODE or crc32c.HAS_FOLD_INSTRUCTIONS:
    UPDATES["folding"] = crc32c.crc32c_update_folding
updates = pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
needs = pytest.mark.skipif(
    not (PYTHON_MODE or crc32c.HAS_CRC_INSTRUCTIONS), reason="no CRC32 instruction here"
)


def oracle(data):
    """One bit at a time."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc ^= octet
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def of(data, update, shift=0, cuts=()):
    """CRC of `data`, laid `shift` octets past a word and fed in the pieces between `cuts`."""
    room = np.full(len(data) + 24, 0xA5, np.uint8)
    at = -room.ctypes.data % 8 + shift
    room[at : at + len(data)] = np.frombuffer(data, np.uint8)
    state = ALL_ONES
    edges = [0, *cuts, len(data)]
    for first, last in pairwise(edges):
        state = update(state, np.uint64(room.ctypes.data + at + first), np.uint64(last - first))
    return int(state) ^ 0xFFFFFFFF


def test_the_oracle_is_right():
    for data, expected in VECTORS:
        assert oracle(data) == expected


@pytest.mark.parametrize("data, expected", VECTORS)
def test_published_vectors(data, expected):
    room = np.frombuffer(data + b"\xa5", np.uint8)
    assert int(crc32c.crc32c(np.uint64(room.ctypes.data), np.uint64(len(data)))) == expected


@needs
@updates
def test_every_length_and_alignment(update):
    data = random.Random(1).randbytes(max(LENGTHS))
    for length in LENGTHS:
        expected = oracle(data[:length])
        for shift in range(8) if length <= 300 and not PYTHON_MODE else (length % 8,):
            assert of(data[:length], update, shift) == expected, (length, shift)


@needs
@updates
def test_pieces_give_the_same_as_the_whole(update):
    rng = random.Random(2)
    for _ in range(5 if PYTHON_MODE else 300):
        data = rng.randbytes(rng.randrange(500))
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(3))
        assert of(data, update, rng.randrange(8), cuts) == oracle(data)


def test_skipping_a_zero_word_is_feeding_four_zero_octets():
    rng = random.Random(3)
    zeros = np.zeros(4, np.uint8)
    for _ in range(50):
        state = np.uint64(rng.getrandbits(32))
        expected = crc32c.crc32c_update(state, np.uint64(zeros.ctypes.data), np.uint64(4))
        assert crc32c.skip_zero_word(state) == expected


def test_scapy_agrees():
    data = random.Random(4).randbytes(97)
    # scapy gives the field as it is read in network order
    assert int.from_bytes(oracle(data).to_bytes(4, "little"), "big") == scapy_crc32c(data)


def test_primitives_stand_in_for_the_instructions():
    """The plain-Python forms, which only Python mode runs, against the definition."""
    rng = random.Random(5)
    for _ in range(20):
        a, b = rng.getrandbits(32), rng.getrandbits(32)
        expected = 0
        for k in range(32):
            expected ^= (a << k) if b >> k & 1 else 0
        assert int(crc32c._py_carryless_multiply(a, b)) == expected
