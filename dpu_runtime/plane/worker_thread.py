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
from typing import NamedTuple

import numpy as np

from dpu_runtime.drivers.af_xdp.rings import POOL_ARRAYS, start_queue
from dpu_runtime.drivers.io import make_io
from dpu_runtime.drivers.linux.libc import EPOLL_CTL_ADD, EPOLL_EVENT_BYTES
from dpu_runtime.drivers.load import driver_jobs, load_drivers
from dpu_runtime.drivers.vhost_user.guard import MemoryGuard, on_sigbus
from dpu_runtime.kernels.burst import make_burst
from dpu_runtime.kernels.compile.entry import lent_address, types_of
from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.compile.parallel import Job, compile_all
from dpu_runtime.kernels.compile.reference import Lent, make_types
from dpu_runtime.kernels.layout import PORTS_MAX
from dpu_runtime.kernels.octets.memory import cycles
from dpu_runtime.plane.back import back
from dpu_runtime.plane.frame import BACK, BACK_STATE, FRONT, FRONT_STATE, make_frame
from dpu_runtime.plane.front import front
from dpu_runtime.plane.program import Programs, Stages, stage_address, stage_types
from dpu_runtime.plane.shared import SharedState
from dpu_runtime.plane.words import Control, WorkerWord
from dpu_runtime.plane.worker import (
    EVENTS_MAX,
    KICK_EVENT,
    NO_FD,
    RING_EVENT_SHIFT,
    RINGS_FD,
    Worker,
    run_worker,
)
from dpu_runtime.registry import functions

log = logging.getLogger("dpu.worker")

WORKER_ENDED = 70  # exit status, EX_SOFTWARE of sysexits.h

_libc = ctypes.CDLL(None, use_errno=True)


class _EpollEvent(ctypes.Structure):
    _pack_ = 1  # linux/eventpoll.h EPOLL_PACKED
    _fields_ = (("events", ctypes.c_uint32), ("data", ctypes.c_uint64))


def make_worker(shared, number, workers, burst, epoll_fd=-1, kick_fd=-1):
    """Allocate the private memory of worker `number` of `workers` that goes with its burst, lent."""
    io = make_io(number, workers, shared)
    frame = make_frame(number, shared, io)
    worker = Worker(
        epoll_fd=epoll_fd,
        kick_fd=kick_fd,
        io=io,
        frame=frame,
        polled=np.zeros((2, 1 + PORTS_MAX), np.uint16),
        polled_version=np.zeros(1, np.uint64),
        active=np.zeros(PORTS_MAX, np.uint16),
        is_active=np.zeros(PORTS_MAX, np.uint8),
        unasked=np.zeros(1 + PORTS_MAX, np.uint16),
        looks=np.zeros(PORTS_MAX, np.uint16),
        events=np.zeros(EVENTS_MAX * EPOLL_EVENT_BYTES, np.uint8),
        words=np.zeros(4, np.uint64),
        busy=np.zeros(1, np.uint64),
        control=shared.control,
        state=shared.worker_state[number],
        port_errors=shared.port_errors,
    )
    return Lent(worker), Lent(frame)


def fused_jobs(burst, frame):
    """Jobs of the front and the back; both arguments are lent."""
    return [Job("front", front, stage_types(burst, frame)), Job("back", back, stage_types(burst, frame))]


def load_fused(burst, frame):
    """Load or compile the front and the back, for this worker to call; both arguments are lent."""
    words = frame.entries
    words[FRONT], words[BACK] = stage_address(front, burst, frame), stage_address(back, burst, frame)
    words[FRONT_STATE] = words[BACK_STATE] = lent_address(frame)


class WorkerThread:
    """Worker `number` of `workers` on CPU `cpu`, woken by writing to eventfd `kick_fd`."""

    def __init__(self, shared, number, cpu, kick_fd, workers=1):
        self.number = number
        self.cpu = cpu
        self.kick_fd = kick_fd
        self._shared = shared
        self.burst = Lent(make_burst(number, shared))
        self._epoll = select.epoll()
        self._add_to_epoll(kick_fd, KICK_EVENT)
        self.worker, self.frame = make_worker(
            shared, number, workers, self.burst, self._epoll.fileno(), kick_fd
        )
        make_types(self.worker, self.burst)
        self.stages = Stages(shared, number, self.burst, functions())
        self.programs = Programs(self.frame, self.stages)
        self._call = None
        self._thread = threading.Thread(target=self._run, name=f"worker-{number}", daemon=True)

    def _add_to_epoll(self, fd, data, events=select.EPOLLIN):
        # select.epoll cannot set the event's data, which is the port's index here.
        event = _EpollEvent(events, data)
        if _libc.epoll_ctl(self._epoll.fileno(), EPOLL_CTL_ADD, fd, ctypes.byref(event)) != 0:
            errno_ = ctypes.get_errno()
            raise OSError(errno_, f"epoll_ctl: {os.strerror(errno_)}")

    def load(self):
        """Load or compile what the loop calls: it must not begin before."""
        load_fused(self.burst, self.frame)
        load_drivers(self.worker.io, self.burst, self._shared)

    def jobs(self):
        """What is compiled beside the loop and the stages: front and back, drivers."""
        return [
            *fused_jobs(self.burst, self.frame),
            *driver_jobs(self.worker.io, self.burst, self._shared),
        ]

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
        try:
            run_worker(self.worker, self.burst)
        except BaseException:  # a stage raised: who takes over from this process has a worker again
            log.exception("worker %d ended; this data plane ends with it", self.number)
            os._exit(WORKER_ENDED)

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

    def join(self, timeout_s):
        """Wait for the end of the loop and give what it slept on back; False when it did not end in time."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        self.close()
        return True

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


def _say(number, total, name):
    """A line of progress in the daemon's log; nobody waits long without one."""
    print(f"compiling {number} of {total}: {name}", file=sys.stderr, flush=True)


class Prepared(NamedTuple):
    """What a process has before it gets memory and ports."""

    tsc_hz: int  # rate of the time-stamp counter
    guard: MemoryGuard  # of guests' memory
    entries: list  # names of the stages and tasks that are loaded
    failed: dict  # {name: text of the error} of what was to be compiled and is not


def prepare(wanted=()):
    """Load or compile the worker loop: runs it once, over memory of its own, with STOP set.

    wanted  names of stages and tasks whose machine code is to be made; what is on disk is loaded as well
    """
    shared = SharedState.create()
    shared.control[Control.STOP] = 1
    kick = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    worker = WorkerThread(shared, 0, 0, kick)
    loop = worker.worker, worker.burst
    queue = shared.xdp_queues, 0, 0, *(getattr(shared, name) for name in POOL_ARRAYS)
    of_functions, failed = worker.stages.jobs(wanted)
    jobs = [
        Job("worker", run_worker, types_of(*loop)),
        *worker.jobs(),
        *of_functions,
        Job("start_queue", start_queue, types_of(*queue)),
        Job("on_sigbus", on_sigbus),
        Job("cycles", _read_cycles),
    ]
    failed |= compile_all(jobs, _say)
    worker.load()
    failed |= worker.stages.load([job.name for job in of_functions if job.name not in failed])
    for name, error in failed.items():
        log.error("%s does not compile: %s", name, error)
    entries = [job.name for job in of_functions if job.name not in failed]
    run_worker(*loop)
    start_queue(*queue)
    guard = MemoryGuard()
    guard.install()
    worker.close()
    os.close(kick)
    os.close(shared.fd)
    return Prepared(tsc_hz(), guard, entries, failed)
