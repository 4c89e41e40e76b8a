"""Batches for kernel tests: frames in, rows and meta out, with 0xA5 wherever nothing was written."""

import numpy as np

from kernels.layout import HEADER_BYTES, HEADROOM_BYTES, META_DTYPE, ROW_BYTES

FILL = 0xA5


class Batch:
    """A batch of `frames` (bytes) as a driver would deliver it.

    headers  uint8[n, ROW_BYTES]   0xA5 outside the frame
    meta     META_DTYPE[n]         placement fields set, all else 0
    payloads the numpy arrays behind `payload_addr`, kept alive
    """

    def __init__(self, frames, in_port=0):
        n = len(frames)
        self.headers = np.full((n, ROW_BYTES), FILL, np.uint8)
        self.meta = np.zeros(n, META_DTYPE)
        self.payloads = []
        for i, frame in enumerate(frames):
            data = np.frombuffer(bytes(frame), np.uint8)
            front = data[:HEADER_BYTES]
            self.headers[i, HEADROOM_BYTES : HEADROOM_BYTES + len(front)] = front
            payload = np.concatenate([data[HEADER_BYTES:], np.full(16, FILL, np.uint8)])
            self.payloads.append(payload)
            m = self.meta[i]
            m["payload_addr"] = payload.ctypes.data
            m["payload_len"] = max(0, len(data) - HEADER_BYTES)
            m["frame_len"] = len(data)
            m["l2_offset"] = HEADROOM_BYTES
            m["header_end"] = HEADROOM_BYTES + len(front)
            m["in_port"] = in_port

    def frame(self, i):
        """Octets of packet `i` as they would be sent."""
        m = self.meta[i]
        front = self.headers[i, int(m["l2_offset"]) : int(m["header_end"])].tobytes()
        return front + self.payloads[i][: int(m["payload_len"])].tobytes()
