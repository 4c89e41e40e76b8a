"""Whose workers run, and when they have passed an epoch: a data plane whose workers are threads of Python."""

import contextlib
import os
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from dpu_runtime.drivers.port import Kind
from dpu_runtime.kernels.layout import PORT_UP
from dpu_runtime.plane import channel, ownership
from dpu_runtime.plane import dataplane as module
from dpu_runtime.plane.dataplane import DataPlane
from dpu_runtime.plane.shared import SharedState
from dpu_runtime.plane.words import Control, WorkerWord

WORKERS = 2
WAIT_S = 5.0
MADE = []  # workers of all data planes of a test


class Worker:
    """What `WorkerThread` is to a data plane. One that is `stuck` waits until its eventfd is read."""

    def __init__(self, shared, number):
        self.shared, self.number = shared, number
        self.ports = {}
        self.stuck = None
        self.deaf = False
        self.programs = SimpleNamespace(set=lambda programs, tasks: None)
        self.thread = threading.Thread(target=self._run, daemon=True)
        MADE.append(self)

    def start(self):
        self.thread.start()

    def _run(self):
        while not self.shared.control[Control.STOP]:
            if self.stuck is not None:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_write(self.stuck, 1)
                    self.stuck = None
            elif not self.deaf:
                epoch = self.shared.control[Control.EPOCH]
                self.shared.worker_state[self.number, WorkerWord.SEEN_EPOCH] = epoch
            time.sleep(0.001)

    def kick(self):
        pass

    def join(self, timeout_s):
        self.thread.join(timeout_s)
        return not self.thread.is_alive()

    def add_port(self, index, fd, queue, receives):
        self.ports[index] = os.fstat(fd).st_ino, queue, receives

    def del_port(self, index):
        return self.ports.pop(index, None) and -1

    def forget(self, fd):
        pass

    def stuck_call(self):
        return -1 if self.stuck is None else self.stuck


class Plane(DataPlane):
    def __init__(self, sock):
        guard = SimpleNamespace(event_fd=os.eventfd(0))
        super().__init__(sock, SimpleNamespace(tsc_hz=10**9, guard=guard, entries=[]))

    def _make_workers(self):
        self.workers = [Worker(self.shared, number) for number in range(len(self.cpus))]

    def ask(self, do, fds=(), **message):
        return self._dispatch({"do": do, **message}, fds)[0]


@pytest.fixture
def shared():
    state = SharedState.create(WORKERS)
    yield state
    state.control[Control.STOP] = 1
    os.close(state.fd)


@pytest.fixture
def make(shared, socket_dir):
    """Make a data plane that has the memory mapped: `make()`; its channel's other end is `plane.other`."""
    MADE.clear()

    def make():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        plane = Plane(theirs)
        plane.other = ours
        kicks = [os.eventfd(0) for _ in range(WORKERS)]
        plane.path = str(socket_dir / "adopt")
        assert plane.ask("map", [os.dup(shared.fd), *kicks], cpus=[0, 1])["ok"]
        return plane

    return make


@pytest.fixture
def plane(make):
    """One that runs."""
    plane = make()
    start(plane)
    return plane


def start(plane):
    assert plane.ask("own")["ok"]
    assert plane.ask("start", adopt_path=plane.path)["ok"]


def test_what_it_has_machine_code_of_is_said_to_the_next_control_process(plane):
    assert plane.ask("hello")["entries"] == []
    programs = [{"hook": "ingress", "stages": ["b", "a"], "ports": [0]}]
    assert plane.ask("set_programs", programs=programs, tasks=["t"])["ok"]
    assert plane.ask("set_programs", programs=[])["ok"]
    assert plane.ask("hello")["entries"] == ["a", "b", "t"]


def running(count):
    """Whether so many workers run, soon."""
    end = time.monotonic() + WAIT_S
    while (found := sum(worker.thread.is_alive() for worker in MADE)) != count:
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return found == count


def add_null_port(plane, index):
    fds = [os.eventfd(0) for _ in range(WORKERS)]
    plane.shared.ports[index]["kind"] = Kind.NULL
    assert plane.ask("add_port", fds, index=index, kind=Kind.NULL, layout={})["ok"]
    return [os.fstat(fd).st_ino for fd in fds]


# epochs


def test_an_epoch_is_passed_when_every_worker_has_seen_it(plane, shared):
    for epoch in range(1, 6):
        assert plane.ask("pass_epoch") == {"ok": True}
        assert shared.control[Control.EPOCH] == epoch
        assert (shared.worker_state[:, WorkerWord.SEEN_EPOCH] >= epoch).all()


def test_epochs_of_requests_and_of_the_data_plane_itself_are_one_count(plane, shared):
    add_null_port(plane, 3)
    plane.ask("pass_epoch")
    assert plane.ask("del_port", index=3)["ok"]
    plane.ask("pass_epoch")
    assert shared.control[Control.EPOCH] == 3


