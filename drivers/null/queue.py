"""Null port, compiled half: nothing to receive, everything is sent at once.

In/out: a burst, as in drivers/tap/queue.py; frames are neither read nor changed.
"""

import numpy as np

from dpu_runtime.drivers.entry import Op, entry
from dpu_runtime.drivers.linux.libc import EAGAIN
from dpu_runtime.drivers.port import PortCounter


@entry(Op.RX)
def null_rx(burst, io, port):
    """Receive nothing: (0 packets, EAGAIN)."""
    io.counters[port, PortCounter.RX_CALLS] += np.uint64(1)
    return np.int64(0), np.int64(EAGAIN)


@entry(Op.TX)
def null_tx(burst, io, port, first, end):
    """Count `packets[first:end]` and their octets as sent."""
    octets = np.uint64(0)
    for k in range(np.uint64(first), np.uint64(end)):  # an index that might be negative costs a comparison
        octets += np.uint64(burst.meta[np.uint64(burst.packets[k])]["frame_len"])
    counters = io.counters[port]
    counters[PortCounter.TX_PACKETS] += np.uint64(end - first)
    counters[PortCounter.TX_BYTES] += octets
    counters[PortCounter.TX_CALLS] += np.uint64(1)
