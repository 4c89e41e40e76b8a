"""One AF_XDP socket: its UMEM, its four rings, its queue.

Spec: linux/if_xdp.h, Documentation/networking/af_xdp.rst.
Not:  the program that sends it packets (bpf.py), what is written to the rings (queue.py).
"""

import contextlib
import ctypes
import errno
import os
import resource
import socket
import struct
import time

from dpu_runtime.drivers.af_xdp.layout import FRAME_BYTES, RING_ENTRIES, RINGS
from dpu_runtime.drivers.af_xdp.umem import map_memory, unmap_memory

AF_XDP, SOL_XDP = 44, 283
XDP_MMAP_OFFSETS, XDP_UMEM_REG = 1, 4  # socket options
XDP_RING_OPTION = {"rx": 2, "tx": 3, "fill": 5, "completion": 6}
XDP_OPTIONS, XDP_MAX_TX_SKB_BUDGET = 8, 9
XDP_RING_PAGE = {"rx": 0, "tx": 0x8000_0000, "fill": 0x1_0000_0000, "completion": 0x1_8000_0000}
ENTRY_BYTES = {"rx": 16, "tx": 16, "fill": 8, "completion": 8}  # struct xdp_desc, an address
XDP_COPY, XDP_ZEROCOPY, XDP_USE_NEED_WAKEUP, XDP_USE_SG = 1 << 1, 1 << 2, 1 << 3, 1 << 4  # bind flags
SO_SNDBUFFORCE, SO_BUSY_POLL, SO_PREFER_BUSY_POLL, SO_BUSY_POLL_BUDGET = 32, 46, 69, 70
BUSY_POLL_US = 20
BUSY_POLL_BUDGET = 64  # packets
# A socket owes at most SEND_FRAMES packets, and the kernel counts them with its own structures: more than
# enough, so that the send buffer never makes a packet wait in the ring
SEND_BUFFER_BYTES = 32 << 20
BIND_TIMEOUT_S = 2.0  # the kernel gives a queue back in the background after a socket was closed
BIND_RETRY_S = 0.002

_libc = ctypes.CDLL(None, use_errno=True)


class BusyError(OSError):
    """Another socket has the queue."""


def open_socket(memory_fd):
    """A socket of the caller's namespace with the UMEM and rings, not bound. Raises OSError, nothing left."""
    sock = socket.socket(AF_XDP, socket.SOCK_RAW, 0)
    try:
        size = os.fstat(memory_fd).st_size
        address = map_memory(memory_fd, size)
        try:
            _register(sock, struct.pack("=QQIIII", address, size, FRAME_BYTES, 0, 0, 0))
        finally:
            unmap_memory(address, size)  # the kernel has pinned its pages
        for option in XDP_RING_OPTION.values():
            sock.setsockopt(SOL_XDP, option, struct.pack("=I", RING_ENTRIES))
        with contextlib.suppress(OSError):  # Linux 6.17; without it 32 packets a call leave
            sock.setsockopt(SOL_XDP, XDP_MAX_TX_SKB_BUDGET, struct.pack("=I", RING_ENTRIES))
        with contextlib.suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER_BYTES)
    except BaseException:
        sock.close()
        raise
    return sock


def _register(sock, umem):
    try:
        sock.setsockopt(SOL_XDP, XDP_UMEM_REG, umem)
    except OSError as error:
        if error.errno != errno.ENOBUFS:
            raise
        # more locked memory than RLIMIT_MEMLOCK, and no CAP_IPC_LOCK
        _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        with contextlib.suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
        with contextlib.suppress(ValueError):
            infinite = resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (infinite, infinite))
        try:
            sock.setsockopt(SOL_XDP, XDP_UMEM_REG, umem)
        except OSError as again:
            limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
            text = f"{again.strerror}: RLIMIT_MEMLOCK is {limit} octets, and there is no CAP_IPC_LOCK"
            raise OSError(again.errno, text) from None


def bind(sock, ifindex, queue, flags):
    """Bind a socket to a queue of an interface, as soon as the kernel has given it back.

    Raises BusyError when another socket has it, else OSError.
    """
    address = struct.pack("=HHIII", AF_XDP, flags | XDP_USE_NEED_WAKEUP, ifindex, queue, 0)
    limit = time.monotonic() + BIND_TIMEOUT_S
    while _libc.bind(sock.fileno(), address, len(address)) != 0:
        errno_ = ctypes.get_errno()
        if errno_ != errno.EBUSY:
            raise OSError(errno_, os.strerror(errno_))
        if time.monotonic() > limit:
            raise BusyError(errno_, f"another AF_XDP socket has queue {queue}")
        time.sleep(BIND_RETRY_S)


def is_zero_copy(sock):
    """Whether the driver puts packets into the UMEM itself."""
    return bool(struct.unpack("=I", sock.getsockopt(SOL_XDP, XDP_OPTIONS, 4))[0] & 1)


def ask_busy_poll(sock):
    """Have the worker's calls poll the interface; None, or why not."""
    for option, value in (
        (SO_PREFER_BUSY_POLL, 1),
        (SO_BUSY_POLL, BUSY_POLL_US),
        (SO_BUSY_POLL_BUDGET, BUSY_POLL_BUDGET),
    ):
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, value)
        except OSError as error:
            return error.strerror
    return None


def ring_offsets(sock):
    """Where producer, consumer, entries and flags are in each ring's mapping, octets."""
    words = struct.unpack("=16Q", sock.getsockopt(SOL_XDP, XDP_MMAP_OFFSETS, 128))
    return {
        ring: dict(zip(("producer", "consumer", "entries", "flags"), words[4 * k : 4 * k + 4], strict=True))
        for k, ring in enumerate(RINGS)
    }
