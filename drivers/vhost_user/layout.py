"""Rings and guest memory as the compiled half sees them: rows of the shared memory.

Spec: virtio 1.2 2.7 (split), 2.8 (packed).
Not:  anything of numba; the control process imports this file.

Ring 2n of a port is queue pair n's receiveq, which we fill; ring 2n + 1 its transmitq, which we read
(virtio 1.2 5.1.2; "receive" is the guest's word).

A row outlives the data-plane process that works on it: the cursors are what the next one goes on with.
Addresses and descriptors are that process's own, and the next one writes them anew before it sets
`configured`.
"""

import numpy as np

from dpu_runtime.drivers.vhost_user import QUEUE_PAIRS_MAX
from dpu_runtime.kernels.layout import PORTS_MAX

RINGS_MAX = 2 * QUEUE_PAIRS_MAX
RING_SIZE_MAX = 32768  # descriptors, virtio 1.2 2.7 and 2.8.10.1
REGIONS_MAX = 32  # of a port; what GET_MAX_MEM_SLOTS answers
CHAIN_MAX = 256  # descriptors of one packet, indirect ones included

RING_DTYPE = np.dtype(
    [
        # where it lies: addresses in the data-plane process
        ("desc", "u8"),  # descriptor area
        ("driver", "u8"),  # driver area: available ring, or driver event suppression (packed)
        ("device", "u8"),  # device area: used ring, or device event suppression (packed)
        ("inflight", "u8"),  # this queue's part of the in-flight buffer, 0: none
        ("log", "u8"),  # guest physical address of the device area, for the dirty log; NO_LOG: not logged
        ("features", "u8"),  # negotiated, drivers/vhost_user/features.py
        ("size", "u4"),  # descriptors
        ("serial", "u4"),  # which start of this ring the cursors belong to
        # what may be done with it; three octets, so that three parties write without a lock
        ("configured", "u1"),  # addresses are valid; by the data plane's Python half
        ("started", "u1"),  # kicked; by the worker that polls it
        ("enabled", "u1"),  # SET_VRING_ENABLE; by the data plane's Python half
        ("fault", "u1"),  # FAULT_*: stopped for good until set up again; by a worker
        ("lock", "u4"),  # 1: a worker transmits on it
        ("kick_fd", "i4"),
        ("call_fd", "i4"),  # -1: the driver polls
        ("err_fd", "i4"),
        # the cursor between two bursts: chains are taken and given back in order, so one says both.
        # split: running 16-bit index. packed: position 0..size-1, and the wrap counter in the highest bit
        ("next", "u2"),
        ("pending", "u2"),  # where it will be after the batch that is being given back, see packed.py
        ("signalled", "u2"),  # `next` at the last call, for EVENT_IDX
        ("signalled_valid", "u1"),  # 0: nothing was ever signalled, so the next one is
        ("quiet", "u1"),  # 1: the driver was asked not to kick
        # how often, for `dpu port show`
        ("kicks", "u8"),
        ("calls", "u8"),
        ("bad_chains", "u8"),
        ("dropped", "u8"),  # packets for the guest that found no buffer
        ("tracked", "u8"),  # chains that the in-flight buffer has seen; a row is two cache lines
    ],
    align=True,
)
assert RING_DTYPE.itemsize == 128, RING_DTYPE.itemsize
NO_LOG = 0xFFFF_FFFF_FFFF_FFFF

# Guest memory of a port: rows of `regions: uint64[PORTS_MAX, REGIONS_MAX, REGION_WORDS]`
REGION_GUEST = 0  # first guest physical address
REGION_SIZE = 1  # octets
REGION_LOCAL = 2  # its address in the data-plane process
REGION_WORDS = 4

DEVICE_DTYPE = np.dtype(
    [
        ("regions", "u4"),  # rows in use
        ("pairs", "u4"),  # queue pairs set up: rings 0 .. 2 * pairs - 1
        ("log_addr", "u8"),  # dirty log, one bit a page of LOG_PAGE_BYTES; 0: not wanted
        ("log_bytes", "u8"),
        ("fault", "u4"),  # FAULT_MEMORY or FAULT_CALL: the connection is to be closed
        ("connected", "u4"),
        ("xconnect", "u4"),  # 1 + the port to which everything goes straight, 0: none
        ("pad", "u4"),
    ],
    align=True,
)
LOG_PAGE_BYTES = 4096  # vhost-user: "Migration"

# Arrays of the shared memory, for dpu_runtime/plane/shared.py: name -> (dtype, shape).
VHOST_LAYOUT = {
    "rings": (RING_DTYPE, (PORTS_MAX, RINGS_MAX)),
    "regions": ("u8", (PORTS_MAX, REGIONS_MAX, REGION_WORDS)),
    "devices": (DEVICE_DTYPE, (PORTS_MAX,)),
}

# `fault` of a ring: what the driver did that no ring survives
FAULT_NONE = 0
FAULT_AVAIL_INDEX = 1  # more available than the ring holds
FAULT_CHAIN_ID = 2  # a chain that starts beyond the ring
FAULT_BUFFER = 3  # a receive buffer that is no buffer
FAULT_MEMORY = 4  # the guest's memory is gone
FAULT_CALL = 5  # its call eventfd made a worker wait
FAULT_TEXT = {
    FAULT_AVAIL_INDEX: "the driver offers more buffers than the ring holds",
    FAULT_CHAIN_ID: "the driver offers a descriptor beyond the ring",
    FAULT_BUFFER: "the driver offers a receive buffer that is not in its memory, or not to be written",
    FAULT_MEMORY: "the guest took away memory that it had shared",
    FAULT_CALL: "a call eventfd that was filled made a worker wait",
}


def ring_base(row, packed):
    """Value of GET_VRING_BASE: where a stopped ring goes on; vhost-user "Vring state"."""
    return int(row["next"]) | int(row["next"]) << 16 if packed else int(row["next"])
