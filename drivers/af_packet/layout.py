"""Rows of the shared memory that say where a queue of an af_packet port is.

Addresses are those of the data-plane process that polls; cursors outlive it.
Not: anything of numba.
"""

import numpy as np

from kernels.layout import PORTS_MAX, WORKERS_MAX

PACKET_QUEUE_DTYPE = np.dtype(
    [
        ("rx_addr", "u8"),  # TPACKET_V3 receive ring
        ("tx_addr", "u8"),  # transmit ring
    ],
    align=True,
)
AF_PACKET_LAYOUT = {"packet_queues": (PACKET_QUEUE_DTYPE, (PORTS_MAX, WORKERS_MAX))}  # [port, queue]
