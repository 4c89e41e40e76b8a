"""The UMEM that all af_xdp ports share, and rows of the shared memory that say where a queue's rings are.

Addresses are those of the data-plane process that polls; counts and the stack of free frames are made
anew by each such process, for sockets made anew.
Not: anything of numba.
"""

import numpy as np

from dpu_runtime.kernels.layout import PER_WORKER, PORTS_MAX

FRAME_SHIFT = 11
FRAME_BYTES = 1 << FRAME_SHIFT  # octets of a frame, linux/if_xdp.h chunk_size
FRAMES_MAX = 1 << 18  # frames of the UMEM
PACKET_HEADROOM = 256  # octets the kernel leaves in front of a packet, linux/bpf.h XDP_PACKET_HEADROOM
FRAME_ROOM = FRAME_BYTES - PACKET_HEADROOM  # octets of a packet in the frame it was received in
PACKET_FRAMES_MAX = 16  # frames of one packet that Linux sends, MAX_SKB_FRAGS - 1

RING_ENTRIES = 2048  # of each of the four rings
FILL_FRAMES = 2048  # frames a queue has posted: in its fill ring, in the kernel, in its receive ring
SEND_FRAMES = 2048  # frames a queue is sending: in its transmit ring, in the kernel, in its completion ring
QUEUE_FRAMES = FILL_FRAMES + SEND_FRAMES
BURST_FRAMES = 256  # frames of a worker's burst
assert FILL_FRAMES <= RING_ENTRIES >= SEND_FRAMES

HOLDER_NONE = 0  # a frame that is free, or in the hand of a worker
HOLDER_GONE = 0xFFFF  # its port was closed; a queue that comes finds it and makes it free
# else 1 + the port in whose rings it is, or in whose kernel queue

RINGS = ("rx", "tx", "fill", "completion")
XDP_QUEUE_DTYPE = np.dtype(
    [
        *(
            (f"{ring}_{part}", "u8")
            for ring in RINGS
            for part in ("producer", "consumer", "entries", "flags")
        ),
        ("posted", "u4"),  # frames, at most FILL_FRAMES
        ("sending", "u4"),  # frames, at most SEND_FRAMES
        ("lock", "u4"),  # of the transmit and the completion ring
        ("pieces", "u4"),  # 1: packets may lie in several frames (XDP_USE_SG)
        ("quiet", "u4"),  # 1: the last look at the receive ring found nothing
    ],
    align=True,
)


def xdp_queue_name(ring, part):
    """Field of XDP_QUEUE_DTYPE with an address of ring `ring`."""
    return f"{ring}_{part}"


POOL_UMEM, POOL_FREE, POOL_LOCK = 0, 1, 2  # words of `xdp_pool`: address, frames on the stack, its lock
AF_XDP_LAYOUT = {
    "xdp_queues": (XDP_QUEUE_DTYPE, (PORTS_MAX, PER_WORKER)),  # [port, queue]
    "xdp_pool": ("u8", (16,)),
    "xdp_free": ("u4", (FRAMES_MAX,)),  # stack of free frames
    "xdp_holder": ("u2", (FRAMES_MAX,)),  # HOLDER_*
}
