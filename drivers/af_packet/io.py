"""What a worker keeps for af_packet ports."""

from collections import namedtuple

import numpy as np

from dpu_runtime.kernels.layout import ARENA_BYTES

PacketIo = namedtuple(
    "PacketIo",
    [
        "fds",  # of drivers/io.py
        "queue",
        "watched",
        "counters",
        "arena",  # uint8[ARENA_BYTES], payloads of packets that no slot held
        "iov",  # uint64[4], struct iovec[2]
        "words",  # uint64[8], arguments of system calls
        "packet_queues",  # drivers/af_packet/layout.py, shared
    ],
)


def make_state(io, shared):
    """Allocate it; `io` is the worker's PortIo, `shared` has the shared memory's arrays as attributes."""
    return PacketIo(
        fds=io.fds,
        queue=io.queue,
        watched=io.watched,
        counters=io.counters,
        arena=np.zeros(ARENA_BYTES, np.uint8),
        iov=np.zeros(4, np.uint64),
        words=np.zeros(8, np.uint64),
        packet_queues=shared.packet_queues,
    )
