"""Batches for kernel tests: frames in, rows and meta out, with 0xA5 wherever nothing was written."""

import numpy as np

from dpu_runtime.kernels.layout import HEADER_BYTES, HEADROOM_BYTES, META_DTYPE, PAYLOAD_PIECES_MAX, ROW_BYTES
from tests.kernels.pieces import FILL, lay_in_pieces, payload_of


class Batch:
    """A batch of `frames` (bytes) as a driver would deliver it.

    headers  uint8[n, ROW_BYTES]   0xA5 outside the frame
    meta     META_DTYPE[n]         placement fields set, all else 0
    payloads the memory of each packet's payload, kept alive
    """

    in_pieces = False  # how payloads are laid; the fixture `payload_layouts` runs a test both ways

    def __init__(self, frames, in_port=0):
        n = len(frames)
        self.headers = np.full((n, ROW_BYTES), FILL, np.uint8)
        self.meta = np.zeros(n, META_DTYPE)
        self.payloads = [()] * n
        for i, frame in enumerate(frames):
            data = bytes(frame)
            front = data[:HEADER_BYTES]
            self.headers[i, HEADROOM_BYTES : HEADROOM_BYTES + len(front)] = list(front)
            self.lay_payload(i, data[HEADER_BYTES:])
            m = self.meta[i]
            m["frame_len"] = len(data)
            m["l2_offset"] = HEADROOM_BYTES
            m["header_end"] = HEADROOM_BYTES + len(front)
            m["in_port"] = in_port

    def frame(self, i):
        """Octets of packet `i` as they would be sent."""
        m = self.meta[i]
        front = self.headers[i, int(m["l2_offset"]) : int(m["header_end"])].tobytes()
        return front + payload_of(m)

    def lay_payload(self, i, octets, shift=0, pieces_max=PAYLOAD_PIECES_MAX):
        """Make `octets` the payload of packet `i`: contiguous, `shift` octets past a word, or in pieces."""
        m = self.meta[i]
        if self.in_pieces:
            self.payloads[i] = lay_in_pieces(m, octets, pieces_max)
            return
        room = np.full(len(octets) + 24, FILL, np.uint8)
        at = -room.ctypes.data % 8 + shift
        room[at : at + len(octets)] = np.frombuffer(octets, np.uint8)
        self.payloads[i] = room
        m["payload_addr"], m["payload_len"], m["payload_iov"] = room.ctypes.data + at, len(octets), 0
