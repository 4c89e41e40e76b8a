"""Ports of the generator on libdpu: vhost-user sockets of a DPU, or of another back-end.

Out: `exchange`, the loop of host_loop.py with its ports.
"""

import contextlib

import llvmlite.binding
import numpy as np

from dpu_runtime import host
from dpu_runtime.drivers.host.build_host import EXTENSION
from dpu_runtime.host.packet import BUF_DTYPE

LIBDPU = "libdpu"
CONNECT_MS = 1000
RING_SIZE = 1024  # descriptors
assert BUF_DTYPE.fields["len"][0].itemsize == 4


class HostPorts:
    """The port to send on and, if any, the one to receive on; both may be one.

    tx, rx  paths of sockets; rx None: only send
    Raises host.DpuError, nothing left.
    """

    kind = LIBDPU

    def __init__(self, tx, rx):
        llvmlite.binding.load_library_permanently(str(EXTENSION))
        from bench.generator.host_loop import exchange_host  # noqa: PLC0415  (its calls are the library's)

        self._loop = exchange_host
        self.name = str(tx)
        self.only_sends = rx is None
        self.notes = []
        paths = list(dict.fromkeys(path for path in (tx, rx) if path is not None))
        with contextlib.ExitStack() as made:
            self.ports = {}
            for path in paths:
                options = {"connect_ms": CONNECT_MS, "ring_size": RING_SIZE, "offloads": 0}
                self.ports[path] = made.enter_context(host.open(path, **options))
            self._made = made.pop_all()
        self._tx = self.ports[tx]
        self._rx = self.ports.get(rx)

    @staticmethod
    def _address(port):
        return np.uint64(0 if port is None else port.address)

    def exchange(self, traffic, stream, epoch, until, sending):
        """Send and receive until cycle `until`; host_loop.exchange_host."""
        words = np.uint64(stream), np.uint64(epoch), np.uint64(until)
        self._loop(self._address(self._tx), self._address(self._rx), traffic, *words, sending)

    def begin(self):
        """A trial begins: nothing to do."""

    def announce(self, frame, _traffic):
        """Send a frame from the receiving end, for a switch to learn its address."""
        if self._rx is not None:
            self._rx.send(frame, timeout=1.0)

    def missed(self):
        """Packets that the receiving end lost: there is no counter."""
        return 0

    def close(self):
        """Close the ports. Twice is allowed."""
        self._made.close()
        self._tx = self._rx = None
        self.ports = {}
