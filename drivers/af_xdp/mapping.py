"""AF_XDP port in the data-plane process: map the UMEM and the rings, tell the workers where they are.

In:   descriptors and layout of port.py.   Out: rows of `xdp_queues`, `xdp_pool`, the stack of free frames.
Not:  packets (queue.py).

The first port that a process maps finds nothing of value: a fresh process gets fresh sockets, so every
frame is free. The frames of a port that is closed rest until the next port comes; by then the control
process has closed the sockets too, and the kernel has let go.
"""

import os
import threading

import numpy as np

from dpu_runtime.drivers.af_xdp.layout import (
    FRAME_BYTES,
    HOLDER_GONE,
    HOLDER_NONE,
    POOL_FREE,
    POOL_LOCK,
    POOL_UMEM,
    RING_ENTRIES,
    RINGS,
    xdp_queue_name,
)
from dpu_runtime.drivers.af_xdp.rings import POOL_ARRAYS, start_queue
from dpu_runtime.drivers.af_xdp.socket import ENTRY_BYTES, XDP_RING_PAGE
from dpu_runtime.drivers.af_xdp.umem import map_memory, unmap_memory


class _Memory:
    """The UMEM as this process has it mapped, while a port needs it."""

    def __init__(self):
        self.users = 0
        self._mapped = (0, 0)
        self._lock = threading.Lock()  # ports are closed many at a time

    def use(self, fd, shared):
        """One port more."""
        if self.users == 0:
            size = os.fstat(fd).st_size
            self._mapped = (map_memory(fd, size), size)
            frames = size // FRAME_BYTES
            shared.xdp_holder[:] = HOLDER_NONE
            shared.xdp_free[:frames] = np.arange(frames)
            shared.xdp_pool[POOL_UMEM] = self._mapped[0]
            shared.xdp_pool[POOL_FREE] = frames
            shared.xdp_pool[POOL_LOCK] = 0
        self.users += 1

    def drop(self):
        """One port less; no worker uses it any more."""
        with self._lock:
            self.users -= 1
            if self.users == 0:
                unmap_memory(*self._mapped)


_memory = _Memory()


class XdpRings:
    """The rings of a port's sockets."""

    def __init__(self, index, shared, fds, layout):
        self.fds = list(fds)
        self.layout = layout
        self.queue_fds = self.fds[: layout["queues"]]
        self._index = index
        self._shared = shared
        self._mapped = []
        self._uses_memory = False
        try:
            _memory.use(self.fds[layout["queues"]], shared)
            self._uses_memory = True
            for queue, fd in enumerate(self.queue_fds):
                self._map_queue(shared.xdp_queues[index, queue : queue + 1], fd)
                start_queue(shared.xdp_queues, index, queue, *(getattr(shared, name) for name in POOL_ARRAYS))
        except BaseException:
            self.close()
            raise

    def _map_queue(self, row, fd):
        row[:] = np.zeros(1, row.dtype)
        row["pieces"] = self.layout["pieces"]
        for ring in RINGS:
            offsets = self.layout["offsets"][ring]
            size = offsets["entries"] + RING_ENTRIES * ENTRY_BYTES[ring]
            address = map_memory(fd, size, XDP_RING_PAGE[ring])
            self._mapped.append((address, size))
            for part, offset in offsets.items():
                row[xdp_queue_name(ring, part)] = address + offset

    def close(self):
        """Close every descriptor and unmap; no worker uses the port any more. Twice is allowed."""
        for fd in self.fds:
            os.close(fd)
        for address, size in self._mapped:
            unmap_memory(address, size)
        self.fds, self.queue_fds, self._mapped = [], [], []
        if self._uses_memory:
            self._uses_memory = False
            holder = self._shared.xdp_holder
            holder[holder == self._index + 1] = HOLDER_GONE
            _memory.drop()
