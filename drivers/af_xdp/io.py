"""What a worker keeps for af_xdp ports."""

from collections import namedtuple

import numpy as np

from dpu_runtime.drivers.af_xdp.layout import BURST_FRAMES, PACKET_FRAMES_MAX
from dpu_runtime.kernels.layout import BATCH_SIZE

PIECES_MAX = BURST_FRAMES + BATCH_SIZE + 1  # a free slot in front of each packet's list

XdpIo = namedtuple(
    "XdpIo",
    [
        "fds",  # of drivers/io.py
        "queue",
        "watched",
        "counters",
        "pieces",  # uint64[PIECES_MAX, 2], struct iovec: packets in several frames
        # the burst at hand
        "xdp_burst",  # uint64[3]: packets, frames, address of the rows
        "xdp_frames",  # uint32[BURST_FRAMES], its frames, NO_FRAME: it was handed on
        "xdp_first",  # uint32[BATCH_SIZE], first frame of each packet
        "xdp_count",  # uint32[BATCH_SIZE], and how many
        "xdp_payload",  # uint64[BATCH_SIZE], where its payload lay: payload_iov, or payload_addr without
        "xdp_spare",  # uint32[PACKET_FRAMES_MAX], frames to copy a packet to
        # drivers/af_xdp/layout.py, shared
        "xdp_queues",
        "xdp_pool",
        "xdp_free",
        "xdp_holder",
    ],
)


def make_state(io, shared):
    """Allocate it; `io` is the worker's PortIo, `shared` has the shared memory's arrays as attributes."""
    return XdpIo(
        fds=io.fds,
        queue=io.queue,
        watched=io.watched,
        counters=io.counters,
        pieces=np.zeros((PIECES_MAX, 2), np.uint64),
        xdp_burst=np.zeros(3, np.uint64),
        xdp_frames=np.zeros(BURST_FRAMES, np.uint32),
        xdp_first=np.zeros(BATCH_SIZE, np.uint32),
        xdp_count=np.zeros(BATCH_SIZE, np.uint32),
        xdp_payload=np.zeros(BATCH_SIZE, np.uint64),
        xdp_spare=np.zeros(PACKET_FRAMES_MAX, np.uint32),
        xdp_queues=shared.xdp_queues,
        xdp_pool=shared.xdp_pool,
        xdp_free=shared.xdp_free,
        xdp_holder=shared.xdp_holder,
    )
