"""What a hostile driver writes: descriptors, rings and indirect tables, mostly good, some wrong.

A function of the random numbers given; compiled code writes what changes meanwhile.
"""

import numpy as np

from dpu_runtime.drivers.vhost_user import features as f
from dpu_runtime.drivers.vhost_user.inflight import queue_bytes
from dpu_runtime.drivers.vhost_user.layout import NO_LOG
from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.octets.memory import load_acquire, store_release, store_u8, store_u16, store_u64
from tests.drivers.vhost_user.guest_memory import GuestMemory, Region
from tests.drivers.vhost_user.ring_model import AVAIL, DESC_DTYPE, INDIRECT, NEXT, PACKED_DTYPE, USED, WRITE

RINGS = (0x10_0000, 0xC000)  # rings and indirect tables
BUFFERS = ((0x40_0000, 0x6000), (0x40_6000, 0x5123), (0x8000_0000, 0x1_2000))  # two of them adjacent
TABLE_ROWS = 256
LENGTHS = np.array([0, 1, 11, 12, 13, 60, 72, 268, 269, 1526, 9000, 65561, 65570, 0xFFFF_FFFF])
FEATURES = (f.VIRTIO_NET_F_MRG_RXBUF, f.VIRTIO_F_EVENT_IDX, f.VIRTIO_NET_F_GUEST_CSUM)
PACKED = 1 << f.VIRTIO_F_RING_PACKED
STOP, ADDRESS, SIZE, RANDOM = range(4)  # words of `scribble`


