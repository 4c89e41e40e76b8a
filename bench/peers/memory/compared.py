"""What a comparison is: samples of ours and of its peers, and a check that they give the same answers."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dpu_runtime.kernels.layout import HEADER_BYTES, HEADROOM_BYTES, ROW_BYTES
from dpu_runtime.kernels.offload.virtio_net import VNET_HDR_BYTES


@dataclass(frozen=True)
class Compared:
    """One kernel on one input, beside its peers.

    ours, peers  functions that return one figure in `unit`, higher is better
    check        raises AssertionError when a peer's answer is not ours
    kept         what they reach by its address only
    """

    name: str
    unit: str
    ours: Callable
    peers: dict
    check: Callable
    kept: object = None


class Rate:
    """A sample: amount a second of what `loop(rounds)` does, for about `ms` milliseconds.

    amount  of one round
    loop    may return the seconds it took itself, without what should not be counted
    """

    def __init__(self, loop, amount, ms):
        self.loop, self.amount, self.seconds_min = loop, amount, ms / 1000
        self.rounds = 0

    def __call__(self):
        """The figure; the first call finds how many rounds are enough."""
        if self.rounds:
            return self.rounds * self.amount / self._seconds()
        self.rounds = 1
        self._seconds()  # compiles
        # the least of two: one that was interrupted looks long enough
        while (seconds := min(self._seconds(), self._seconds())) < self.seconds_min:
            self.rounds *= min(16, math.ceil(self.seconds_min / seconds))
        return self.rounds * self.amount / seconds

    def _seconds(self):
        began = time.perf_counter()
        own = self.loop(self.rounds)
        return own or time.perf_counter() - began


def rows_of(pool):
    """(uint8[n, ROW_BYTES], META_DTYPE[n]) of a bench.packets.Pool, as a driver leaves them."""
    headers = np.zeros((len(pool.rows), ROW_BYTES), np.uint8)
    headers[:, HEADROOM_BYTES : HEADROOM_BYTES + HEADER_BYTES] = pool.rows
    headers[:, HEADROOM_BYTES - VNET_HDR_BYTES : HEADROOM_BYTES] = pool.vnet
    meta = pool.meta.copy()
    meta["payload_addr"] = pool.data.ctypes.data + pool.starts
    return headers, meta


def frames_of(pool):
    """The same frames as a list of bytes."""
    found = []
    for row, start, meta in zip(pool.rows, pool.starts, pool.meta, strict=True):
        front = row[: meta["frame_len"] - meta["payload_len"]].tobytes()
        found.append(front + pool.data[start : start + meta["payload_len"]].tobytes())
    return found
