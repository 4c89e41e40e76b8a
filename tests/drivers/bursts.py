"""Entry points of a driver, called from a test: bursts as the worker loop makes them."""

import functools
import os
from types import SimpleNamespace

import numpy as np

from dpu_runtime.drivers.entry import Op, entries_of
from dpu_runtime.drivers.io import make_io
from dpu_runtime.drivers.load import module_of
from dpu_runtime.drivers.port import PORT_COUNTER_COUNT
from dpu_runtime.kernels.burst import make_burst
from dpu_runtime.kernels.compile.reference import Lent
from dpu_runtime.kernels.drops import DROP_REASON_COUNT, Drop
from dpu_runtime.kernels.layout import BATCH_SIZE, META_DTYPE, ROW_BYTES
from dpu_runtime.plane.shared import SharedState
from tests.kernels.pieces import FILL, payload_of

NO_ROW = 0xFFFF  # in `packets`, in front of those that are sent: a test that reads it fails
FIRST = 3  # how often
NOBODYS_FD = 1 << 20  # a port with a negative one is not there


@functools.cache
def _shared_memory():
    """What is in a burst that no driver looks at."""
    shared = SharedState.create()
    os.close(shared.fd)
    return shared


def counters_of(ports, workers=1):
    """Counters of so many ports."""
    return np.zeros((workers, ports, PORT_COUNTER_COUNT), np.uint64)


class Bursts:
    """One worker's memory, and its bursts on ports of a kind. It is a batch too, of what it received.

    shared  port_counters, and the tables of the kind; attributes
    port    to receive from and send to where a call names none
    """

    def __init__(self, kind, shared, worker=0, workers=1, port=0):
        self.port = port
        self.headers = np.full((BATCH_SIZE, ROW_BYTES), FILL, np.uint8)
        self.meta = np.full(BATCH_SIZE * META_DTYPE.itemsize, FILL, np.uint8).view(META_DTYPE)
        self.copies = np.ones(BATCH_SIZE, np.uint16)
        self.drops = np.zeros(DROP_REASON_COUNT, np.uint64)
        common = make_io(worker, workers, SimpleNamespace(**{"devices": None, **vars(shared)}))
        self.io = module_of(kind, "io").make_state(common, shared)
        self._entries = entries_of(module_of(kind, "queue"))
        self._burst = make_burst(0, _shared_memory())._replace(
            headers=self.headers, meta=self.meta, copies=self.copies, drops=self.drops
        )
        self._lent_burst = Lent(self._burst)

    @property
    def io(self):
        """State of the kind."""
        return self._io

    @io.setter
    def io(self, io):
        self._io, self._lent_io = io, Lent(io)

    def call(self, op, *args):
        """Call an entry point that takes no burst."""
        return self._entries[op](self._lent_io, *args)

    def _port(self, port):
        return self.port if port is None else port

    def receive(self, port=None):
        """One burst: (packets, errno); `done` must follow."""
        return self._entries[Op.RX](self._lent_burst, self._lent_io, self._port(port))

    def done(self, port=None):
        """Give back what the burst's packets lay in."""
        self.call(Op.DONE, self._port(port))

    def transmit(self, batch, order=None, port=None):
        """Send packets of a batch, which has `headers` and `meta`."""
        order = range(len(batch.meta)) if order is None else order
        packets = np.array([NO_ROW] * FIRST + list(order), np.uint16)
        burst = self._burst._replace(headers=batch.headers, meta=batch.meta, packets=packets)
        self._entries[Op.TX](Lent(burst), self._lent_io, self._port(port), FIRST, len(packets))

    def frame(self, i):
        """Octets of received packet `i`."""
        m = self.meta[i]
        return self.headers[i, int(m["l2_offset"]) : int(m["header_end"])].tobytes() + payload_of(m)

    def frames(self, count):
        """Octets of the first received packets."""
        return [self.frame(i) for i in range(count)]

    def vnet(self, i):
        """The 12 octets in front of received packet `i`."""
        l2 = int(self.meta[i]["l2_offset"])
        return self.headers[i, l2 - 12 : l2].tobytes()

    def dropped(self):
        """Reason -> packets, those that are not zero."""
        return {Drop(n).name: int(count) for n, count in enumerate(self.drops) if count}

    def counted(self, *counters, port=None):
        """Counters of a port, in this order."""
        return [int(self.io.counters[self._port(port), counter]) for counter in counters]
