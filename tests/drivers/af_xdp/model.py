"""The kernel's side of AF_XDP sockets, in plain Python over memory of the test's own."""

import numpy as np

from dpu_runtime.drivers.af_xdp.layout import (
    FRAME_BYTES,
    FRAME_ROOM,
    PACKET_HEADROOM,
    POOL_FREE,
    POOL_UMEM,
    RING_ENTRIES,
    RINGS,
)
from dpu_runtime.drivers.af_xdp.rings import POOL_ARRAYS, start_queue
from tests.drivers.af_xdp.xdp_bench import XdpBench, shared_tables
from tests.kernels.pieces import FILL

OFFSETS = {"producer": 0, "consumer": 128, "flags": 196, "entries": 320}  # octets, as Linux 6.18 has them
CONTD = 1


class Ring:
    """A ring in memory, seen from the kernel."""

    def __init__(self, words, index=0):
        self.memory = np.zeros(OFFSETS["entries"] + RING_ENTRIES * words * 8, np.uint8)
        self.producer, self.consumer = (
            self.memory[OFFSETS[part] :][:4].view(np.uint32) for part in ("producer", "consumer")
        )
        self.producer[0] = self.consumer[0] = index
        self._entries = self.memory[OFFSETS["entries"] :].view(np.uint64).reshape(RING_ENTRIES, words)

    def __len__(self):
        return (int(self.producer[0]) - int(self.consumer[0])) & 0xFFFF_FFFF

    def waiting(self):
        """Entries that were produced and not consumed."""
        first = int(self.consumer[0])
        return [self._entries[(first + k) % RING_ENTRIES].tolist() for k in range(len(self))]

    def put(self, *words):
        """Produce an entry."""
        assert len(self) < RING_ENTRIES
        self._entries[int(self.producer[0]) % RING_ENTRIES] = words
        self.producer[0] = (int(self.producer[0]) + 1) & 0xFFFF_FFFF

    def take(self):
        """Consume an entry."""
        assert len(self)
        words = self._entries[int(self.consumer[0]) % RING_ENTRIES].tolist()
        self.consumer[0] = (int(self.consumer[0]) + 1) & 0xFFFF_FFFF
        return words


class ModelSocket:
    """An AF_XDP socket: it receives what the test hands it, and sends into `sent`."""

    def __init__(self, device, port, pieces, index):
        self.device = device
        self.rings = {ring: Ring(2 if ring in ("rx", "tx") else 1, index) for ring in RINGS}
        self.flying = []  # addresses of frames that are being sent
        self.sent = []
        row = device.shared.xdp_queues[port, 0]
        row["pieces"] = pieces
        for ring, memory in self.rings.items():
            for part, offset in OFFSETS.items():
                row[f"{ring}_{part}"] = memory.memory.ctypes.data + offset

    def deliver(self, packet):
        """A packet comes in; whether there were frames for it."""
        fill, rx = self.rings["fill"], self.rings["rx"]
        parts = [packet[at : at + FRAME_ROOM] for at in range(0, len(packet), FRAME_ROOM)]
        if len(fill) < len(parts):
            return False
        for k, part in enumerate(parts):
            (address,) = fill.take()
            address += PACKET_HEADROOM
            self.device.umem[address : address + len(part)] = np.frombuffer(part, np.uint8)
            rx.put(address, len(part) | (CONTD << 32 if k + 1 < len(parts) else 0))
        return True

    def send(self):
        """Send what is in the transmit ring: octets are read now, frames are given back by `complete`."""
        tx = self.rings["tx"]
        packet = b""
        while len(tx):
            address, word = tx.take()
            size, more = word & 0xFFFF_FFFF, word >> 32 & CONTD
            assert address // FRAME_BYTES == (address + size - 1) // FRAME_BYTES, "beyond its frame"
            packet += self.device.umem[address : address + size].tobytes()
            self.flying.append(address)
            if not more:
                self.sent.append(packet)
                packet = b""
        assert packet == b"", "a packet without end"

    def complete(self, rng):
        """Give some frames back, in any order; nobody needs their octets any more."""
        rng.shuffle(self.flying)
        for _ in range(rng.randint(0, len(self.flying))):
            address = self.flying.pop()
            start = address // FRAME_BYTES * FRAME_BYTES
            self.device.umem[start : start + FRAME_BYTES] = FILL
            self.rings["completion"].put(address)

    def frames(self):
        """Numbers of the frames it has."""
        addresses = [words[0] for ring in self.rings.values() for words in ring.waiting()] + self.flying
        return [address // FRAME_BYTES for address in addresses]


class ModelDevice:
    """Some AF_XDP ports over one UMEM, and the worker that serves them."""

    def __init__(self, frames, pieces=(False, False), index=0):
        self.frames = frames
        self.shared = shared_tables(frames)
        self.umem = np.full(frames * FRAME_BYTES, FILL, np.uint8)
        pool = self.shared.xdp_pool
        pool[POOL_UMEM], pool[POOL_FREE] = self.umem.ctypes.data, frames
        self.shared.xdp_free[:] = np.arange(frames)
        self.bench = XdpBench(self.shared)
        self.sockets = [ModelSocket(self, port, got, index) for port, got in enumerate(pieces)]
        for port in range(len(pieces)):
            self.start(port)

    def start(self, port):
        """Post a port's first frames; returns how many."""
        return start_queue(
            self.shared.xdp_queues, port, 0, *(getattr(self.shared, name) for name in POOL_ARRAYS)
        )

    def check(self):
        """Every frame is in one place, and the tables say in which; between bursts, nothing is in hand."""
        places = [(frame, None) for frame in self.bench.free()]
        for port, sock in enumerate(self.sockets):
            mine = sock.frames()
            assert self.bench.held(port) == (len(mine), len(mine))
            assert all(self.shared.xdp_holder[frame] == port + 1 for frame in mine)
            places += [(frame, port) for frame in mine]
        assert sorted(frame for frame, _ in places) == list(range(self.frames))
