"""Find who uses a state directory, from beside it: a daemon, or a data plane whose control process died.

Source: proc(5) (/proc/locks, /proc/net/unix), unix(7).
In:   a state directory. Out: process numbers. Nobody is asked and nothing is locked.
Not:  anything heavy; `dpu status` reads it when nobody answers.
"""

import os

from dpu_runtime.config.places import ADOPT_SOCKET, LOCK

LISTENS = 0x10000  # of the flags in /proc/net/unix: __SO_ACCEPTCON
UNKNOWN = 0  # the number of a process that this one may not look at


def daemon(state_dir):
    """Process number of the daemon that has the state directory, None: it has none."""
    path = os.path.join(state_dir, LOCK)
    try:
        inode = os.stat(path).st_ino
        locks = [line.split() for line in _lines("/proc/locks")]
        if not any(words[1] == "FLOCK" and words[5].endswith(f":{inode}") for words in locks):
            return None
        return int("".join(_lines(path)))
    except (OSError, ValueError, IndexError):
        return None


def data_plane(state_dir):
    """Process number of the data plane that listens in the state directory, None: there is none."""
    path = os.path.join(state_dir, ADOPT_SOCKET)
    for line in _lines("/proc/net/unix")[1:]:
        words = line.split(None, 7)  # Num RefCount Protocol Flags Type St Inode Path
        if len(words) == 8 and words[7] == path and int(words[3], 16) & LISTENS:
            return _holder(f"socket:[{words[6]}]")
    return None


def _holder(target):
    """Number of a process that has a descriptor of `target`."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                folder = f"/proc/{name}/fd"
                if any(os.readlink(f"{folder}/{fd}") == target for fd in os.listdir(folder)):
                    return int(name)
            except OSError:  # it ended meanwhile, or is not ours
                continue
    return UNKNOWN


def _lines(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read().splitlines()
