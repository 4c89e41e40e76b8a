"""Network namespaces for tests: real Linux, under names of their own, removed whatever happens.

names      dputest-PID-N, PID being the test run's; those of a run that was killed go at the next start
processes  started by `run` and `popen` only, ended by their own id, and by the kernel if the run dies
"""

import atexit
import contextlib
import itertools
import os
import re
import signal
import subprocess
from pathlib import Path

FOLDER = Path("/run/netns")
NAME = re.compile(r"dputest-(\d+)-\d+")
STOP_SECONDS_MAX = 3  # from SIGTERM to SIGKILL

_numbers = itertools.count(1)


def delete(name):
    """Remove the namespace `name`; not there is as good."""
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def of_run(pid):
    """Names of the namespaces that the test run `pid` has now."""
    if not FOLDER.is_dir():
        return []
    return sorted(p.name for p in FOLDER.iterdir() if (m := NAME.fullmatch(p.name)) and int(m[1]) == pid)


def sweep():
    """Remove what test runs left that are no more: they were killed."""
    if not FOLDER.is_dir() or os.geteuid() != 0:
        return
    for path in FOLDER.iterdir():
        match = NAME.fullmatch(path.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            delete(path.name)


class Namespaces:
    """The namespaces of one test and the processes in them."""

    def __init__(self):
        self._owner = os.getpid()
        self._names = []
        self._processes = []
        atexit.register(self.close)

    def create(self, ipv6=True):
        """Make a namespace with `lo` up; return its name.

        Without `ipv6` it sends nothing of its own accord, so that packets can be counted. With it, addresses
        are usable at once: there is no duplicate address detection to wait for.
        """
        name = f"dputest-{os.getpid()}-{next(_numbers)}"
        self._names.append(name)
        subprocess.run(["ip", "netns", "add", name], check=True)
        knob, value = ("accept_dad", 0) if ipv6 else ("disable_ipv6", 1)
        settings = [f"echo {value} > /proc/sys/net/ipv6/conf/{which}/{knob}" for which in ("all", "default")]
        self.run(name, ["sh", "-ec", "; ".join([*settings, "ip link set lo up"])])
        return name

    @staticmethod
    def _inside(name, argv):
        # `ip netns exec` would hide the cgroup mounts. The process dies with the thread that started it.
        return ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net={FOLDER / name}", *map(str, argv)]

    def run(self, name, argv, *, check=True, timeout=30, **options):
        """Run `argv` in the namespace to its end; its output is text. A failure shows that output."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | options
        done = subprocess.run(self._inside(name, argv), check=False, timeout=timeout, **options)
        assert done.returncode == 0 or not check, f"{argv} in {name}: exit {done.returncode}\n{done.stdout}"
        return done

    def popen(self, name, argv, **options):
        """Start `argv` in the namespace; it is ended with the test, if not before."""
        process = subprocess.Popen(self._inside(name, argv), start_new_session=True, **options)
        self._processes.append(process)
        return process

    @staticmethod
    def stop(process):
        """End a process of `popen` and those it started: SIGTERM, then SIGKILL."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, sign)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_SECONDS_MAX)

    def close(self):
        """End the processes, then remove the namespaces; twice is allowed."""
        if os.getpid() != self._owner:  # a forked child that ran to its exit
            return
        atexit.unregister(self.close)
        while self._processes:
            self.stop(self._processes.pop())
        while self._names:
            delete(self._names.pop())
