"""Which data-plane process runs on the memory: it takes it over, makes way, and takes it back.

A fresh process gets `map`, which leaves what runs alone, then `own`, its ports, and `start`. The one that ran
makes way by `pause` before `own`. It keeps its ports, and goes on by `resume`, or by itself when the control
process dies before the hand-over is done. Whose workers may run holds a lock on the memory.
Not:  what the control process does meanwhile, dpu_runtime/device/takeover.py.
"""

import contextlib
import fcntl
import os
import socket
import time
import traceback

from dpu_runtime.drivers.port import Kind
from dpu_runtime.plane.shared import SharedState

OWN_TIMEOUT_S = 10.0  # a process that was to go on and does not is gone within this
OWN_RETRY_S = 0.01


def print_trace():
    """Print the exception that is handled; where stderr went, the terminal's end say, nothing stops."""
    with contextlib.suppress(OSError):
        traceback.print_exc()


class Ownership:
    """The part of a DataPlane that takes the memory over and makes way.

    owns     this process's workers are the ones that may run on the memory
    running  they do
    paused   they did, and another process's are about to
    """

    def __init__(self):
        self.owns = self.running = self.paused = False
        self._lock_fd = -1

    # requests

    def do_map(self, message, fds):
        """Map the shared memory and make the workers; another process may still run on it."""
        self.shared_fd, self.kicks = fds[0], fds[1:]
        self.cpus = message["cpus"]
        self.shared = SharedState.attach(self.shared_fd)
        self._make_workers()
        return {"ok": True}, ()

    def do_own(self, _message, _fds):
        """Be the one process whose workers run on the memory: rows of queues are its to write."""
        self._own()
        return {"ok": True}, ()

    def do_start(self, message, _fds):
        """Start the workers and listen for adoption."""
        if not self.owns:
            self._own()
        self._listen(message["adopt_path"])
        self._start_workers()
        return {"ok": True}, ()

    def do_pause(self, _message, _fds):
        """Stop the workers at a burst boundary, for another process to go on with memory and ports."""
        self._end_workers()
        for index in [index for index in self.ports if self._kind(index) == Kind.AF_XDP]:
            self.ports.pop(index).close()  # the kernel lets nobody bind to the queue of an open socket
        self.paused, self.owns = True, False
        fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
        return {"ok": True}, ()

    def do_resume(self, _message, _fds):
        """Go on after `pause`: the other process is gone, whatever it had made of the rows of queues."""
        if self.paused:
            self._own()
            self._resume()
        return {"ok": True}, ()

    def _own(self):
        """Take the lock on the memory, of an open file of its own: one process has workers. Or OSError."""
        if self._lock_fd < 0:
            self._lock_fd = os.open(f"/proc/self/fd/{self.shared_fd}", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError("another data plane runs on this memory") from None
        self.owns = True
        for index in self.shared.devices["pairs"].nonzero()[0]:  # addresses of a process before this one
            self.shared.rings[index]["configured"] = 0

    def _listen(self, path):
        """Listen for the next control process."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        if self.listener is not None:
            self.listener.close()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(path)
        os.chmod(path, 0o600)
        self.listener.listen(1)
        self.listener_path = path

    def _accept(self):
        sock, _ = self.listener.accept()
        if self.sock is not None:
            self.sock.close()  # the newest control process is the one: it holds the state lock
        self.sock = sock

    def _resume(self):
        """Make workers and rows of queues anew, from the descriptors there are, and go on."""
        self.paused = False
        ports, backends = self.ports, self.backends
        self.ports, self.backends = {}, {}
        self._make_workers()
        for index, port in ports.items():
            try:
                self._take_back(index, port, backends.get(index))
            except (OSError, ValueError):
                print_trace()  # this one is lost, the others go on
        self._listen(self.listener_path)
        self._start_workers()

    def _take_back(self, index, port, backend):
        if backend is None:
            fds = [os.dup(fd) for fd in port.fds]
            port.close()
            self._add_port(index, self._kind(index), fds, port.layout)
            return
        snapshot, fds = backend.snapshot, [os.dup(fd) for fd in backend.fds]
        backend.stopped()
        self._add_ring_port(index)
        self.backends[index].apply(snapshot, fds)
        self._poll_rings(index)

    def _kind(self, index):
        return int(self.shared.ports[index]["kind"])

    def _go_on_alone(self):
        """The control process died between `pause` and the end of a hand-over: one of two goes on."""
        limit = time.monotonic() + OWN_TIMEOUT_S
        while time.monotonic() < limit:
            try:
                self._own()
            except OSError:  # the other one is not gone yet, or runs
                time.sleep(OWN_RETRY_S)
            else:
                self._resume()
                return
        self.stopping = True
