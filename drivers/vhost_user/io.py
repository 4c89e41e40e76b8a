"""What a worker keeps for vhost_user ports: the chains of the burst at hand, and the rings it shares."""

from collections import namedtuple

import numpy as np

from dpu_runtime.drivers.vhost_user.layout import CHAIN_MAX
from dpu_runtime.kernels.layout import BATCH_SIZE, PORTS_MAX

PIECES_MAX = BATCH_SIZE * (CHAIN_MAX + 1) + 1  # a free slot in front of each packet's list, one at the end
CHAINS_MAX = BATCH_SIZE * BATCH_SIZE  # a frame fills up to BATCH_SIZE of them

VhostIo = namedtuple(
    "VhostIo",
    [
        "worker",  # of drivers/io.py
        "workers",
        "rx_queue",
        "calling",
        "crossed",
        "counters",
        "next_pair",  # uint16[PORTS_MAX], queue pair of a port to look at first
        "in_order",  # uint16[BATCH_SIZE], 0, 1, 2, ...
        "words",  # uint64[2], what an eventfd is written, or the header of a frame
        # received
        "pieces",  # uint64[PIECES_MAX, 2], struct iovec: buffers of the burst at hand
        "ids",  # uint16[BATCH_SIZE], their descriptor chains
        "cursors",  # uint32[BATCH_SIZE + 1], where each of them begins in the ring
        "taken",  # uint32[1], how many of them
        # to send
        "targets",  # uint64[PIECES_MAX, 2], struct iovec: buffers to fill
        "target_guest",  # uint64[PIECES_MAX], their guest physical addresses, for the dirty log
        "tx_order",  # uint16[BATCH_SIZE], packets that got buffers of a ring
        "tx_targets",  # uint32[BATCH_SIZE + 1], first target of each, and the end
        "tx_chains",  # uint32[BATCH_SIZE + 1], first chain of each, and the end
        "tx_ids",  # uint16[CHAINS_MAX], chains to give back
        "tx_cursors",  # uint32[CHAINS_MAX], where each of them begins
        "tx_sizes",  # uint64[CHAINS_MAX], octets written to each of them
        # drivers/vhost_user/layout.py, shared
        "rings",
        "regions",
        "devices",
    ],
)


def make_state(io, shared):
    """Allocate it; `io` is the worker's PortIo, `shared` has the shared memory's arrays as attributes."""
    return VhostIo(
        worker=io.worker,
        workers=io.workers,
        rx_queue=io.rx_queue,
        calling=io.calling,
        crossed=io.crossed,
        counters=io.counters,
        next_pair=np.full(PORTS_MAX, io.worker, np.uint16),
        in_order=np.arange(BATCH_SIZE, dtype=np.uint16),
        words=np.zeros(2, np.uint64),
        pieces=np.zeros((PIECES_MAX, 2), np.uint64),
        ids=np.zeros(BATCH_SIZE, np.uint16),
        cursors=np.zeros(BATCH_SIZE + 1, np.uint32),
        taken=np.zeros(1, np.uint32),
        targets=np.zeros((PIECES_MAX, 2), np.uint64),
        target_guest=np.zeros(PIECES_MAX, np.uint64),
        tx_order=np.zeros(BATCH_SIZE, np.uint16),
        tx_targets=np.zeros(BATCH_SIZE + 1, np.uint32),
        tx_chains=np.zeros(BATCH_SIZE + 1, np.uint32),
        tx_ids=np.zeros(CHAINS_MAX, np.uint16),
        tx_cursors=np.zeros(CHAINS_MAX, np.uint32),
        tx_sizes=np.zeros(CHAINS_MAX, np.uint64),
        rings=shared.rings,
        regions=shared.regions,
        devices=shared.devices,
    )
