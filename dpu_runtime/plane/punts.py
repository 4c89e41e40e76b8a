"""Packets that functions hand to the control process: read out of the workers' rings, given to handlers.

Not: how they come in, kernels/punt.py. A slow handler costs packets, which are counted; it never stops a
     worker.
"""

import asyncio
import logging
from dataclasses import dataclass

import numpy as np

from dpu_runtime.kernels.burst import PUNT_BYTES, PUNT_DTYPE, PUNT_HEAD, PUNT_SLOTS, PUNT_TAIL

log = logging.getLogger("dpu.punts")

POLL_S = 0.005
READ_MAX = 64  # packets of a worker before others have their turn


@dataclass(frozen=True)
class Punted:
    """A packet that a function handed over."""

    in_port: int  # index
    tag: int  # what the stage said of it
    frame_len: int  # octets of the frame
    octets: bytes  # its front, at most PUNT_BYTES - 16


def read(shared, worker, most=READ_MAX):
    """Take up to `most` packets out of a worker's ring: [(function's number, Punted)]."""
    words, slots = shared.punt_words[worker], shared.punt_slots[worker]
    head, tail = int(words[PUNT_HEAD]), int(words[PUNT_TAIL])
    found = []
    while tail < head and len(found) < most:
        slot = slots[tail % PUNT_SLOTS]
        said = slot[: PUNT_DTYPE.itemsize].view(PUNT_DTYPE)[0]
        octets = slot[PUNT_DTYPE.itemsize :][: min(int(said["octets"]), PUNT_BYTES)].tobytes()
        packet = Punted(int(said["in_port"]), int(said["tag"]), int(said["frame_len"]), octets)
        found.append((int(said["function"]), packet))
        tail += 1
    words[PUNT_TAIL] = np.uint64(tail)
    return found


class Punts:
    """Gives punted packets to the handlers of their functions.

    handlers  {function's number: coroutine function(Punted)}
    """

    def __init__(self, shared, workers, handlers):
        self._shared = shared
        self._workers = workers
        self._handlers = handlers

    async def run(self):
        """Read for ever; without a handler there is nothing to do."""
        while self._handlers:
            if not await self.read_all():
                await asyncio.sleep(POLL_S)

    async def read_all(self):
        """Hand over what is there; returns how many packets."""
        count = 0
        for worker in range(self._workers):
            for number, packet in read(self._shared, worker):
                count += 1
                handler = self._handlers.get(number)
                if handler is None:
                    continue
                try:
                    await handler(packet)
                except Exception:  # a handler's bug costs its packet, not the others
                    log.exception("the handler of a punted packet failed")
        return count
