"""The data-plane process: owns the cores.

It gets the shared memory, wake-up descriptors and port queues from the control process over a
channel, runs one pinned worker thread a CPU, and answers requests between them. When the control
process dies it goes on forwarding and waits on its adoption socket for the next one.

    python -m dpu_runtime.plane.dataplane CHANNEL_FD

The first message has the names of stages and tasks. It compiles these, or loads them from the cache with all
that is there already, before it says that it is ready: so a standby process takes over in milliseconds.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time

import numpy as np

from dpu_runtime.drivers.mapping import PlainQueues, map_queues
from dpu_runtime.drivers.port import close_all
from dpu_runtime.drivers.vhost_user.backend import Backend
from dpu_runtime.drivers.vhost_user.layout import FAULT_CALL, FAULT_MEMORY
from dpu_runtime.kernels.layout import PORT_UP
from dpu_runtime.observe import perf_map
from dpu_runtime.plane import channel
from dpu_runtime.plane.ownership import Ownership, print_trace
from dpu_runtime.plane.words import Control, WorkerWord

STUCK_CALL_S = 0.1  # between looks for a worker that a driver makes wait
ERROR_CHARACTERS_MAX = 1000  # of what the compiler says of an entry: all of them go in one message
PASS_TIMEOUT_S = 5.0  # every worker passes an epoch within this


class DataPlane(Ownership):
    """The process's state: workers, ports, and the channel to the control process."""

    def __init__(self, sock, prepared):
        super().__init__()
        self.sock = sock
        self.guard = prepared.guard
        self.tsc_hz = prepared.tsc_hz
        self.entries = set(prepared.entries)
        self.listener = None
        self.listener_path = None
        self.shared = None
        self.shared_fd = -1
        self.kicks = []
        self.workers = []
        self.cpus = []
        self.ports = {}  # index -> what drivers/mapping.py made of its descriptors
        self.programs = [], ()  # what do_set_programs was told last
        self.backends = {}  # index -> Backend, of ports with rings
        self.stopping = False
        self._look_at = 0.0  # time.monotonic() of the next look for a worker that a driver makes wait

    # requests, one method each; each returns (reply, descriptors)

    def do_pass_epoch(self, _message, _fds):
        """Answer when every worker has seen all that was written before."""
        self._pass_epoch()
        return {"ok": True}, ()

    def do_set_programs(self, message, _fds):
        """Run these stages at each port and hook, in this order; every worker does when this is answered."""
        programs = message["programs"], message.get("tasks", ())
        for worker in self.workers:
            worker.programs.set(*programs)
        self.programs = programs
        self.entries.update(name for one in programs[0] for name in one["stages"])
        self.entries.update(programs[1])
        self._pass_epoch()
        return {"ok": True}, ()

    def do_perf_map(self, message, _fds):
        """Write the names of this process's machine code for perf, or remove them."""
        if message["write"]:
            perf_map.write()
        else:
            perf_map.remove(os.getpid())
        return {"ok": True}, ()

    def do_add_port(self, message, fds):
        """Poll a port's n queues: worker w polls queue w. A worker beyond n only sends, on queue w mod n."""
        self._add_port(message["index"], message["kind"], fds, message["layout"])
        return {"ok": True}, ()

    def _add_port(self, index, kind, fds, layout):
        port = self.ports[index] = map_queues(kind, index, self.shared, fds, layout)
        count = len(port.queue_fds)
        for number, worker in enumerate(self.workers):
            queue = number % count
            worker.add_port(index, port.queue_fds[queue], queue, receives=number < count)

    def do_add_ring_port(self, message, _fds):
        """Make a port whose queues are rings in a guest's memory; `set_rings` says which.

        It takes packets for the guest from then on, and the guest's own from `poll_rings` on.
        """
        self._add_ring_port(message["index"])
        return {"ok": True}, ()

    def _add_ring_port(self, index):
        self.ports[index] = PlainQueues((), {})
        self.backends[index] = Backend(
            index, self.shared, self.guard, self._add_kick(index), self._del_kick, self._pass_epoch
        )

    def do_poll_rings(self, message, _fds):
        """Take packets from a port's rings."""
        self._poll_rings(message["index"])
        return {"ok": True}, ()

    def _poll_rings(self, index):
        for worker in self.workers:
            worker.add_ring_port(index)

    def do_set_rings(self, message, fds):
        """Bring a port's memory and rings to a snapshot, drivers/vhost_user/README.md."""
        self.backends[message["index"]].apply(message["snapshot"], fds)
        return {"ok": True}, ()

    def _add_kick(self, index):
        # a queue pair's rings belong to one worker, as in drivers/vhost_user/queue.py
        return lambda ring, fd: self._worker_of(ring).add_kick(index, ring, fd)

    def _del_kick(self, ring, fd):
        self._worker_of(ring).del_kick(fd)

    def _worker_of(self, ring):
        return self.workers[ring // 2 % len(self.workers)]

    def do_del_port(self, message, _fds):
        """Stop polling a port and close its queues once every worker has passed."""
        index = message["index"]
        backend = self.backends.pop(index, None)
        if backend is not None:
            backend.close()
        port = self.ports.pop(index, None)  # a process before this one may have deleted it and died
        fds = [worker.del_port(index) for worker in self.workers]
        self._pass_epoch()
        for worker, fd in zip(self.workers, fds, strict=True):
            worker.forget(fd)
        if port is not None:
            port.close()
        return {"ok": True}, ()

    def do_hello(self, _message, _fds):
        """Say who is running and what it has mapped, with memory and wake-up descriptors: for adoption."""
        reply = {"ok": True, "pid": os.getpid(), "ports": sorted(self.ports), "cpus": self.cpus}
        reply |= {"entries": sorted(self.entries), "regions": self.shared.told()}
        return reply, [self.shared_fd, *self.kicks]

    def do_get_port(self, message, _fds):
        """Hand out a port's queues, or the snapshot of its rings."""
        backend = self.backends.get(message["index"])
        if backend is not None:
            return {"ok": True, "snapshot": backend.snapshot}, backend.fds
        port = self.ports[message["index"]]
        return {"ok": True, "layout": port.layout}, port.fds

    def do_stop(self, _message, _fds):
        """End: stop the workers at a burst boundary, close every port."""
        self.stopping = True
        if self.owns:
            self._stop_workers()
        return {"ok": True}, ()

    # workers

    def _make_workers(self):
        from dpu_runtime.plane.worker_thread import WorkerThread  # noqa: PLC0415

        self.workers = [
            WorkerThread(self.shared, number, cpu, kick, len(self.cpus))
            for number, (cpu, kick) in enumerate(zip(self.cpus, self.kicks, strict=True))
        ]
        for worker in self.workers:
            worker.load()
            worker.programs.set(*self.programs)

    def _start_workers(self):
        self.shared.control[Control.TSC_HZ] = self.tsc_hz
        self.shared.control[Control.STOP] = 0
        self.running = True
        for worker in self.workers:
            worker.start()

    def _end_workers(self):
        """Stop the workers at a burst boundary, also one that a driver makes wait."""
        self.shared.control[Control.STOP] = 1
        for worker in self.workers:
            worker.kick()
        for worker in self.workers:
            while self.running and not worker.join(STUCK_CALL_S):
                self._free_workers()
        self.running = False

    # the loop

    def serve(self):
        """Answer requests until told to stop, or until a standby's control process is gone."""
        while not self.stopping:
            sources = [s for s in (self.sock, self.listener) if s is not None]
            if not sources:
                return  # a standby that nobody can reach
            timeout = STUCK_CALL_S if self.backends else None
            ready, _, _ = select.select([*sources, self.guard.event_fd], [], [], timeout)
            self._free_workers()
            if self.guard.event_fd in ready:
                self._memory_lost()
            elif self.listener in ready:
                self._accept()
            elif self.sock in ready:
                self._serve_one()

    def _free_workers(self):
        """Free a worker whose call to a driver blocks, and have that connection closed.

        A call is stuck that lasts from one look to the next, so the looks keep their distance.
        """
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + STUCK_CALL_S
        for worker in self.workers:
            fd = worker.stuck_call()
            if fd < 0:
                continue
            for index, backend in self.backends.items():
                if backend.calls_on(fd):
                    self.shared.rings[index]["fault"] = FAULT_CALL
                    self.shared.devices[index]["fault"] = FAULT_CALL
            # It is full, or the worker would not wait; if its driver empties it just now, only this waits.
            threading.Thread(target=os.eventfd_read, args=(fd,), daemon=True).start()

    def _memory_lost(self):
        """A guest took memory away that workers use: its rings stop, the control process hangs up."""
        for index in self.guard.faulted():
            self.shared.rings[index]["fault"] = FAULT_MEMORY
            self.shared.devices[index]["fault"] = FAULT_MEMORY

    def _serve_one(self):
        try:
            message, fds = channel.receive(self.sock)
            reply, reply_fds = self._dispatch(message, fds)
            channel.send(self.sock, reply, reply_fds)
        except channel.ChannelClosedError:
            self.sock.close()
            self.sock = None
            if self.paused:
                self._go_on_alone()

    def _dispatch(self, message, fds):
        method = getattr(self, "do_" + str(message.get("do")), None)
        if method is None:
            return {"ok": False, "error": f"unknown request {message.get('do')!r}"}, ()
        try:
            return method(message, fds)
        except Exception as error:
            print_trace()
            return {"ok": False, "error": f"{type(error).__name__}: {error}"}, ()

    def _pass_epoch(self):
        """Wait until every worker has seen what was written before; those that do not run use nothing."""
        if not self.running:
            return
        control = self.shared.control
        control[Control.EPOCH] += 1
        epoch = int(control[Control.EPOCH])
        for worker in self.workers:
            worker.kick()
        limit = time.monotonic() + PASS_TIMEOUT_S
        for number in range(len(self.workers)):
            while self.shared.worker_state[number, WorkerWord.SEEN_EPOCH] < epoch:
                if time.monotonic() > limit:
                    raise TimeoutError(f"worker {number} does not take the new tables (epoch {epoch})")
                self._free_workers()
                time.sleep(0.0002)

    def _stop_workers(self):
        if self.shared is None:
            return
        self._end_workers()
        for backend in self.backends.values():
            backend.stopped()
        self.backends = {}
        for index in self.ports:
            self.shared.ports[index]["flags"] &= np.uint32(~PORT_UP & 0xFFFFFFFF)
        ports, self.ports = self.ports, {}
        close_all(ports.values())
        if self.listener_path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.listener_path)


def main():
    """Serve to the end, with the signals of a terminal ignored, and go at once.

    To take compiled code apart would take the interpreter seconds. What the terminal was may be gone: what is
    written there is lost then, and nothing else.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    code = 1
    try:
        _run()
        code = 0
    except BaseException:
        print_trace()
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)


def _run():
    """Make the machine code, say so, serve."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    from dpu_runtime.plane.worker_thread import prepare  # noqa: PLC0415

    try:
        message, _ = channel.receive(sock)
    except channel.ChannelClosedError:
        return  # nobody needs it
    started = time.monotonic()
    prepared = prepare(message["prepare"])
    failed = {name: text[:ERROR_CHARACTERS_MAX] for name, text in prepared.failed.items()}
    ready = {"ready": os.getpid(), "prepare_s": round(time.monotonic() - started, 3)}
    try:
        channel.send(sock, ready | {"entries": prepared.entries, "failed": failed})
    except channel.ChannelClosedError:
        return
    plane = DataPlane(sock, prepared)
    try:
        plane.serve()
    finally:
        perf_map.remove(os.getpid())


if __name__ == "__main__":
    main()
