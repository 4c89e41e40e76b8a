"""Hosts for measurements: network namespaces without a name, each held by a process.

A pair is what a figure is taken over: `client`, `server` and the server's `address`, whatever joins the two.
The kernel ends every process started here when this one is gone, even after `kill -9`, and a namespace goes
with its last process.
"""

import contextlib
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

CLIENT_ADDRESS = "10.0.0.3"
SERVER_ADDRESS = "10.0.0.2"
PREFIX = 24
ANYWHERE = (None, None)  # CPUs of a pair's client and server: where the scheduler puts them
COMMAND_SECONDS_MAX = 120.0
LISTEN_SECONDS_MAX = 5.0
STOP_SECONDS_MAX = 3.0  # from SIGTERM to SIGKILL

# IPv6 off: such a host sends nothing of its own accord, so packets can be counted.
_HOLD = (
    "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; ip link set lo up; echo ready; exec sleep infinity"
)
_WITH_US = ["setpriv", "--pdeathsig", "KILL"]


def stop_on_signals():
    """Let SIGTERM end this process as SystemExit does, so that what is open is closed."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


def run(argv, **options):
    """Run a command to its end and return its standard output; a failure shows what it printed."""
    options = {"timeout": COMMAND_SECONDS_MAX, "text": True, "capture_output": True} | options
    argv = [*_WITH_US, *map(str, argv)]
    done = subprocess.run(argv, check=False, **options)
    if done.returncode:
        printed = f"{done.stdout or ''}{done.stderr or ''}".strip()
        raise RuntimeError(f"`{shlex.join(argv)}`: exit status {done.returncode}\n{printed}")
    return done.stdout


class Assembled:
    """Something made of parts, which `_made`, an ExitStack, takes down."""

    def close(self):
        """Take it down; twice is allowed."""
        self._made.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Host:
    """A network namespace, `cpus` (a list such as "0" or "0,1") being where its processes run."""

    def __init__(self, cpus=None):
        self._pinned = ["taskset", "-c", cpus] if cpus else []
        self._processes = []
        self._holder = self._start(["unshare", "--net", "sh", "-ec", _HOLD], stdout=subprocess.PIPE)
        if self._holder.stdout.readline() != b"ready\n":
            raise RuntimeError("a network namespace could not be made; it needs root")
        self.pid = self._holder.pid

    def _start(self, argv, **options):
        argv = [*_WITH_US, *map(str, argv)]
        process = subprocess.Popen(argv, start_new_session=True, **options)
        self._processes.append(process)
        return process

    def _inside(self, argv):
        return [*self._pinned, "nsenter", f"--net=/proc/{self.pid}/ns/net", *argv]

    def run(self, *argv, **options):
        """Run a command on the host to its end and return its standard output."""
        return run(self._inside(argv), **options)

    def start(self, *argv, **options):
        """Start a process on the host, which ends with it; without `options`, silent."""
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return self._start(self._inside(argv), **(silent | options))

    def wait_listening(self, port):
        """Wait until somebody listens on a TCP port."""
        end = time.monotonic() + LISTEN_SECONDS_MAX
        while not self._listens(port):
            if time.monotonic() > end:
                raise RuntimeError(f"nobody listens on port {port}")
            time.sleep(0.01)

    def _listens(self, port):
        # proc_net(5): local address as ADDRESS:PORT, hexadecimal; state 0A is LISTEN
        lines = Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]
        return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in lines)

    def close(self):
        """End the host's processes and with them the namespace; twice is allowed."""
        while self._processes:
            end(self._processes.pop())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def end(process, sign=signal.SIGTERM):
    """End a process: `sign`, then SIGKILL. Returns its exit status."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(sign)
    try:
        return process.wait(STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
