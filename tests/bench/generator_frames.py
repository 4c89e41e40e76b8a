"""The generator without ports: its packets as octets, and octets back to its receiver."""

import numpy as np
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from bench.generator.layout import BURST, FRAME_AT, Count
from bench.generator.loop import check_batch, due, fill_batch, make_traffic, note_sent
from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.compile.reference import Lent
from dpu_runtime.kernels.layout import HEADER_BYTES


@kernel
def _fill(traffic, count, stream, now):
    fill_batch(traffic, count, stream, now)
    note_sent(traffic, count, count, 0)


@kernel
def _check(traffic, count, stream, now):
    check_batch(traffic, count, stream, now)


@kernel
def _due(traffic, elapsed):
    return due(traffic, elapsed)


class Frames:
    """Sender and receiver of a pool, by hand: `send` makes frames, `receive` takes them."""

    def __init__(self, pool, stream=0):
        self.stream = np.uint64(stream)
        self.arrays = make_traffic(pool)
        for rows in (self.arrays.sent.headers, self.arrays.received.headers):
            rows[:] = 0xA5
        self.lent = Lent(self.arrays)
        self.pool = pool

    def send(self, count, now=0):
        """The next `count` frames, as bytes; `now` in cycles."""
        made = []
        while len(made) < count:
            here = min(count - len(made), BURST)
            templates = [self._template(k) for k in range(here)]
            _fill(self.lent, here, self.stream, np.uint64(now))
            for k, template in enumerate(templates):
                m = self.arrays.sent.meta[k]
                front = self.arrays.sent.headers[k, FRAME_AT : m["header_end"]].tobytes()
                made.append(front + self._tail(template))
                assert len(made[-1]) == m["frame_len"]
        return made

    def _template(self, k):
        place = (int(self.arrays.counts[Count.CYCLE]) + k) % len(self.pool.cycle)
        return int(self.pool.cycle[place])

    def _tail(self, template):
        for frames in self.pool.frames:
            if template < len(frames):
                return frames[template, HEADER_BYTES:].tobytes()
            template -= len(frames)
        raise AssertionError("no such template")

    def receive(self, frames, now=0):
        """Take frames, in bursts; `now` in cycles. Returns self."""
        for first in range(0, len(frames), BURST):
            burst = frames[first : first + BURST]
            kept = []
            for k, frame in enumerate(burst):
                front, tail = frame[:HEADER_BYTES], np.frombuffer(frame[HEADER_BYTES:] + b"\xa5", np.uint8)
                kept.append(tail)
                headers, m = self.arrays.received.headers, self.arrays.received.meta[k]
                headers[k] = 0xA5
                headers[k, FRAME_AT : FRAME_AT + len(front)] = np.frombuffer(front, np.uint8)
                m["l2_offset"], m["header_end"] = FRAME_AT, FRAME_AT + len(front)
                m["payload_addr"], m["payload_len"] = tail.ctypes.data, len(tail) - 1
            _check(self.lent, len(burst), self.stream, np.uint64(now))
        return self

    def due(self, elapsed):
        """Packets due after `elapsed` cycles."""
        return int(_due(self.lent, np.uint64(elapsed)))

    def counted(self, *names):
        """Values of these columns of Count."""
        return tuple(int(self.arrays.counts[Count[name]]) for name in names)


def frames_of(pool, count, stream):
    """The first `count` frames of a pool, as bytes."""
    return Frames(pool, stream).send(count)


def valid(frame):
    """Whether the lengths and checksums of a frame are what scapy makes of it."""
    packet = Ether(frame)
    again = packet.copy()
    for layer, names in (
        (IP, ("chksum", "len")),
        (IPv6, ("plen",)),
        (UDP, ("chksum", "len")),
        (TCP, ("chksum",)),
    ):
        if again.haslayer(layer):
            for name in names:
                delattr(again[layer], name)
    return bytes(again) == frame