class HostileRing:
    """One ring in a guest's first region, and the row that names it."""

    def __init__(self, rng, memory, row, number):
        self.rng, self.memory, self.row = rng, memory, row
        self.writable = number % 2 == 0
        self.packed = bool(rng.integers(2))
        self.size = int(rng.choice((1, 2, 4, 16, 64, 256)))
        if self.packed:
            self.size = max(1, self.size - int(rng.integers(3)))
        dtype = PACKED_DTYPE if self.packed else DESC_DTYPE
        self.tables_at = memory.allocate(16 * TABLE_ROWS, 16)
        self.tables = memory.view(self.tables_at, 16 * TABLE_ROWS).view(dtype)
        parts = (16 * self.size, 6 + 2 * self.size, 6 + 8 * self.size)
        self.parts = [memory.allocate(size, align) for size, align in zip(parts, (16, 4, 4), strict=True)]
        self.desc = memory.view(self.parts[0], 16 * self.size).view(dtype)
        self.avail = memory.view(self.parts[1], parts[1]).view("u2")
        self.used = memory.view(self.parts[2], 4).view("u2")
        self.inflight = Region(0, queue_bytes(self.size, self.packed))
        self.start(fresh=True)

    def start(self, fresh=False):
        """Set the row up, as backend.py does."""
        rng, row = self.rng, self.row
        for name, at in zip(("desc", "driver", "device"), self.parts, strict=True):
            row[name] = self.memory.local(at)
        chosen = [bit for bit in FEATURES if rng.random() < 0.6] + [f.VIRTIO_F_RING_PACKED] * self.packed
        row["size"], row["features"] = self.size, f.mask(*chosen)
        row["log"] = (RINGS[0], 1 << 40, NO_LOG)[rng.integers(3)]
        row["call_fd"] = row["kick_fd"] = row["err_fd"] = -1
        if fresh:
            base = int(rng.integers(self.size)) | int(rng.integers(2)) << 15
            row["next"] = row["pending"] = base if self.packed else int(rng.integers(1 << 16))
        row["inflight"] = self.inflight.local if rng.random() < 0.4 else 0
        row["fault"] = row["lock"] = row["quiet"] = 0
        row["configured"] = row["started"] = 1
        row["enabled"] = rng.random() < 0.95

    def addresses(self, count):
        """Guest physical addresses and lengths: inside a region, at its edges, anywhere."""
        rng = self.rng
        picked = rng.integers(1, len(self.memory.regions), count)
        guest = np.array([region.guest for region in self.memory.regions], np.uint64)[picked]
        size = np.array([region.size for region in self.memory.regions], np.uint64)[picked]
        length = np.where(rng.random(count) < 0.7, rng.integers(0, 2000, count), rng.choice(LENGTHS, count))
        length = rng.integers(1, 2000, count) if self.careful else length
        addr = guest + rng.integers(0, 0x4000, count).astype(np.uint64)
        kind = 0.05 + 0.94 * rng.random(count) if self.careful else rng.random(count)
        edge = (
            guest
            + size
            - length.astype(np.uint64)
            + rng.integers(0, 3, count).astype(np.uint64)
            - np.uint64(1)
        )
        addr = np.where(kind < 0.04, edge, addr)
        wild = rng.integers(0, 1 << 63, count).astype(np.uint64) * np.uint64(2)
        addr = np.where(kind > 0.99, wild, addr)
        addr = np.where(kind > 0.997, np.uint64(0) - length.astype(np.uint64) // np.uint64(2), addr)
        return addr, length.astype(np.uint32)

    def describe(self, rows, tables=False):
        """Fill descriptors, of the ring or of indirect tables."""
        rng, count = self.rng, len(rows)
        rows["addr"], rows["len"] = self.addresses(count)
        flags = np.where(rng.random(count) < 0.3, NEXT, 0)
        wrong = rng.random(count) < (0 if self.careful else 0.02)
        flags = flags | np.where(wrong ^ self.writable, WRITE, 0)
        indirect = rng.random(count) < (0 if tables and self.careful else 0.01 if tables else 0.15)
        first = rng.integers(0, TABLE_ROWS - 8, count)
        entries = rng.choice((0, 1, 2, 3, 8, 200), count, p=(0.02, 0.4, 0.3, 0.15, 0.12, 0.01))
        rows["addr"] = np.where(indirect, (self.tables_at + 16 * first).astype(np.uint64), rows["addr"])
        rows["len"] = np.where(indirect, 16 * entries + (rng.random(count) < 0.03), rows["len"])
        flags = np.where(indirect, INDIRECT | (flags & (rng.random(count) < 0.05)), flags)
        if self.packed:
            rows["id"] = rng.integers(0, 2 * self.size, count)
        elif tables:
            rows["next"] = rng.integers(0, 4, count)
        else:
            rows["next"] = (np.arange(count) + 1) % self.size
            jump = rng.random(count) < 0.1
            rows["next"] = np.where(jump, rng.integers(0, self.size + 2, count), rows["next"])
        rows["flags"] = flags

    def offer(self):
        """A lap of chains; a bad receive buffer stops its ring, so there all are good in most laps."""
        rng, size = self.rng, self.size
        self.careful = self.writable and rng.random() < 0.9
        self.describe(self.tables, tables=True)
        self.describe(self.desc)
        cursor = int(self.row["next"])
        if self.packed:
            position, wrap = cursor & 0x7FFF, cursor >> 15
            lap = np.where(np.arange(size) >= position, wrap, 1 - wrap)
            marks = np.where(lap == 1, AVAIL, USED)
            left_out = rng.random(size) < 0.02
            self.desc["flags"] |= np.where(left_out, 0, marks).astype(np.uint16)
            self.avail[:2] = rng.integers(0, 1 << 16), rng.integers(0, 4)
            return
        heads = rng.integers(0, size, size)
        self.avail[2 : 2 + size] = np.where(rng.random(size) < 0.003, rng.integers(0, 1 << 16), heads)
        ahead = rng.integers(0, size + 1) if rng.random() < 0.98 else rng.integers(0, 1 << 16)
        self.avail[1] = (cursor + int(ahead)) & 0xFFFF
        self.avail[0], self.avail[-1] = rng.integers(0, 2), rng.integers(0, 1 << 16)

    def damage(self):
        """Other octets anywhere in the rings' region and the in-flight buffer."""
        for region in (self.memory.regions[0], self.inflight):
            for _ in range(int(self.rng.integers(4))):
                at = int(self.rng.integers(region.size))
                region.octets[at] = self.rng.integers(256)


def hostile_memory():
    """Regions of one guest."""
    return GuestMemory(RINGS, *BUFFERS)


@helper
def _next_random(words):
    x = words[RANDOM]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    words[RANDOM] = x
    return x


@kernel
def scribble(words):
    """Change octets, words and bits of a piece of memory until told to stop.

    words  uint64[4]: STOP, ADDRESS and SIZE of the piece, RANDOM
    """
    while load_acquire(words, STOP) == np.uint64(0):
        random = _next_random(words)
        at = load_acquire(words, ADDRESS) + (random >> np.uint64(16)) % (words[SIZE] - np.uint64(8))
        kind = random & np.uint64(7)
        if kind < np.uint64(5):
            store_u16(at & ~np.uint64(1), random >> np.uint64(48))
        elif kind < np.uint64(7):
            store_u8(at, random >> np.uint64(40))
        else:
            store_u64(at & ~np.uint64(7), _next_random(words))
        store_release(words, RANDOM, words[RANDOM])
