"""The compiled half of af_xdp ports, called from a test: bursts as the worker loop makes them."""

from types import SimpleNamespace

import numpy as np

from dpu_runtime.drivers.af_packet.layout import AF_PACKET_LAYOUT
from dpu_runtime.drivers.af_xdp.layout import AF_XDP_LAYOUT, HOLDER_NONE, POOL_FREE
from dpu_runtime.drivers.af_xdp.queue import xdp_done, xdp_rx, xdp_tx
from dpu_runtime.drivers.io import make_io
from dpu_runtime.drivers.linux import libc
from dpu_runtime.drivers.port import PORT_COUNTER_COUNT
from dpu_runtime.drivers.vhost_user.layout import VHOST_LAYOUT
from dpu_runtime.kernels.compile.jit import PYTHON_MODE, kernel
from dpu_runtime.kernels.drops import DROP_REASON_COUNT, Drop
from dpu_runtime.kernels.layout import BATCH_SIZE, META_DTYPE, ROW_BYTES, WORKERS_MAX
from tests.kernels.pieces import FILL, payload_of

PORTS = 4

if PYTHON_MODE:
    libc.recv = lambda *_: 0


@kernel
def _receive(io, port, headers, meta, counters, drops):
    return xdp_rx(io, port, headers, meta, counters, drops)


@kernel
def _done(io, port):
    xdp_done(io, port)


@kernel
def _transmit(io, port, headers, meta, order, count, counters, drops):
    xdp_tx(io, port, headers, meta, order, count, counters, drops)


def shared_tables(frames):
    """The tables of PORTS ports and `frames` frames, in memory of the test's own."""
    shapes = {"xdp_queues": (PORTS, WORKERS_MAX), "xdp_pool": (16,)}
    tables = {
        name: np.zeros(shapes.get(name, (frames,)), dtype) for name, (dtype, _) in AF_XDP_LAYOUT.items()
    }
    others = {
        name: np.zeros((1,) * len(shape), dtype)
        for name, (dtype, shape) in {**AF_PACKET_LAYOUT, **VHOST_LAYOUT}.items()
    }
    counters = np.zeros((1, PORTS, PORT_COUNTER_COUNT), np.uint64)
    return SimpleNamespace(port_counters=counters, **tables, **others)


class XdpBench:
    """One worker's memory, and its bursts. It is a batch too, of what it received."""

    def __init__(self, shared):
        self.shared = shared
        self.headers = np.full((BATCH_SIZE, ROW_BYTES), FILL, np.uint8)
        self.meta = np.full(BATCH_SIZE * META_DTYPE.itemsize, FILL, np.uint8).view(META_DTYPE)
        self.copies = np.ones(BATCH_SIZE, np.uint16)
        batch = SimpleNamespace(arena=np.zeros(16, np.uint8), iov=np.zeros(4, np.uint64), copies=self.copies)
        self.io = make_io(0, 1, shared, batch)
        self.counters = shared.port_counters[0]
        self.drops = np.zeros(DROP_REASON_COUNT, np.uint64)

    def receive(self, port=0):
        """One burst: (packets, errno); `done` must follow."""
        return _receive(self.io, port, self.headers, self.meta, self.counters[port], self.drops)

    def done(self, port=0):
        """Give the burst's frames back."""
        _done(self.io, port)

    def transmit(self, batch, order=None, port=0):
        """Send packets of a batch."""
        order = np.arange(len(batch.meta)) if order is None else order
        order = np.array(order, np.uint16)
        counters = self.counters[port]
        _transmit(self.io, port, batch.headers, batch.meta, order, len(order), counters, self.drops)

    def frame(self, i):
        """Octets of received packet `i`."""
        m = self.meta[i]
        return self.headers[i, int(m["l2_offset"]) : int(m["header_end"])].tobytes() + payload_of(m)

    def frames(self, count):
        """Octets of the first received packets."""
        return [self.frame(i) for i in range(count)]

    def free(self):
        """Numbers of the frames on the stack."""
        return self.shared.xdp_free[: int(self.shared.xdp_pool[POOL_FREE])].tolist()

    def held(self, port):
        """Frames in a port's queues, as its rows count them, and as `xdp_holder` has them."""
        rows = self.shared.xdp_queues[port]
        counted = int(rows["posted"].sum()) + int(rows["sending"].sum())
        return counted, int((self.shared.xdp_holder == port + 1).sum())

    def unheld(self):
        """Frames in no port's queues."""
        return int((self.shared.xdp_holder == HOLDER_NONE).sum())

    def dropped(self):
        """Reason -> packets, those that are not zero."""
        return {Drop(n).name: int(count) for n, count in enumerate(self.drops) if count}
