"""Run a function inside another network namespace.

Source: setns(2), unshare(2): the namespace is the calling thread's, so a thread of its own enters and ends;
        the process never leaves its namespace and nothing forks.
"""

import contextlib
import ctypes
import fcntl
import os
import re
import threading

from dpu_runtime.drivers.port import PortError

CLONE_NEWNET = 0x40000000  # linux/sched.h
SIOCGSKNS = 0x894C  # linux/sockios.h
_libc = ctypes.CDLL(None, use_errno=True)


def netns_path(netns):
    """Path of the namespace file of a name under /run/netns, a path, or `pid:N`; None: the caller's own."""
    if netns is None:
        return None
    if match := re.fullmatch(r"pid:(\d+)", netns):
        return f"/proc/{match[1]}/ns/net"
    return netns if netns.startswith("/") else f"/run/netns/{netns}"


def process_identity(netns):
    """Tell the process whose namespace `netns` is from any other that ever has its number.

    Its start (proc(5), /proc/PID/stat field 22) and the boot; "" for a process that is gone, None when
    `netns` names no process.
    """
    match = re.fullmatch(r"pid:(\d+)|/proc/(\d+)/.*", netns or "")
    if match is None:
        return None
    try:
        with open(f"/proc/{match[1] or match[2]}/stat", encoding="utf-8", errors="replace") as file:
            start = file.read().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return f"{start} {file.read().strip()}"


def run_in_netns(netns, function, *, port=""):
    """Call `function()` in network namespace `netns` and return its result.

    Raises PortError when the namespace does not exist or cannot be entered, and whatever
    `function` raises.
    """
    path = netns_path(netns)
    if path is None:
        return function()
    fd = open_netns(netns, port=port)

    def inside():
        if _libc.setns(fd, CLONE_NEWNET) != 0:
            errno_ = ctypes.get_errno()
            text = f"network namespace {netns!r}: {os.strerror(errno_)}"
            raise PortError(port, f"setns {path}", errno_, text)
        return function()

    try:
        return _in_thread(inside)
    finally:
        os.close(fd)


def run_in_new_netns(function, *, port=""):
    """Call `function()` in a network namespace of its own, which lasts as long as something in it does."""

    def inside():
        if _libc.unshare(CLONE_NEWNET) != 0:
            errno_ = ctypes.get_errno()
            text = f"{os.strerror(errno_)}; making a network namespace needs CAP_SYS_ADMIN (run as root)"
            raise PortError(port, "unshare", errno_, text)
        return function()

    return _in_thread(inside)


def open_netns(netns, *, port=""):
    """Open a network namespace; returns its descriptor. Raises PortError when there is none."""
    path = netns_path(netns) or "/proc/thread-self/ns/net"
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        text = f"network namespace {netns!r}: {os.strerror(error.errno)}"
        raise PortError(port, f"open {path}", error.errno, text) from None


@contextlib.contextmanager
def socket_netns(fd):
    """Path of the namespace that socket `fd` is in, whether or not it has a name any more; inside `with`."""
    namespace = fcntl.ioctl(fd, SIOCGSKNS)
    try:
        yield f"/proc/self/fd/{namespace}"
    finally:
        os.close(namespace)


def _in_thread(function):
    """Call `function()` in a thread that ends with it; returns its result, or raises what it raised."""
    outcome = {}

    def call():
        try:
            outcome["result"] = function()
        except BaseException as error:  # handed to the caller's thread
            outcome["error"] = error

    thread = threading.Thread(target=call, name="netns")
    thread.start()
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]
