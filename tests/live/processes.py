"""Containers as far as networks go: a process in a network namespace of its own, which dies with it."""

import contextlib
import os
import subprocess

from tests.live.daemon import wait_until


class Processes:
    """The processes of one test."""

    def __init__(self):
        self._started = []

    def start(self):
        """Start one; returns its number once it is in its namespace."""
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "600"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self._started.append(process)
        assert wait_until(lambda: not os.path.samefile(f"/proc/{process.pid}/ns/net", "/proc/self/ns/net"))
        return process.pid

    def kill(self, pid):
        """`kill -9`, and wait for its end."""
        process = next(process for process in self._started if process.pid == pid)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait(10)

    def close(self):
        """End them all."""
        for process in self._started:
            self.kill(process.pid)