def test_a_worker_that_passes_none_is_an_error_in_time(plane, monkeypatch):
    monkeypatch.setattr(module, "PASS_TIMEOUT_S", 0.1)
    plane.workers[1].deaf = True
    began = time.monotonic()
    reply = plane.ask("pass_epoch")
    assert reply["error"] == "TimeoutError: worker 1 does not take the new tables (epoch 1)"
    assert time.monotonic() - began < WAIT_S
    plane.workers[1].deaf = False
    assert plane.ask("pass_epoch")["ok"]


def test_a_worker_that_a_driver_makes_wait_is_freed_to_pass(plane, monkeypatch):
    monkeypatch.setattr(module, "STUCK_CALL_S", 0.02)
    full = os.eventfd(0, os.EFD_NONBLOCK)
    os.eventfd_write(full, (1 << 64) - 2)
    plane.workers[0].stuck = full
    assert plane.ask("pass_epoch")["ok"]
    assert plane.workers[0].stuck is None


def test_workers_that_do_not_run_have_nothing_in_use(make, shared):
    plane = make()
    began = time.monotonic()
    assert plane.ask("pass_epoch")["ok"]
    assert time.monotonic() - began < 1.0
    assert shared.control[Control.EPOCH] == 0


# ownership


def test_a_fresh_one_prepares_while_another_one_runs(plane, make, shared):
    fresh = make()
    queues = add_null_port(fresh, 5)
    assert [worker.ports[5] for worker in fresh.workers] == [(queues[0], 0, True), (queues[1], 1, True)]
    assert running(WORKERS)
    assert plane.ask("pass_epoch")["ok"]
    assert shared.control[Control.STOP] == 0
    assert fresh.ask("stop")["ok"]
    assert running(WORKERS), "what another one runs is not stopped"


@pytest.mark.parametrize("request_", ["own", "start"])
def test_two_do_not_run_at_once(plane, make, request_):
    reply = make().ask(request_, adopt_path=plane.path)
    assert reply == {"ok": False, "error": "OSError: another data plane runs on this memory"}
    assert running(WORKERS)


def test_hand_over(plane, make, shared):
    fresh = make()
    add_null_port(fresh, 5)
    assert plane.ask("pause")["ok"]
    assert running(0)
    start(fresh)
    assert running(WORKERS)
    shared.ports[5]["flags"] = PORT_UP
    assert plane.ask("stop")["ok"]
    assert plane.stopping and not fresh.stopping
    assert running(WORKERS)
    assert shared.ports[5]["flags"] == PORT_UP, "rows are the fresh one's"
    assert os.path.exists(plane.path)
    assert fresh.ask("pass_epoch")["ok"]


def test_one_that_paused_goes_on_with_its_ports(plane, shared):
    queues = add_null_port(plane, 5)
    assert plane.ask("pause")["ok"]
    assert running(0)
    before = plane.workers
    assert plane.ask("resume")["ok"]
    assert running(WORKERS)
    assert plane.workers is not before
    assert [worker.ports[5] for worker in plane.workers] == [(queues[0], 0, True), (queues[1], 1, True)]
    assert plane.ask("pass_epoch")["ok"]
    assert plane.ask("resume")["ok"], "twice is nothing"
    assert running(WORKERS)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(plane.path)


def serve(plane):
    thread = threading.Thread(target=plane.serve, daemon=True)
    thread.start()
    return thread


def test_when_the_control_process_dies_in_between_the_paused_one_goes_on(plane, make):
    fresh = make()
    serve(plane)
    channel.send(plane.other, {"do": "pause"})
    assert channel.receive(plane.other)[0]["ok"]
    assert running(0)
    assert fresh.ask("own")["ok"]
    plane.other.close()
    time.sleep(0.1)
    assert running(0), "the fresh one may be writing rows"
    os.close(fresh._lock_fd)  # it ends: nobody can reach it
    assert running(WORKERS)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(WAIT_S)
        sock.connect(plane.path)
        channel.send(sock, {"do": "hello"})
        hello, fds = channel.receive(sock)
        assert hello["regions"] == plane.shared.told()
        assert len(fds) == 1 + WORKERS


def test_when_the_control_process_dies_after_it_the_paused_one_ends(plane, make, monkeypatch):
    monkeypatch.setattr(ownership, "OWN_TIMEOUT_S", 0.2)
    fresh = make()
    served = serve(plane)
    channel.send(plane.other, {"do": "pause"})
    assert channel.receive(plane.other)[0]["ok"]
    start(fresh)
    plane.other.close()
    served.join(WAIT_S)
    assert not served.is_alive()
    assert running(WORKERS)
    assert fresh.ask("pass_epoch")["ok"]


def test_a_memory_of_another_version_is_refused(make, shared):
    plane = make()
    fd = os.memfd_create("foreign", 0)
    os.ftruncate(fd, 1 << 20)
    reply = plane.ask("map", [fd], cpus=[])
    assert reply["error"] == "ValueError: shared memory was laid out by another version of dpu-runtime"
