"""`dpu profile` on a real daemon, and the symbols of its machine code for perf."""

import contextlib
import json
import os
import threading

import pytest

from dpu_runtime.config.errors import RpcError
from dpu_runtime.observe.profile import Profiler
from dpu_runtime.observe.syscall_counts import SyscallCounts
from tests.live.daemon import wait_until

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2", "iputils-ping")]


def profiled(dpu, seconds):
    done = dpu.cli("profile", "-j", "--seconds", seconds)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def shares(worker):
    """Of the stages, polling and sleep: all of the time."""
    stages = sum(stage["share"] for stage in worker["stages"].values())
    return stages + worker["polling"] + worker["sleeping"]


def test_a_worker_without_packets_sleeps(dpu):
    for worker in profiled(dpu, 0.5)["workers"]:
        assert worker["sleeping"] > 0.9
        assert shares(worker) == pytest.approx(1, abs=0.02)
        assert worker["syscalls"]["epoll_wait"]["share"] > 0.9


def test_stages_and_system_calls_of_pings(dpu):
    a, b = dpu.container("a"), dpu.container("b")
    assert a.ping(b.ipv4).returncode == 0
    pings = a.popen("ping", "-n", "-q", "-i", "0.002", "-c", "400", b.ipv4)
    profile = profiled(dpu, 0.5)
    pings.wait(10)
    workers = [worker for worker in profile["workers"] if worker["packets"]]
    assert workers and not profile["notes"]
    for worker in workers:
        assert {"rx", "parse", "switch", "tx"} <= set(worker["stages"])
        assert worker["stages"]["rx"]["packets"] == worker["packets"] > 10
        assert shares(worker) == pytest.approx(1, abs=0.02)
        calls = worker["syscalls"]
        assert calls["readv"]["per_second"] * profile["seconds"] >= worker["packets"]
        assert calls["writev"]["us_mean"] > 0
    text = dpu.cli("profile", "--seconds", 0.1).stdout
    assert "TIME IN" in text and "OF IT, IN" in text


def test_one_profile_at_a_time_and_what_is_attached_goes(dpu):
    first = threading.Thread(target=dpu.call, args=("profile",), kwargs={"seconds": 1.5})
    first.start()
    pid = dpu.process.pid

    def attached():
        count = 0
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # a connection's, which ended meanwhile
                count += "bpf" in os.readlink(f"/proc/{pid}/fd/{fd}")
        return count

    assert wait_until(lambda: attached() == 5, 1.0)
    with pytest.raises(RpcError, match=r"a profile is being taken already, for another [01]\.[0-9] s"):
        dpu.call("profile", seconds=0.1)
    first.join()
    assert wait_until(lambda: attached() == 0)


def test_system_calls_of_a_thread_are_counted_one_by_one():
    thread = threading.get_native_id()
    with open("/dev/null", "rb") as null, SyscallCounts([thread]) as counts:
        for _ in range(1000):
            os.read(null.fileno(), 1)
        counted = counts.read(thread)
    assert counted["read"][0] == 1000 and counted["read"][1] > 0


def test_what_a_host_does_not_tell_is_said_in_words(dpu, monkeypatch):
    """A host that has neither raw tracepoints nor the scheduler's account."""
    del dpu
    import asyncio

    from dpu_runtime.observe import profile
    from dpu_runtime.plane.shared import SharedState
    from dpu_runtime.plane.words import Control

    def refuse(_threads):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(profile, "SyscallCounts", refuse)
    shared = SharedState.create()
    shared.control[Control.TSC_HZ] = 10**9
    try:
        made = asyncio.run(Profiler().profile(shared, [0], [], 0.1))
    finally:
        os.close(shared.fd)
    assert made["notes"] == ["system calls are not counted: Operation not permitted"]
    (worker,) = made["workers"]
    assert "syscalls" not in worker and "sleeping" not in worker
    assert "CONFIG_SCHED_INFO" in worker["notes"][0]
    assert worker["polling_or_sleeping"] == 1
