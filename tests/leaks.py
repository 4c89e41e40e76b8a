"""What a test run left behind on the host: namespaces, TAP interfaces, processes.

Processes are found by an environment variable that they inherit, so also when their parent is gone.
"""

import os
import time
from pathlib import Path

from tests import netns

VARIABLE = "DPU_TEST_SESSION"
GRACE_SECONDS_MAX = 3.0  # what is ending already may end
_NOT_TESTS = b"resource_tracker"  # Python's own, it lives as long as the interpreter


def taps():
    """Names of TUN/TAP interfaces in the namespace of the test run."""
    return {path.parent.name for path in Path("/sys/class/net").glob("*/tun_flags")}


def _stat(pid):
    """State and parent of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], int(fields[1])


def processes(run=None):
    """`pid command` of what the test run `run` (this one) started and is still there."""
    run = run or os.getpid()
    mark = f"{VARIABLE}={run}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == run:
            continue
        try:
            state, parent = _stat(entry.name)
            ours = parent == run or mark in (entry / "environ").read_bytes().split(b"\0")
            command = (entry / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile, or is another user's
            continue
        if ours and state not in "ZX" and _NOT_TESTS not in command:
            found.append(f"{entry.name} {command.replace(bytes(1), b' ').decode(errors='replace').strip()}")
    return found


def left_behind(taps_before):
    """Lines that name what is left, empty when nothing is."""
    deadline = time.monotonic() + GRACE_SECONDS_MAX
    while True:
        lines = [f"namespace {name}" for name in netns.of_run(os.getpid())]
        lines += [f"interface {name}" for name in sorted(taps() - taps_before)]
        lines += [f"process {line}" for line in processes()]
        if not lines or time.monotonic() > deadline:
            return lines
        time.sleep(0.1)
