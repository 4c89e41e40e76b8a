"""Big-endian words, against `int.from_bytes`."""

import numpy as np
import pytest

from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.octets.wire import be16, be32, be48, be64, put_be16, put_be32
from tests.kernels.batches import FILL

ROW = np.array([0xFF, 0x00, 0x80, 0x7F, 0x01, 0xFE, 0xA5, 0x5A, 0xC3, 0x3C, 0xFF, 0xFF], np.uint8)


@pytest.mark.parametrize(("read", "octets"), [(be16, 2), (be32, 4), (be48, 6), (be64, 8)])
def test_reads_every_offset(read, octets):
    for offset in range(len(ROW) - octets + 1):
        expected = int.from_bytes(ROW[offset : offset + octets].tobytes(), "big")
        assert int(read(ROW, offset)) == expected
        assert int(read(ROW, np.uint16(offset))) == expected


@pytest.mark.parametrize(("write", "octets"), [(put_be16, 2), (put_be32, 4)])
@pytest.mark.parametrize("value", [0, 1, 0x80, 0xFF00, 0x7FFF, 0x80000000, 0xDEADBEEF, 0xFFFFFFFF])
def test_writes_its_octets_and_no_other(write, octets, value):
    low = value % (1 << 8 * octets)
    for offset in range(len(ROW) - octets + 1):
        row = np.full(len(ROW), FILL, np.uint8)
        write(row, offset, np.uint32(value))
        expected = bytearray([FILL] * len(ROW))
        expected[offset : offset + octets] = low.to_bytes(octets, "big")
        assert row.tobytes() == bytes(expected)


@kernel
def swap_halves(row):
    high = be16(row, 0)
    put_be16(row, 0, be16(row, 2))
    put_be16(row, 2, high)


def test_words_written_are_words_read():
    row = ROW.copy()
    swap_halves(row)
    assert row[:4].tolist() == [0x80, 0x7F, 0xFF, 0x00]
