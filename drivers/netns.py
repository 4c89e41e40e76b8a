"""Run a function inside another network namespace.

Source: setns(2): the namespace is the calling thread's, so a thread of its own enters and ends;
        the process never leaves its namespace and nothing forks.
"""

import ctypes
import os
import re
import threading

from drivers.port import PortError

CLONE_NEWNET = 0x40000000  # linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)


def netns_path(netns):
    """Path of the namespace file of a name under /run/netns, a path, or `pid:N`; None: the caller's own."""
    if netns is None:
        return None
    if match := re.fullmatch(r"pid:(\d+)", netns):
        return f"/proc/{match[1]}/ns/net"
    return netns if netns.startswith("/") else f"/run/netns/{netns}"


def run_in_netns(netns, function, *, port=""):
    """Call `function()` in network namespace `netns` and return its result.

    Raises PortError when the namespace does not exist or cannot be entered, and whatever
    `function` raises.
    """
    path = netns_path(netns)
    if path is None:
        return function()
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        text = f"network namespace {netns!r}: {os.strerror(error.errno)}"
        raise PortError(port, f"open {path}", error.errno, text) from None
    outcome = {}

    def inside():
        try:
            if _libc.setns(fd, CLONE_NEWNET) != 0:
                errno_ = ctypes.get_errno()
                text = f"network namespace {netns!r}: {os.strerror(errno_)}"
                raise PortError(port, f"setns {path}", errno_, text)
            outcome["result"] = function()
        except BaseException as error:  # handed to the caller's thread
            outcome["error"] = error

    thread = threading.Thread(target=inside, name="netns")
    thread.start()
    thread.join()
    os.close(fd)
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]
