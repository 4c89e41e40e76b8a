"""One packet of a port that `dpu_runtime.host` opened: numpy views of its octets, and its offload fields.

Spec: virtio 1.2 5.1.6 (the offload fields); drivers/host/dpu.h (`struct dpu_buf`).
"""

import numpy as np

BUF_DTYPE = np.dtype(
    [
        ("data", "u8"),  # address of the first octet
        ("next", "u8"),  # handle of the next piece, 0: none
        ("len", "u4"),  # octets of this piece
        ("capacity", "u4"),
        ("csum_start", "u2"),
        ("csum_offset", "u2"),
        ("gso_size", "u2"),
        ("hdr_len", "u2"),
        ("flags", "u1"),
        ("gso_type", "u1"),
        ("segments", "u2"),  # pieces of a received packet
        ("index", "u4"),
        ("user", "u8"),
        ("base", "u8"),
        ("reserved", "u8"),
    ]
)
NEEDS_CSUM = 1  # `flags`: the checksum from csum_start on is owed
DATA_VALID = 2  # `flags`: received, and its checksum was verified


class Packet:
    """A packet that this program owns, until it is sent or freed; then every use raises ValueError."""

    __slots__ = ("_port", "_row")

    def __init__(self, port, row):
        self._port = port
        self._row = row

    def __len__(self):
        """Octets of the frame, all pieces."""
        return sum(int(self._port.bufs["len"][row]) for row in self._rows())

    @property
    def buf(self):
        """Fields of the first piece, BUF_DTYPE; writable."""
        if self._row < 0:
            raise ValueError("the packet was sent or freed")
        return self._port.bufs[self._row]

    @property
    def handle(self):
        """Address of its `struct dpu_buf`."""
        return int(self._port.handles(self.buf["index"]))

    @property
    def data(self):
        """Octets of the first piece, uint8[len], in shared memory; valid until it is sent or freed."""
        return self._view(int(self.buf["index"]))

    @property
    def pieces(self):
        """Octets of all pieces, a list of uint8[len]."""
        return [self._view(row) for row in self._rows()]

    def octets(self):
        """The whole frame as bytes, a copy."""
        return b"".join(piece.tobytes() for piece in self.pieces)

    def resize(self, length):
        """Set how many octets the first piece has, 0..capacity; returns them, uint8[length]."""
        if not 0 <= length <= self.buf["capacity"]:
            raise ValueError(f"{length} octets: a piece holds 0 to {self.buf['capacity']}")
        self.buf["len"] = length
        return self.data

    def fill(self, octets):
        """Make these octets (bytes or uint8[n]) the content of the first piece."""
        octets = np.frombuffer(octets, np.uint8)
        self.resize(len(octets))[:] = octets

    def append(self, other):
        """Append the pieces of `other`, which is part of this packet from now on."""
        rows = list(self._rows())
        self._port.bufs["next"][rows[-1]] = other.handle
        other.release()

    def offload(self, csum_start=None, csum_offset=0, gso_type=0, gso_size=0, hdr_len=0):
        """Leave the checksum from `csum_start` on to the DPU, and the cutting into segments."""
        buf = self.buf
        buf["flags"] = 0 if csum_start is None else NEEDS_CSUM
        buf["csum_start"] = csum_start or 0
        buf["csum_offset"] = csum_offset
        buf["gso_type"] = gso_type
        buf["gso_size"] = gso_size
        buf["hdr_len"] = hdr_len

    def release(self):
        """Forget the buffer: it is somebody else's now."""
        self._row = -1

    def _rows(self):
        handle = self.handle
        while handle:
            row = int(self._port.rows(np.uint64(handle)))
            yield row
            handle = int(self._port.bufs["next"][row])

    def _view(self, row):
        start = int(self._port.offsets(row))
        return self._port.memory[start : start + int(self._port.bufs["len"][row])]
