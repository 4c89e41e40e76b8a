"""One worker as a thread of the data-plane process: its private memory, its epoll set, its CPU.

The thread enters the compiled loop and stays there, without the interpreter lock, until it is told
to stop. Other threads add and remove ports beside it by single stores and epoll_ctl(2).
"""

import contextlib
import ctypes
import logging
import os
import select
import sys
import threading
import time

import numpy as np

from dpu_runtime.drivers.af_xdp.rings import POOL_ARRAYS, start_queue
from dpu_runtime.drivers.entries import driver_jobs, load_drivers
from dpu_runtime.drivers.io import make_io
from dpu_runtime.drivers.linux.libc import EPOLL_CTL_ADD, EPOLL_EVENT_BYTES
from dpu_runtime.drivers.vhost_user.guard import MemoryGuard, on_sigbus
from dpu_runtime.kernels.acl.layout import ACL_LAYOUT, Acl
from dpu_runtime.kernels.acl.verdict_cache import new_verdict_cache
from dpu_runtime.kernels.compile.jit import PYTHON_MODE, kernel
from dpu_runtime.kernels.compile.parallel import Job, compile_all
from dpu_runtime.kernels.compile.reference import Lent
from dpu_runtime.kernels.layout import PORTS_MAX
from dpu_runtime.kernels.octets.memory import cycles
from dpu_runtime.plane.batch import make_batch
from dpu_runtime.plane.shared import STAGES, Control, SharedState, WorkerWord
from dpu_runtime.plane.worker import (
    EVENTS_MAX,
    KICK_EVENT,
    NO_FD,
    RING_EVENT_SHIFT,
    RINGS_FD,
    SharedTables,
    Worker,
    run_worker,
)

if not PYTHON_MODE:
    from numba import typeof

log = logging.getLogger("dpu.worker")

_libc = ctypes.CDLL(None, use_errno=True)


class _EpollEvent(ctypes.Structure):
    _pack_ = 1  # linux/eventpoll.h EPOLL_PACKED
    _fields_ = (("events", ctypes.c_uint32), ("data", ctypes.c_uint64))


def shared_tables(shared):
    """The arrays of the shared memory in the form the compiled loop takes them."""
    stages = {
        f"acl_{stage}": Acl(**{name: getattr(shared, f"{stage}_{name}") for name in ACL_LAYOUT})
        for stage in STAGES
    }
    plain = {name: getattr(shared, name) for name in SharedTables._fields if name not in stages}
    return SharedTables(**plain, **stages)


def make_worker(shared, number, workers, batch, epoll_fd=-1, kick_fd=-1):
    """Allocate the private memory of worker `number` of `workers` that goes with its batch."""
    return Worker(
        number=number,
        epoll_fd=epoll_fd,
        kick_fd=kick_fd,
        io=make_io(number, workers, shared, batch),
        polled=np.zeros((2, 1 + PORTS_MAX), np.uint16),
        polled_version=np.zeros(1, np.uint64),
        active=np.zeros(PORTS_MAX, np.uint16),
        is_active=np.zeros(PORTS_MAX, np.uint8),
        unasked=np.zeros(1 + PORTS_MAX, np.uint16),
        looks=np.zeros(PORTS_MAX, np.uint16),
        events=np.zeros(EVENTS_MAX * EPOLL_EVENT_BYTES, np.uint8),
        words=np.zeros(4, np.uint64),
        cache_ingress=new_verdict_cache(),
        cache_egress=new_verdict_cache(),
    )


