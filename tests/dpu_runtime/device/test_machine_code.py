"""Machine code of what is switched on: made beside what runs, by the process that is the next standby."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from dpu_runtime.config.errors import DataPlaneError
from dpu_runtime.device.process import Process
from dpu_runtime.device.supervisor import Supervisor
from tests.dpu_runtime.device.supervised import gone, scenario, until


def test_what_is_missing_is_made_by_the_next_standby(plan):
    async def work(supervisor, _restored):
        await until(lambda: supervisor.standby)
        active, standby = supervisor.active, supervisor.standby
        await supervisor.have({"acl", "meter"})
        assert supervisor.active is active
        assert supervisor.standby is not standby
        assert gone(standby.pid)
        standby = supervisor.standby
        assert standby.entries == {"acl", "meter"}
        await supervisor.have({"meter"})
        assert supervisor.standby is standby
        os.kill(standby.pid, signal.SIGKILL)  # it is watched like the one before
        await until(lambda: supervisor.standby not in (None, standby))
        os.kill(active.pid, signal.SIGKILL)
        await until(lambda: supervisor.active is not active)

    scenario(work)


def test_what_is_missing_is_made_without_a_standby(plan):
    async def work(supervisor, _restored):
        await supervisor.have({"acl"})
        assert supervisor.standby is None
        plan("die")
        await supervisor.have({"acl"})

    scenario(work, standby=False)


@pytest.mark.parametrize("standby", [True, False])
def test_what_does_not_compile_changes_nothing(plan, standby):
    async def work(supervisor, restored):
        await until(lambda: supervisor.standby or not standby)
        before = supervisor.active, supervisor.standby
        with pytest.raises(DataPlaneError, match=r"^bad does not compile: line 7: no; bad2 does not"):
            await supervisor.have({"bad", "acl", "bad2"})
        plan("die")
        with pytest.raises(DataPlaneError, match=r"^no machine code of bad, meter: data plane did not start"):
            await supervisor.have({"bad", "meter", "acl"})
        assert (supervisor.active, supervisor.standby) == before
        assert restored == [supervisor.active.pid]

    scenario(work, standby=standby)


def test_it_is_the_standby_where_another_one_was_starting(plan):
    async def work(supervisor, _restored):
        await until(lambda: not Path(os.environ["FAKE_PLAN"]).read_text())  # it has begun
        assert supervisor.standby is None
        await supervisor.have({"acl"})
        assert supervisor.standby.entries == {"acl"}
        os.kill(supervisor.active.pid, signal.SIGKILL)
        await until(lambda: supervisor.restarts == 1)
        assert supervisor.active.entries == {"acl"}
        await until(lambda: supervisor.standby)
        assert supervisor.standby.entries == {"acl"}, "those that come later have it too"

    plan("well", "slow")
    scenario(work)


def test_the_active_one_dies_meanwhile(plan):
    async def work(supervisor, restored):
        await until(lambda: supervisor.standby)
        active, standby = supervisor.active, supervisor.standby
        plan("late")
        making = asyncio.create_task(supervisor.have({"acl"}))
        await until(lambda: not Path(os.environ["FAKE_PLAN"]).read_text())  # it has begun
        os.kill(active.pid, signal.SIGKILL)
        await until(lambda: supervisor.active is standby)
        assert restored == [active.pid, standby.pid], "the take-over does not wait for the compiler"
        Path(os.environ["FAKE_PLAN"] + ".go").touch()
        await making
        assert supervisor.standby.entries == {"acl"}

    scenario(work)


def test_a_daemon_that_stops_does_not_wait_for_it(plan):
    async def work(supervisor, _restored):
        plan("slow")
        making = asyncio.create_task(supervisor.have({"acl"}))
        await until(lambda: supervisor._making)
        supervisor.give_up()
        with pytest.raises(DataPlaneError, match=r"^no machine code of acl: the daemon is stopping"):
            await making

    scenario(work, standby=False)


def test_what_an_adopted_one_has_is_there_and_its_successor_has_it_too(plan):
    async def main():
        before = await Process.spawn({"acl"})
        supervisor = Supervisor(None)
        supervisor.adopt(before)
        plan("die")
        await supervisor.have({"acl"})
        plan()
        await until(lambda: supervisor.standby)
        assert supervisor.standby.entries == {"acl"}
        await supervisor.stop()

    asyncio.run(main())


def test_what_is_expected_is_there_from_the_start(plan):
    async def work(supervisor, _restored):
        assert supervisor.active.entries == {"acl"}
        await until(lambda: supervisor.standby)
        assert supervisor.standby.entries == {"acl"}
        plan("die")
        await supervisor.have({"acl"})

    scenario(work, expected={"acl"})
