"""Rows of the shared memory that say where a queue of an af_packet port is.

Addresses and descriptors are those of the data-plane process that polls; cursors outlive it, and the next
one goes on with them if the queue is still the same socket.
Not: anything of numba.
"""

import numpy as np

from kernels.layout import PORTS_MAX, WORKERS_MAX

PACKET_QUEUE_DTYPE = np.dtype(
    [
        ("cookie", "u8"),  # SO_COOKIE of the socket that the cursors are of
        # receive ring: written by the worker that polls it
        ("rx_addr", "u8"),
        ("rx_blocks", "u4"),  # a power of two
        ("rx_block_bytes", "u4"),
        # one store moves on: the block's sequence number, its low 32 bits, above the octet in the block
        # where the next packet begins, 0: nothing was taken from the block
        ("rx_cursor", "u8"),
        ("rx_given", "u4"),  # sequence number of the first block that was not given back
        ("pad", "u4", (7,)),
        # transmit ring: written by whoever holds the lock
        ("tx_addr", "u8"),
        ("tx_slots", "u4"),  # a power of two
        ("tx_slot_bytes", "u4"),
        ("tx_head", "u4"),  # slot that is filled next
        ("tx_lock", "u4"),
        ("plain_fd", "i4"),  # socket for frames that no slot holds
        ("tx_pad", "u4", (9,)),
    ],
    align=True,
)
assert PACKET_QUEUE_DTYPE.itemsize == 128, PACKET_QUEUE_DTYPE.itemsize  # a cache line each way
AF_PACKET_LAYOUT = {"packet_queues": (PACKET_QUEUE_DTYPE, (PORTS_MAX, WORKERS_MAX))}  # [port, queue]