class WorkerThread:
    """Worker `number` of `workers` on CPU `cpu`, woken by writing to eventfd `kick_fd`."""

    def __init__(self, shared, number, cpu, kick_fd, workers=1):
        self.number = number
        self.cpu = cpu
        self.kick_fd = kick_fd
        self._shared = shared
        self.tables = Lent(shared_tables(shared))
        self.batch = Lent(make_batch())
        self._epoll = select.epoll()
        self._add_to_epoll(kick_fd, KICK_EVENT)
        self.worker = Lent(make_worker(shared, number, workers, self.batch, self._epoll.fileno(), kick_fd))
        self._call = None
        self._thread = threading.Thread(target=self._run, name=f"worker-{number}", daemon=True)

    def _add_to_epoll(self, fd, data, events=select.EPOLLIN):
        # select.epoll cannot set the event's data, which is the port's index here.
        event = _EpollEvent(events, data)
        if _libc.epoll_ctl(self._epoll.fileno(), EPOLL_CTL_ADD, fd, ctypes.byref(event)) != 0:
            errno_ = ctypes.get_errno()
            raise OSError(errno_, f"epoll_ctl: {os.strerror(errno_)}")

    def start(self):
        """Enter the loop."""
        self._thread.start()

    def _run(self):
        try:
            os.sched_setaffinity(0, {self.cpu})
        except OSError as error:
            log.warning("worker %d is not pinned to CPU %d: %s", self.number, self.cpu, error.strerror)
        state = self._shared.worker_state[self.number]
        state[WorkerWord.THREAD_ID] = threading.get_native_id()
        state[WorkerWord.CPU] = self.cpu
        run_worker(self.worker, self.tables, self.batch)

    def add_port(self, index, fd, queue, receives):
        """Send on queue `queue` of port `index`, whose descriptor is `fd`; poll it too when it `receives`."""
        self.worker.io.queue[index] = queue
        self.worker.io.watched[index] = receives
        self.worker.io.fds[index] = fd
        if receives:
            self._add_to_epoll(fd, index)

    def del_port(self, index):
        """Neither poll nor send; returns the descriptor, for `forget` when the worker has passed an epoch."""
        fd = int(self.worker.io.fds[index])
        self.worker.io.fds[index] = NO_FD
        if fd == RINGS_FD:
            self._set_polled([port for port in self._polled() if port != index])
        return fd

    def forget(self, fd):
        """Have epoll not watch a descriptor of a deleted port; then it may be closed."""
        if fd >= 0:
            with contextlib.suppress(OSError):  # it may only send, or be lost already
                self._epoll.unregister(fd)

    def add_ring_port(self, index):
        """Look at the rings of port `index` every round; its kicks come by `add_kick`."""
        self.worker.io.fds[index] = RINGS_FD
        self._set_polled([*self._polled(), index])

    def _polled(self):
        half = self.worker.polled[int(self.worker.polled_version[0]) & 1]
        return half[1 : 1 + half[0]].tolist()

    def _set_polled(self, ports):
        """Replace the list of ports with rings; the worker may still be reading the old one."""
        version = int(self.worker.polled_version[0]) + 1
        half = self.worker.polled[version & 1]
        half[1 : 1 + len(ports)] = ports
        half[0] = len(ports)
        self.worker.polled_version[0] = version

    def add_kick(self, index, ring, fd):
        """Take kicks of a ring of port `index` from eventfd `fd`.

        Edge-triggered, and never read: a driver could make a read of its eventfd block.
        """
        self._add_to_epoll(fd, index | (ring + 1) << RING_EVENT_SHIFT, select.EPOLLIN | select.EPOLLET)

    def del_kick(self, fd):
        """Take none from `fd` any more."""
        with contextlib.suppress(OSError):
            self._epoll.unregister(fd)

    def stuck_call(self):
        """Descriptor of a call that the worker has been making since the last look, -1: none.

        A driver can fill its eventfd and have the write block; whoever reads the descriptor frees the worker.
        """
        call = int(self.worker.io.calling[0]), int(self._shared.worker_state[self.number, WorkerWord.ROUNDS])
        before, self._call = self._call, call
        return call[0] - 1 if call[0] and call == before else -1

    def kick(self):
        """Wake the worker if it sleeps."""
        os.eventfd_write(self.kick_fd, 1)

    def join(self):
        """Wait for the end of the loop and give the private memory back."""
        self._thread.join()
        self.close()

    def close(self):
        """Give back what the loop slept on."""
        self._epoll.close()


@kernel
def _read_cycles():
    return cycles()


def tsc_hz():
    """Rate of the time-stamp counter against the monotonic clock, over 20 ms."""
    _read_cycles()  # loads the machine code, which would count as time without cycles
    began_ns, began = time.monotonic_ns(), _read_cycles()
    time.sleep(0.02)
    ended_ns, ended = time.monotonic_ns(), _read_cycles()
    return int((ended - began) * 1_000_000_000 // (ended_ns - began_ns))


def _job(name, kernel, *args):
    """A Job for calls of a kernel with such arguments."""
    return Job(name, kernel, () if PYTHON_MODE else tuple(map(typeof, args)))


def _say(number, total, name):
    """A line of progress in the daemon's log; nobody waits long without one."""
    print(f"compiling {number} of {total}: {name}", file=sys.stderr, flush=True)


def prepare():
    """Load or compile the worker loop: runs it once, over memory of its own, with STOP set.

    Returns the rate of the time-stamp counter in Hz, and the guard of guests' memory.
    """
    shared = SharedState.create()
    shared.control[Control.STOP] = 1
    kick = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    worker = WorkerThread(shared, 0, 0, kick)
    drivers = worker.worker.io, worker.batch, shared.drops[0]
    loop = worker.worker, worker.tables, worker.batch
    queue = shared.xdp_queues, 0, 0, *(getattr(shared, name) for name in POOL_ARRAYS)
    jobs = [
        _job("run_worker", run_worker, *loop),
        *driver_jobs(*drivers),
        _job("start_queue", start_queue, *queue),
        Job("on_sigbus", on_sigbus),
        _job("read_cycles", _read_cycles),
    ]
    for name, error in compile_all(jobs, _say).items():
        log.error("%s does not compile: %s", name, error)
    run_worker(*loop)
    load_drivers(*drivers)
    start_queue(*queue)
    guard = MemoryGuard()
    guard.install()
    worker.close()
    os.close(kick)
    os.close(shared.fd)
    return tsc_hz(), guard
