"""What a worker and its drivers share: its queues' descriptors, the port's counters, the burst at hand.

The worker makes it once. A kind of port has a state of its own beside it, made of what it needs of this:
`make_state(io, shared)` in the io.py of its folder.
"""

import mmap
from collections import namedtuple

import numpy as np

from dpu_runtime.drivers.entry import Op
from dpu_runtime.drivers.port import Kind
from dpu_runtime.kernels.layout import PORTS_MAX

PortIo = namedtuple(
    "PortIo",
    [
        "entries",  # uint64[len(Kind), len(Op)], addresses of the drivers' machine code, drivers/entry.py
        "states",  # uint64[len(Kind)], and of what they keep for this worker
        "worker",  # int, number of the worker
        "workers",  # int, how many there are
        "fds",  # int32[PORTS_MAX], queue descriptor to send on, negative: none
        "queue",  # uint16[PORTS_MAX], number of that queue
        "watched",  # uint8[PORTS_MAX], 1: epoll said that there is something, dpu_runtime/plane/watch.py
        "rx_queue",  # uint32[1], queue of the burst at hand, for the choice of the queue to send on
        "calling",  # int64[1], 1 + the eventfd of a driver that the worker writes to just now, 0: none
        "crossed",  # uint32[1], packets of the burst at hand that went straight to another port
        # shared memory
        "counters",  # uint64[PORTS_MAX, PORT_COUNTER_COUNT], this worker's of every port
        "devices",  # drivers/vhost_user/layout.py; `xconnect` is of every kind
    ],
)


def make_io(worker, workers, shared):
    """Allocate it for worker `worker` of `workers`; `shared` has the shared memory's arrays as attributes."""
    return PortIo(
        entries=np.zeros((len(Kind), len(Op)), np.uint64),
        states=np.zeros(len(Kind), np.uint64),
        worker=worker,
        workers=workers,
        fds=np.full(PORTS_MAX, -1, np.int32),
        queue=np.zeros(PORTS_MAX, np.uint16),
        watched=np.ones(PORTS_MAX, np.uint8),
        rx_queue=np.zeros(1, np.uint32),
        calling=np.zeros(1, np.int64),
        crossed=np.zeros(1, np.uint32),
        counters=shared.port_counters[worker],
        devices=shared.devices,
    )


def huge_pages(size):
    """Zeroed and touched memory of `size` octets, on huge pages when the kernel has some to spare."""
    area = mmap.mmap(-1, -(-size // (2 << 20)) * (2 << 20), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_HUGEPAGE)
    memory = np.frombuffer(area, np.uint8, size)
    memory[:] = 0
    return memory
