"""The in-flight buffer: how large, and making one.

Spec: vhost-user "Inflight I/O tracking".
Not:  what is written in it.
"""

import fcntl
import os

SPLIT_HEADER_BYTES = 16  # QueueRegionSplit without desc[]
SPLIT_ENTRY_BYTES = 16  # DescStateSplit
PACKED_HEADER_BYTES = 32  # QueueRegionPacked: 29 octets, and desc[] is aligned to 8
PACKED_ENTRY_BYTES = 32  # DescStatePacked
QUEUE_ALIGNMENT_BYTES = 64  # a cache line; libvhost-user and DPDK do the same


def queue_bytes(queue_size, packed):
    """Octets that one queue takes; queue n begins at n times this."""
    header, entry = (
        (PACKED_HEADER_BYTES, PACKED_ENTRY_BYTES) if packed else (SPLIT_HEADER_BYTES, SPLIT_ENTRY_BYTES)
    )
    return -(-(header + queue_size * entry) // QUEUE_ALIGNMENT_BYTES) * QUEUE_ALIGNMENT_BYTES


def create(size):
    """A file of `size` zeroes that cannot shrink under its users; returns its descriptor."""
    fd = os.memfd_create("vhost-inflight", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(fd)
        raise
    return fd
