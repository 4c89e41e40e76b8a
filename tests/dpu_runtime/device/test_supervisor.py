"""The supervisor: processes that die, refuse, hang and come back, with a data plane that is none."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from dpu_runtime.config.errors import DataPlaneError, DataPlaneGoneError
from dpu_runtime.device import process as process_module
from dpu_runtime.device import supervisor as module
from dpu_runtime.device.supervisor import Supervisor
from dpu_runtime.plane import child
from tests.dpu_runtime.device.supervised import gone, scenario, until


def test_request_and_refusal(plan):
    async def work(supervisor, restored):
        reply, fds = await supervisor.request({"do": "something"})
        assert (reply["asked"], fds, reply["pid"]) == ({"do": "something"}, [], supervisor.active.pid)
        with pytest.raises(DataPlaneError, match="not today"):
            await supervisor.request({"do": "refuse"})
        assert restored == [supervisor.active.pid]
        assert supervisor.standby is None

    scenario(work, standby=False)


def test_standby_takes_over_and_is_replaced(plan):
    async def work(supervisor, restored):
        await until(lambda: supervisor.standby)
        first, second = supervisor.active.pid, supervisor.standby.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: supervisor.restarts == 1)
        assert supervisor.active.pid == second
        assert restored == [first, second]
        assert supervisor.last_gap_ms < 1000
        await until(lambda: supervisor.standby)
        assert supervisor.standby.pid not in (first, second)
        assert (await supervisor.request({"do": "x"}))[0]["pid"] == second

    scenario(work)


def test_without_a_standby_a_new_one_is_started(plan):
    async def work(supervisor, restored):
        os.kill(supervisor.active.pid, signal.SIGKILL)
        await until(lambda: supervisor.restarts == 1)
        assert restored[-1] == supervisor.active.pid != restored[0]

    scenario(work, standby=False)


def test_dead_standby_is_replaced(plan):
    async def work(supervisor, _restored):
        await until(lambda: supervisor.standby)
        dead = supervisor.standby.pid
        os.kill(dead, signal.SIGKILL)
        await until(lambda: supervisor.standby and supervisor.standby.pid != dead)
        assert supervisor.restarts == 0

    scenario(work)


def test_standby_and_active_die_together(plan):
    async def work(supervisor, _restored):
        await until(lambda: supervisor.standby)
        pids = {supervisor.standby.pid, supervisor.active.pid}
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        await until(lambda: supervisor.restarts == 1)
        assert supervisor.active.pid not in pids
        await supervisor.request({"do": "x"})

    scenario(work)


def test_stop_while_nothing_runs(plan):
    async def work(supervisor, _restored):
        plan("slow")
        os.kill(supervisor.active.pid, signal.SIGKILL)
        await until(lambda: not Path(os.environ["FAKE_PLAN"]).read_text())

    began = time.monotonic()
    scenario(work, standby=False)
    assert time.monotonic() - began < 10


def test_processes_that_do_not_start_are_tried_again(plan):
    async def work(supervisor, _restored):
        plan("die", "die", "well")
        os.kill(supervisor.active.pid, signal.SIGKILL)
        await until(lambda: supervisor.restarts == 1)
        await supervisor.request({"do": "x"})

    scenario(work, standby=False)


def test_process_that_cannot_be_given_the_ports_is_replaced(plan):
    async def restore(process, times):
        if times == 2:
            await process.request({"do": "die"})

    async def work(supervisor, restored):
        os.kill(supervisor.active.pid, signal.SIGKILL)
        await until(lambda: supervisor.restarts == 1)
        assert len(restored) == 3

    scenario(work, restore=restore)


@pytest.mark.parametrize("standby", [True, False])
def test_a_bug_while_handing_over_is_logged_and_tried_again(plan, caplog, standby):
    handed = []

    async def restore(process, times):
        handed.append(process.pid)
        if times in (2, 3):
            raise KeyError("a port nobody knows")

    async def work(supervisor, _restored):
        os.kill(supervisor.active.pid, signal.SIGKILL)
        await until(lambda: supervisor.restarts == 1)
        assert supervisor.active.pid == handed[3]
        assert (await supervisor.request({"do": "x"}))[0]["pid"] == handed[3]
        await until(lambda: all(map(gone, handed[:3])))
        os.kill(handed[3], signal.SIGKILL)  # it is watched as the ones before it
        await until(lambda: supervisor.restarts == 2)

    scenario(work, standby, restore)
    failures = [record for record in caplog.records if "a port nobody knows" in record.getMessage()]
    assert len(failures) == 2
    assert all(record.exc_info and record.levelname == "ERROR" for record in failures)


@pytest.mark.parametrize("standby", [True, False])
def test_a_system_that_refuses_processes_for_a_while(plan, caplog, standby):
    async def work(supervisor, _restored):
        if standby:
            await until(lambda: supervisor.standby)
        executable, child.sys.executable = child.sys.executable, "/nowhere/python"
        if standby:
            os.kill(supervisor.standby.pid, signal.SIGKILL)
        os.kill(supervisor.active.pid, signal.SIGKILL)
        await until(lambda: caplog.text.count("No such file") > 2)
        child.sys.executable = executable
        await until(lambda: supervisor.restarts == 1)
        await supervisor.request({"do": "x"})
        await until(lambda: supervisor.standby or not standby)

    scenario(work, standby)
    assert "data plane: [Errno 2]" in caplog.text


def test_request_waits_for_the_successor(plan):
    async def work(supervisor, _restored):
        await until(lambda: supervisor.standby)
        first = supervisor.active.pid
        os.kill(first, signal.SIGKILL)
        reply, _ = await supervisor.request({"do": "x"})
        assert reply["pid"] == supervisor.active.pid != first

    scenario(work)


def test_request_that_kills_is_not_made_for_ever(plan):
    async def work(supervisor, restored):
        with pytest.raises(DataPlaneGoneError, match="is gone"):
            await supervisor.request({"do": "die"})
        await until(lambda: len(restored) == 1 + module.REQUEST_ATTEMPTS)
        await supervisor.request({"do": "x"})

    scenario(work)


def test_stop_does_not_wait_for_a_standby_that_starts(plan):
    plan("well", "slow")

    async def work(supervisor, _restored):
        await until(lambda: not Path(os.environ["FAKE_PLAN"]).read_text())

    began = time.monotonic()
    scenario(work)
    assert time.monotonic() - began < 10


def test_stop_of_a_process_that_does_not_answer(plan, monkeypatch):
    monkeypatch.setattr(process_module, "REQUEST_TIMEOUT_S", 0.2)

    async def work(supervisor, _restored):
        os.kill(supervisor.active.pid, signal.SIGSTOP)

    scenario(work, standby=False)


# handing over


async def to_finish(process):
    await process.request({"do": "finish"})


async def to_prepare(process):
    await process.request({"do": "map"})


async def to_refuse(process):
    await process.request({"do": "refuse"})


async def history(supervisor):
    """Process that answers a request, and what it was asked before."""
    reply, _ = await supervisor.request({"do": "x"})
    return reply["pid"], reply["before"]


@pytest.mark.parametrize("standby", [True, False])
def test_a_fresh_process_goes_on_in_place_of_one_that_runs(plan, standby):
    async def work(supervisor, restored):
        if standby:
            await until(lambda: supervisor.standby)
        old = supervisor.active
        gap_ms = await supervisor.hand_over(old, to_prepare, to_finish)
        assert 0 <= gap_ms < 1000
        pid, asked = await history(supervisor)
        assert pid == supervisor.active.pid != old.pid
        assert asked == ["map", "finish"]
        assert restored == [restored[0]], "that is for one that takes over from the dead"
        assert gone(restored[0])
        assert supervisor.restarts == 0
        os.kill(pid, signal.SIGKILL)  # it is watched as the one before
        await until(lambda: supervisor.restarts == 1)

    scenario(work, standby)


def test_requests_wait_while_it_is_handed_over(plan):
    async def work(supervisor, _restored):
        async def finish(process):
            asked.append(asyncio.get_running_loop().create_task(supervisor.request({"do": "x"})))
            await asyncio.sleep(0.2)
            assert not asked[0].done()
            await process.request({"do": "finish"})

        asked = []
        await supervisor.hand_over(supervisor.active, to_prepare, finish)
        reply, _ = await asked[0]
        assert (reply["pid"], reply["before"]) == (supervisor.active.pid, ["map", "finish"])

    scenario(work, standby=False)


@pytest.mark.parametrize(
    ("prepare", "finish", "asked"),
    [
        (to_refuse, to_finish, ["attach"]),
        (to_prepare, to_refuse, ["attach", "pause", "resume"]),
    ],
)
def test_a_hand_over_that_fails_leaves_the_old_one_going_on(plan, prepare, finish, asked):
    async def work(supervisor, restored):
        await until(lambda: supervisor.standby)
        old, fresh = supervisor.active, supervisor.standby.pid
        with pytest.raises(DataPlaneError, match="not today"):
            await supervisor.hand_over(old, prepare, finish)
        assert gone(fresh)
        assert await history(supervisor) == (old.pid, asked)
        assert restored == [old.pid]

    scenario(work)


def test_a_fresh_process_that_does_not_start(plan):
    async def work(supervisor, _restored):
        plan("die")
        old = supervisor.active
        with pytest.raises(DataPlaneError, match="did not start"):
            await supervisor.hand_over(old, to_prepare, to_finish)
        assert await history(supervisor) == (old.pid, ["attach"])

    scenario(work, standby=False)


def test_an_old_one_that_dies_while_it_hands_over(plan):
    async def work(supervisor, restored):
        async def finish(_process):
            os.kill(old.pid, signal.SIGKILL)
            raise KeyError("a port nobody knows")

        old = supervisor.active
        assert await supervisor.hand_over(old, to_prepare, finish) is None
        assert supervisor.restarts == 1
        assert restored == [old.pid, supervisor.active.pid]
        assert (await history(supervisor))[1] == ["attach"]

    scenario(work, standby=False)


def test_an_old_one_that_died_before_it_was_to_hand_over(plan):
    async def work(supervisor, restored):
        old = supervisor.active
        os.kill(old.pid, signal.SIGKILL)
        assert await supervisor.hand_over(old, to_prepare, to_finish) is None
        await until(lambda: supervisor.restarts == 1)
        assert await supervisor.hand_over(old, to_prepare, to_finish) is None
        assert restored[-1] == supervisor.active.pid

    scenario(work, standby=False)


def test_an_old_one_that_does_not_pause_is_replaced_like_one_that_died(plan):
    async def work(supervisor, restored):
        old = supervisor.active
        old.sock.settimeout(0.2)
        os.kill(old.pid, signal.SIGSTOP)
        assert await supervisor.hand_over(old, to_prepare, to_finish) is None
        assert restored == [old.pid, supervisor.active.pid]

    scenario(work, standby=False)


def test_start_that_fails_says_the_exit_code(plan):
    plan("die")

    async def main():
        await Supervisor(lambda _process: None).start()

    with pytest.raises(DataPlaneError, match=r"did not start \(exit code 3\)"):
        asyncio.run(main())
