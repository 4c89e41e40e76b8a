"""The compiled half of a TAP port, called from a test: bursts as the worker loop makes them."""

import numpy as np

from dpu_runtime.drivers.port import PORT_COUNTER_COUNT
from dpu_runtime.drivers.tap.queue import tap_rx, tap_tx
from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.drops import DROP_REASON_COUNT, Drop
from dpu_runtime.kernels.layout import ARENA_BYTES, BATCH_SIZE, HEADROOM_BYTES, META_DTYPE, ROW_BYTES
from dpu_runtime.kernels.octets.memory import address_of
from tests.kernels.batches import FILL

IN_PORT = 5


@kernel
def _receive(fd, port, headers, meta, arena, iov, counters, drops):
    return tap_rx(fd, port, headers, meta, arena, iov, counters, drops)


@kernel
def _transmit(fd, headers, meta, order, count, iov, counters, drops):
    tap_tx(fd, headers, meta, order, count, iov, counters, drops)
    return count


@kernel
def _arena_address(arena):
    return address_of(arena)


class Queue:
    """One queue with its counters and the memory of a worker."""

    def __init__(self, fd):
        self.fd = fd
        self.headers = np.full((BATCH_SIZE, ROW_BYTES), FILL, np.uint8)
        self.meta = np.full(BATCH_SIZE, FILL, np.uint8).repeat(META_DTYPE.itemsize).view(META_DTYPE)
        self.arena = np.full(ARENA_BYTES, FILL, np.uint8)
        self.iov = np.zeros(4, np.uint64)
        self.counters = np.zeros(PORT_COUNTER_COUNT, np.uint64)
        self.drops = np.zeros(DROP_REASON_COUNT, np.uint64)

    def receive(self):
        """One burst: (packets, errno)."""
        return _receive(
            self.fd, IN_PORT, self.headers, self.meta, self.arena, self.iov, self.counters, self.drops
        )

    def transmit(self, batch, order):
        """Send packets of a batch."""
        order = np.array(order, np.uint16)
        _transmit(self.fd, batch.headers, batch.meta, order, len(order), self.iov, self.counters, self.drops)

    def frame(self, i):
        """Octets of received packet `i`."""
        m = self.meta[i]
        row = self.headers[i, int(m["l2_offset"]) : int(m["header_end"])].tobytes()
        start = int(m["payload_addr"]) - int(_arena_address(self.arena))
        return row + self.arena[start : start + int(m["payload_len"])].tobytes()

    def vnet(self, i):
        """Octets in front of received packet `i`."""
        return self.headers[i, HEADROOM_BYTES - 12 : HEADROOM_BYTES].tobytes()

    def dropped(self):
        """Reason -> packets, those that are not zero."""
        return {Drop(n): int(count) for n, count in enumerate(self.drops) if count}

    def counted(self, *counters):
        """Counters of the port, in this order."""
        return [int(self.counters[counter]) for counter in counters]
