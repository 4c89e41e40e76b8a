"""Rows of the shared memory that say where a queue of an af_xdp port is, and the UMEM all of them share.

Addresses are those of the data-plane process that polls.
Not: anything of numba.
"""

import numpy as np

from kernels.layout import PORTS_MAX, WORKERS_MAX

FRAMES_MAX = 1 << 18  # frames of the UMEM

XDP_QUEUE_DTYPE = np.dtype(
    [
        ("rx_addr", "u8"),
        ("tx_addr", "u8"),
        ("fill_addr", "u8"),
        ("completion_addr", "u8"),
    ],
    align=True,
)
AF_XDP_LAYOUT = {
    "xdp_queues": (XDP_QUEUE_DTYPE, (PORTS_MAX, WORKERS_MAX)),  # [port, queue]
    "xdp_pool": ("u8", (16,)),  # where the UMEM is, and how many frames of it are free
    "xdp_free": ("u4", (FRAMES_MAX,)),  # stack of free frames
}
