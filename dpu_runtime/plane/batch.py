"""The private memory of one worker: its batch, and scratch space for egress.

Allocated once; nothing in the loop allocates.
"""

import mmap
from collections import namedtuple

import numpy as np

from dpu_runtime.drivers.tap.queue import ARENA_BYTES
from dpu_runtime.kernels.layout import BATCH_SIZE, META_DTYPE, PORTS_MAX, ROW_BYTES
from dpu_runtime.kernels.offload.gro import GRO_DTYPE, GRO_IOV_MAX
from dpu_runtime.kernels.offload.segment import GSO_IOV_MAX
from dpu_runtime.kernels.switch.mac_table import SWITCH_OUT_MAX

Batch = namedtuple(
    "Batch",
    [
        "headers",  # uint8[BATCH_SIZE, ROW_BYTES]
        "meta",  # META_DTYPE[BATCH_SIZE]
        "arena",  # uint8[ARENA_BYTES], payloads as received
        "iov",  # uint64[4], struct iovec[2]
        "out_packet",  # uint16[SWITCH_OUT_MAX], the switch's copies: index into the batch
        "out_port",  # uint16[SWITCH_OUT_MAX], and egress port
        "next_copy",  # int32[SWITCH_OUT_MAX], linked list of one port's copies, -1: last
        "first_copy",  # int32[PORTS_MAX]
        "last_copy",  # int32[PORTS_MAX]
        "egress_ports",  # uint16[PORTS_MAX], ports with a copy, in order of appearance
        "order",  # uint16[BATCH_SIZE], packets going to the port at hand
        "order_port",  # uint16[BATCH_SIZE], that port, once a packet
        "segment_headers",  # uint8[BATCH_SIZE, ROW_BYTES], software GSO's output
        "segment_meta",  # META_DTYPE[BATCH_SIZE]
        "segment_iov",  # uint64[GSO_IOV_MAX, 2], struct iovec[]: payloads of segments in pieces
        "segment_order",  # uint16[BATCH_SIZE], 0, 1, 2, ...
        "copies",  # uint16[BATCH_SIZE], egress ports that a packet goes to
        "gro_iov",  # uint64[GRO_IOV_MAX, 2], struct iovec[]: payloads of merged packets
        "gro_flows",  # GRO_DTYPE[BATCH_SIZE], scratch
    ],
)


def _huge(size):
    """Zeroed memory of `size` octets, on huge pages when the kernel has some to spare."""
    area = mmap.mmap(-1, -(-size // (2 << 20)) * (2 << 20), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(area, np.uint8, size)


def make_batch():
    """Allocate one worker's batch; every page is touched, so that the loop takes no fault."""
    batch = Batch(
        headers=np.zeros((BATCH_SIZE, ROW_BYTES), np.uint8),
        meta=np.zeros(BATCH_SIZE, META_DTYPE),
        arena=_huge(ARENA_BYTES),
        iov=np.zeros(4, np.uint64),
        out_packet=np.zeros(SWITCH_OUT_MAX, np.uint16),
        out_port=np.zeros(SWITCH_OUT_MAX, np.uint16),
        next_copy=np.zeros(SWITCH_OUT_MAX, np.int32),
        first_copy=np.full(PORTS_MAX, -1, np.int32),
        last_copy=np.zeros(PORTS_MAX, np.int32),
        egress_ports=np.zeros(PORTS_MAX, np.uint16),
        order=np.zeros(BATCH_SIZE, np.uint16),
        order_port=np.zeros(BATCH_SIZE, np.uint16),
        segment_headers=np.zeros((BATCH_SIZE, ROW_BYTES), np.uint8),
        segment_meta=np.zeros(BATCH_SIZE, META_DTYPE),
        segment_iov=np.zeros((GSO_IOV_MAX, 2), np.uint64),
        segment_order=np.arange(BATCH_SIZE, dtype=np.uint16),
        copies=np.zeros(BATCH_SIZE, np.uint16),
        gro_iov=np.zeros((GRO_IOV_MAX, 2), np.uint64),
        gro_flows=np.zeros(BATCH_SIZE, GRO_DTYPE),
    )
    for array in batch:
        flat = array.reshape(-1)
        flat[:] = flat
    return batch
