"""Run a function in Linux namespaces of its own: network, mounts, processes.

What happens inside cannot reach the host's network, and the kernel removes all of it when the first process
inside ends: other processes, interfaces, namespaces' names, files under HIDDEN. Also after `kill -9`.

Source: namespaces(7), pid_namespaces(7), mount_namespaces(7).
"""

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from pathlib import Path

CLONE_NEWNS = 0x00020000  # linux/sched.h
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000  # linux/mount.h
MS_REC = 0x4000
MS_PRIVATE = 0x40000
PR_SET_PDEATHSIG = 1  # linux/prctl.h

HIDDEN = ("/run", "/var/lib")  # replaced by empty folders: names of namespaces, sockets, state
SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}

_libc = ctypes.CDLL(None, use_errno=True)


def run(function, keep=()):
    """Call `function()` inside and return its result, a process's exit status.

    keep  paths that stay visible even if they lie below a hidden one

    Inside, the first of SIGINT, SIGTERM and SIGHUP raises SystemExit(128 + its number), the next are ignored.
    """
    sys.stdout.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until both sides have their handlers
    _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID), "unshare")
    child = os.fork()
    if child == 0:
        os._exit(_inside(function, keep))

    def forward(number, _frame):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in SIGNALS:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    _, status = os.waitpid(child, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # it is over, and the exit status is what it was
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _inside(function, keep):
    """The first process inside; returns its exit status."""
    for number in SIGNALS:
        signal.signal(number, _stop)
    try:
        _prepare([Path(path) for path in keep])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        code = function()
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError):  # nobody may be reading any more
        sys.stdout.flush()
    return code


def _prepare(keep):
    _check(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    for folder in HIDDEN:
        _hide(folder, keep)
    _mount("proc", "/proc", "proc")


def _stop(number, _frame):
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _hide(folder, keep):
    """Mount an empty folder over `folder`, then put back those of `keep` that lay in it."""
    kept = {path: os.open(path, os.O_PATH) for path in keep if path.is_relative_to(folder)}
    _mount("tmpfs", folder, "tmpfs")
    for path, fd in kept.items():
        path.mkdir(parents=True, exist_ok=True)
        _mount(f"/proc/self/fd/{fd}", str(path), None, MS_BIND | MS_REC)
        os.close(fd)


def _mount(source, target, kind, flags=0):
    kind = kind and kind.encode()
    _check(_libc.mount(source.encode(), target.encode(), kind, flags, None), f"mount {target}")


def _check(result, call):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
