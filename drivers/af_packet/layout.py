"""Rows of the shared memory that say where a queue of an af_packet port is.

Addresses and descriptors are those of the data-plane process that polls; cursors outlive it, and the next
one goes on with them if the queue is still the same socket.
Not: anything of numba.
"""

import numpy as np

from dpu_runtime.kernels.layout import PER_WORKER, PORTS_MAX

PACKET_QUEUE_DTYPE = np.dtype(
    [
        ("cookie", "u8"),  # SO_COOKIE of the socket that the cursors are of
        # receive ring: written by the worker that polls it
        ("rx_addr", "u8"),
        ("rx_version", "u4"),  # TPACKET_V3: it has blocks; TPACKET_V2: slots
        ("rx_units", "u4"),  # of them, a power of two
        ("rx_unit_bytes", "u4"),
        ("rx_given", "u4"),  # number of the first that was not given back
        ("rx_cursor", "u8"),  # where the next packet is, blocks.py or slots.py; one store moves on
        ("pad", "u4", (6,)),
        # transmit ring: written by whoever holds the lock
        ("tx_addr", "u8"),
        ("tx_slots", "u4"),  # a power of two
        ("tx_slot_bytes", "u4"),
        ("tx_head", "u4"),  # slot that is filled next
        ("tx_lock", "u4"),
        ("tx_fd", "i4"),  # its socket; frames that no slot holds go by the other one
        ("tx_pad", "u4", (9,)),
    ],
    align=True,
)
assert PACKET_QUEUE_DTYPE.itemsize == 128, PACKET_QUEUE_DTYPE.itemsize  # a cache line each way
AF_PACKET_LAYOUT = {"packet_queues": (PACKET_QUEUE_DTYPE, (PORTS_MAX, PER_WORKER))}  # [port, queue]
