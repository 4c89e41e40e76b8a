"""The channel to a data-plane process: requests that are cancelled, and nobody at the other end."""

import asyncio
import contextlib
import os
import socket

import pytest

from dpu_runtime.config.errors import DataPlaneGoneError
from dpu_runtime.device.process import Process
from dpu_runtime.plane import channel


async def receive(sock):
    """The next request at the data plane's end, with the descriptors that came with it."""
    return await asyncio.to_thread(channel.receive, sock)


@pytest.mark.parametrize("cancels", [1, 3])
def test_a_cancelled_request_is_answered_before_the_next(cancels):
    """The next one does not take its answer, and what the answer brought is closed."""

    async def main():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = Process(os.getpid(), ours)
        first = asyncio.create_task(process.request({"do": "first"}))
        assert await receive(theirs) == ({"do": "first"}, [])
        second = asyncio.create_task(process.request({"do": "second"}))
        for _ in range(cancels):
            first.cancel()
            await asyncio.sleep(0)
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):  # the second is not asked yet
            theirs.recv(1)
        theirs.setblocking(True)
        assert not first.done()
        channel.send(theirs, {"ok": True, "answers": "first"}, [theirs.fileno()])
        assert await receive(theirs) == ({"do": "second"}, [])
        channel.send(theirs, {"ok": True, "answers": "second"})
        assert await second == ({"ok": True, "answers": "second"}, [])
        assert first.cancelled()
        process.close()
        theirs.close()

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(asyncio.wait_for(main(), 20))
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_answer_that_comes_late_is_not_the_next_ones():
    async def main():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(0.05)
        process = Process(os.getpid(), ours)
        with pytest.raises(DataPlaneGoneError):
            await process.request({"do": "first"})
        with contextlib.suppress(OSError):
            theirs.send(b'{"ok": true, "answers": "first"}')
        with pytest.raises(DataPlaneGoneError):
            await process.request({"do": "second"})
        process.close()
        theirs.close()

    asyncio.run(main())


def test_nobody_to_adopt(tmp_path):
    assert Process.connect(str(tmp_path / "none.sock")) is None
    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(path))
    assert Process.connect(str(path)) is None
