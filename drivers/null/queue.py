"""Null port, compiled half: nothing to receive, everything is sent at once.

In/out: a batch, as in drivers/tap/queue.py; frames are neither read nor changed.
"""

import numpy as np

from dpu_runtime.drivers.linux.libc import EAGAIN
from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.compile.jit import helper


@helper
def null_rx(counters):
    """Receive nothing: (0 packets, EAGAIN)."""
    counters[PortCounter.RX_CALLS] += np.uint64(1)
    return np.int64(0), np.int64(EAGAIN)


@helper
def null_tx(meta, order, count, counters):
    """Count packets `order[:count]` and their octets as sent."""
    octets = np.uint64(0)
    for k in range(count):
        octets += np.uint64(meta[np.int64(order[k])]["frame_len"])
    counters[PortCounter.TX_PACKETS] += np.uint64(count)
    counters[PortCounter.TX_BYTES] += octets
    counters[PortCounter.TX_CALLS] += np.uint64(1)
