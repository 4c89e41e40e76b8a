"""A supervisor whose data plane is none, fake_dataplane.py."""

import asyncio
import os
import time
from pathlib import Path

from dpu_runtime.device.supervisor import Supervisor

FAKE = Path(__file__).with_name("fake_dataplane.py")
TIMEOUT_S = 20.0


async def until(condition):
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def gone(pid):
    """Whether a process is gone, and not as a zombie."""
    return not Path(f"/proc/{pid}").exists()


def scenario(work, standby=True, restore=None, expected=()):
    """Run `work(supervisor, restored)` on a started supervisor, then end it; nothing may be left."""

    async def main():
        restored = []

        async def note(process):
            restored.append(process.pid)
            await process.request({"do": "attach"})
            if restore is not None:
                await restore(process, len(restored))

        supervisor = Supervisor(note, standby)
        supervisor.expected = frozenset(expected)
        await supervisor.start()
        try:
            await work(supervisor, restored)
        finally:
            pids = [p.pid for p in (supervisor.active, supervisor.standby) if p is not None]
            await supervisor.stop()
        assert all(map(gone, pids))
        assert supervisor.active is supervisor.standby is None

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(asyncio.wait_for(main(), TIMEOUT_S))
    assert len(os.listdir("/proc/self/fd")) <= before
