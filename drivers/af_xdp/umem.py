"""The UMEM, control half: one memfd of frames for every af_xdp port of the device, and who has how many.

Each socket registers the same memory as a UMEM of its own instead of binding with XDP_SHARED_UMEM: frames
pass between ports all the same, and a socket's mode, wake-up and multi-buffer flags need not be those of the
first one, which nobody has to keep open for the others.
Spec: Documentation/networking/af_xdp.rst, "UMEM".
"""

import ctypes
import errno
import os
import threading

from dpu_runtime.drivers.af_xdp.layout import BURST_FRAMES, FRAME_BYTES, QUEUE_FRAMES
from dpu_runtime.drivers.port import PortError


class Umem:
    """`frames` frames; memory is taken when the first port comes, and given back after the last.

    workers  how many workers have a burst in hand
    """

    def __init__(self, frames, workers):
        self.frames = frames
        self.workers = workers
        self.fd = -1
        self._queues = {}  # port's name -> queues
        self._lock = threading.Lock()  # ports are closed many at a time

    def take(self, port, queues):
        """Set frames aside for a port; returns a new descriptor of the memory. Raises PortError."""
        taken = sum(self._queues.values())
        rest = (self.frames - self.workers * BURST_FRAMES) // QUEUE_FRAMES - taken
        if queues > rest:
            text = (
                f"{queues} queue(s) need {QUEUE_FRAMES} frames each, and the {self.frames} frames that all"
                f" af_xdp ports share have room for {max(rest, 0)} more; [runtime] xdp_frames says how many"
            )
            raise PortError(port, "frames", errno.ENOMEM, text)
        if self.fd < 0:
            self.fd = os.memfd_create("dpu-umem", os.MFD_CLOEXEC)
            os.ftruncate(self.fd, self.frames * FRAME_BYTES)
        self._queues[port] = queues
        return os.dup(self.fd)

    def adopt(self, port, queues, fd):
        """Go on with the memory that an earlier control process made."""
        if self.fd < 0:
            self.fd = os.dup(fd)
            self.frames = os.fstat(fd).st_size // FRAME_BYTES
        self._queues[port] = queues

    def give(self, port):
        """A port's frames are free; twice is allowed."""
        with self._lock:
            self._queues.pop(port, None)
            if not self._queues and self.fd >= 0:
                os.close(self.fd)
                self.fd = -1


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_PROT_READ_WRITE = 3
_MAP_SHARED = 1
_MAP_POPULATE = 0x8000


def map_memory(fd, size, offset=0):
    """Map `size` octets of a descriptor; returns their address. Raises OSError."""
    address = _libc.mmap(None, size, _PROT_READ_WRITE, _MAP_SHARED | _MAP_POPULATE, fd, offset)
    if address in (None, ctypes.c_void_p(-1).value):
        errno_ = ctypes.get_errno()
        raise OSError(errno_, f"mmap: {os.strerror(errno_)}")
    return address


def unmap_memory(address, size):
    """Undo `map_memory`."""
    _libc.munmap(address, size)
