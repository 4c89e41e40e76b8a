"""The data plane's perf map: names of its machine code for `perf`, in /tmp/perf-PID.map.

Spec: linux tools/perf/Documentation/jit-interface.txt.
In:   the functions of machine_code.py. Out: a line each, `START SIZE name` in hexadecimal.
Not:  the compiler, until a map is written: the control process removes maps.

perf reads the file when it reports, so it is there as long as its process. What was inlined has no line of
its own: `dpu profile` has the time of the stages.
"""

import contextlib
import logging
import os
import re
from pathlib import Path

from dpu_runtime.config.errors import DataPlaneError

log = logging.getLogger("dpu.perf_map")

FOLDER = Path("/tmp")  # perf looks nowhere else
MARK = " dpu_runtime.plane.worker.run_worker\n"  # every map of ours has it
_NAME = re.compile(r"perf-(\d+)\.map")


def path_of(pid):
    """Where perf looks for the map of process `pid`."""
    return FOLDER / f"perf-{pid}.map"


def write():
    """Write the map of this process; what is there of an earlier one is replaced. Raises OSError."""
    from dpu_runtime.observe.machine_code import loaded  # noqa: PLC0415  (the compiler)

    text = "".join(f"{one.address:x} {one.size:x} {one.name}\n" for one in loaded())
    remove(os.getpid())
    # Anyone may write to the folder: a link that somebody laid there is not followed.
    fd = os.open(
        path_of(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644
    )
    with open(fd, "w") as file:
        file.write(text)


async def ask(process, write):
    """Have a data plane write its map, or remove it; those of dead ones go. Without a map it runs as well."""
    remove_stale()
    try:
        await process.request({"do": "perf_map", "write": write})
    except DataPlaneError as error:
        log.warning("no perf map of data plane %d: %s", process.pid, error)


def remove(pid):
    """Remove the map of a process; none is fine."""
    with contextlib.suppress(FileNotFoundError):
        path_of(pid).unlink()


def remove_stale():
    """Remove maps of ours whose process is gone: it was killed, and so was who looked after it."""
    for path in FOLDER.glob("perf-*.map"):
        name = _NAME.fullmatch(path.name)
        if name and _is_gone(name[1]) and _is_ours(path):
            remove(name[1])


def _is_gone(pid):
    """Whether process `pid` has ended; a zombie has, that its parent did not ask for yet, proc(5)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def _is_ours(path):
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, errors="replace") as file:
            return os.fstat(fd).st_uid == os.geteuid() and any(line.endswith(MARK) for line in file)
    except OSError:
        return False
