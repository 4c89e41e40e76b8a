"""What a worker lends the drivers: its queues' descriptors, scratch memory, and the rings it shares.

Every function of drivers/burst.py takes one of these; the worker makes it once.
Not:  anything of numba.
"""

import mmap
from collections import namedtuple

import numpy as np

from dpu_runtime.drivers.af_xdp.layout import BURST_FRAMES, PACKET_FRAMES_MAX
from dpu_runtime.drivers.entry import ENTRIES
from dpu_runtime.drivers.vhost_user.layout import CHAIN_MAX
from dpu_runtime.kernels.layout import ARENA_BYTES, BATCH_SIZE, PORTS_MAX

PIECES_MAX = BATCH_SIZE * (CHAIN_MAX + 1) + 1  # a free slot in front of each packet's list, one at the end

CHAINS_MAX = BATCH_SIZE * BATCH_SIZE  # a frame fills up to BATCH_SIZE of them

PortIo = namedtuple(
    "PortIo",
    [
        "entries",  # uint64[len(Kind), len(Op)], drivers/entry.py, addresses of the drivers' machine code
        "worker",  # int, number of the worker
        "workers",  # int, how many there are
        "fds",  # int32[PORTS_MAX], queue descriptor to send on, negative: none
        "queue",  # uint16[PORTS_MAX], number of that queue
        "watched",  # uint8[PORTS_MAX], 1: epoll said that there is something, dpu_runtime/plane/watch.py
        "rx_queue",  # uint32[1], queue of the burst at hand, for the choice of the queue to send on
        "next_pair",  # uint16[PORTS_MAX], queue pair of a ring port to look at first
        "counters",  # uint64[PORTS_MAX, PORT_COUNTER_COUNT], this worker's of every port
        "calling",  # int64[1], 1 + the eventfd of a driver that the worker writes to just now, 0: none
        "crossed",  # uint32[1], packets of the burst at hand that went straight to another port
        "in_order",  # uint16[BATCH_SIZE], 0, 1, 2, ...
        "arena",  # uint8[ARENA_BYTES], payloads of a burst that had to be copied
        "iov",  # uint64[4], struct iovec[2]
        "pieces",  # uint64[PIECES_MAX, 2], struct iovec: buffers of the burst at hand
        "ids",  # uint16[BATCH_SIZE], their descriptor chains
        "cursors",  # uint32[BATCH_SIZE + 1], where each of them begins in the ring
        "taken",  # uint32[1], how many of them
        "targets",  # uint64[PIECES_MAX, 2], struct iovec: buffers to fill
        "tx_order",  # uint16[BATCH_SIZE], packets that got buffers of a ring
        "tx_targets",  # uint32[BATCH_SIZE + 1], first target of each, and the end
        "tx_chains",  # uint32[BATCH_SIZE + 1], first chain of each, and the end
        "tx_ids",  # uint16[CHAINS_MAX], chains to give back
        "tx_cursors",  # uint32[CHAINS_MAX], where each of them begins
        "tx_sizes",  # uint64[CHAINS_MAX], octets written to each of them
        "target_guest",  # uint64[PIECES_MAX], their guest physical addresses, for the dirty log
        "rings",  # drivers/vhost_user/layout.py, shared
        "regions",
        "devices",
        "packet_queues",  # drivers/af_packet/layout.py, shared
        "xdp_queues",  # drivers/af_xdp/layout.py, shared
        "xdp_pool",
        "xdp_free",
        "xdp_holder",
        "xdp_burst",  # uint64[3], AF_XDP burst at hand: packets, frames, address of the rows
        "xdp_frames",  # uint32[BURST_FRAMES], its frames, NO_FRAME: it was handed on
        "xdp_first",  # uint32[BATCH_SIZE], first frame of each packet
        "xdp_count",  # uint32[BATCH_SIZE], and how many
        "xdp_payload",  # uint64[BATCH_SIZE], where its payload lay: payload_iov, or payload_addr without
        "xdp_spare",  # uint32[PACKET_FRAMES_MAX], frames to copy a packet to
        "copies",  # uint16[BATCH_SIZE], egress ports that a packet of the burst at hand goes to
    ],
)


def huge_pages(size):
    """Zeroed and touched memory of `size` octets, on huge pages when the kernel has some to spare."""
    area = mmap.mmap(-1, -(-size // (2 << 20)) * (2 << 20), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_HUGEPAGE)
    memory = np.frombuffer(area, np.uint8, size)
    memory[:] = 0
    return memory


def make_io(worker, workers, shared, burst):
    """Allocate one worker's scratch memory.

    shared  the shared memory's arrays as attributes
    burst   the worker's Burst, of which drivers use `copies`
    """
    return PortIo(
        entries=ENTRIES,
        worker=worker,
        workers=workers,
        fds=np.full(PORTS_MAX, -1, np.int32),
        queue=np.zeros(PORTS_MAX, np.uint16),
        watched=np.ones(PORTS_MAX, np.uint8),
        rx_queue=np.zeros(1, np.uint32),
        next_pair=np.full(PORTS_MAX, worker, np.uint16),
        counters=shared.port_counters[worker],
        calling=np.zeros(1, np.int64),
        crossed=np.zeros(1, np.uint32),
        in_order=np.arange(BATCH_SIZE, dtype=np.uint16),
        arena=huge_pages(ARENA_BYTES),
        iov=np.zeros(4, np.uint64),
        pieces=np.zeros((PIECES_MAX, 2), np.uint64),
        ids=np.zeros(BATCH_SIZE, np.uint16),
        cursors=np.zeros(BATCH_SIZE + 1, np.uint32),
        taken=np.zeros(1, np.uint32),
        targets=np.zeros((PIECES_MAX, 2), np.uint64),
        tx_order=np.zeros(BATCH_SIZE, np.uint16),
        tx_targets=np.zeros(BATCH_SIZE + 1, np.uint32),
        tx_chains=np.zeros(BATCH_SIZE + 1, np.uint32),
        tx_ids=np.zeros(CHAINS_MAX, np.uint16),
        tx_cursors=np.zeros(CHAINS_MAX, np.uint32),
        tx_sizes=np.zeros(CHAINS_MAX, np.uint64),
        target_guest=np.zeros(PIECES_MAX, np.uint64),
        rings=shared.rings,
        regions=shared.regions,
        devices=shared.devices,
        packet_queues=shared.packet_queues,
        xdp_queues=shared.xdp_queues,
        xdp_pool=shared.xdp_pool,
        xdp_free=shared.xdp_free,
        xdp_holder=shared.xdp_holder,
        xdp_burst=np.zeros(3, np.uint64),
        xdp_frames=np.zeros(BURST_FRAMES, np.uint32),
        xdp_first=np.zeros(BATCH_SIZE, np.uint32),
        xdp_count=np.zeros(BATCH_SIZE, np.uint32),
        xdp_payload=np.zeros(BATCH_SIZE, np.uint64),
        xdp_spare=np.zeros(PACKET_FRAMES_MAX, np.uint32),
        copies=burst.copies,
    )
