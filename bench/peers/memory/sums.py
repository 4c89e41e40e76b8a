"""Internet checksum and CRC of ranges in the cache: ours beside DPDK, ISA-L, zlib, scapy and dpkt."""

import contextlib
import zlib

import dpkt
import numpy as np
from scapy.utils import checksum as scapy_checksum

from bench.kernel_loops import checksum_loop
from bench.peers.memory import loops
from bench.peers.memory.compared import Compared, Rate
from bench.peers.memory.library import library, pointer
from dpu_runtime.kernels.layout import BATCH_SIZE

CHECKSUM_BYTES = 1480
CRC_BYTES = (64, 1480, 65536)
CRC_MEMORY_BYTES = 1 << 17  # octets, stays in the second level cache
PYTHON_RANGES = 4


def _python(function, ranges):
    """Loop of a Python function over some ranges."""

    def loop(rounds):
        for _ in range(rounds):
            for data in ranges:
                function(data)

    return loop


def _checksum(lib, ms):
    size, places = CHECKSUM_BYTES, BATCH_SIZE
    memory = np.frombuffer(np.random.default_rng(1).bytes(size * places), np.uint8)
    target = np.zeros(size, np.uint8)
    at, to = pointer(memory), pointer(target)
    ranges = [memory[k * size : (k + 1) * size].tobytes() for k in range(PYTHON_RANGES)]

    def check():
        assert checksum_loop(memory, size, size, places) == lib.checksum_loop(at, size, size, places, places)
        for data in ranges:
            one = np.frombuffer(data, np.uint8)
            ours = int(checksum_loop(one, size, size, 1)) ^ 0xFFFF
            assert scapy_checksum(data) == ours == dpkt.dpkt.in_cksum(data)

    gigabytes = size * places / 1e9
    few = size * PYTHON_RANGES / 1e9

    return Compared(
        f"Internet checksum, {size} B",
        "GB/s",
        Rate(lambda n: checksum_loop(memory, size, size, n * places) and None, gigabytes, ms),
        {
            "DPDK rte_raw_cksum": Rate(
                lambda n: lib.checksum_loop(at, size, size, places, n * places) and None, gigabytes, ms
            ),
            "memcpy": Rate(lambda n: lib.copy_loop(to, at, size, size, places, n * places), gigabytes, ms),
            "dpkt": Rate(_python(dpkt.dpkt.in_cksum, ranges), few, ms),
            "scapy": Rate(_python(scapy_checksum, ranges), few, ms),
        },
        check,
    )


def _crc(lib, size, ms):
    places = CRC_MEMORY_BYTES // size
    memory = np.frombuffer(np.random.default_rng(size).bytes(size * places), np.uint8)
    at = pointer(memory)
    ranges = [memory[k * size : (k + 1) * size].tobytes() for k in range(min(PYTHON_RANGES, places))]

    def check():
        ours = int(loops.crc_loop(memory, size, size, places, places))
        assert ours == lib.crc_loop(lib.CRC_ISCSI, at, size, size, places, places)
        assert ours == lib.crc_loop(lib.CRC_DPDK, at, size, size, places, places)
        for place, data in enumerate(ranges):
            theirs = lib.crc_loop(lib.CRC_GZIP, at + place * size, size, size, 1, 1)
            assert theirs == zlib.crc32(data)

    def peer(kind):
        def loop(rounds):
            lib.crc_loop(kind, at, size, size, places, rounds * places)

        return Rate(loop, size * places / 1e9, ms)

    return Compared(
        f"CRC32c, {size} B",
        "GB/s",
        Rate(
            lambda n: loops.crc_loop(memory, size, size, places, n * places) and None, size * places / 1e9, ms
        ),
        {
            "ISA-L crc32_iscsi": peer(lib.CRC_ISCSI),
            "DPDK rte_hash_crc": peer(lib.CRC_DPDK),
            "ISA-L crc32_gzip_refl": peer(lib.CRC_GZIP),  # zlib's polynomial
            "Python zlib.crc32": Rate(_python(zlib.crc32, ranges), size * len(ranges) / 1e9, ms),
        },
        check,
    )


@contextlib.contextmanager
def compared(ms):
    """Comparisons with samples of `ms`."""
    _, lib = library()
    yield [_checksum(lib, ms), *(_crc(lib, size, ms) for size in CRC_BYTES)]
