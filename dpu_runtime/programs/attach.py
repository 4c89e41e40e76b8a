"""Whose network namespace `dpu attach` means, and what the port there is called.

Spec: `podman inspect` and `docker inspect`, their field State.Pid; namespaces(7), /proc/PID/ns/net.
Out:  a `netns` as a port's configuration has it, in one spelling, and a name that only that namespace has.
Not:  the daemon, which never asks an engine; anything heavy, `dpu` imports this at every start.
"""

import hashlib
import os
import re
import shutil
import subprocess

from dpu_runtime.config.errors import DaemonError

OWNER = "attach"  # of the ports that `dpu attach` makes
ENGINES = ("podman", "docker")
ENGINE_TIMEOUT_S = 10.0
NAME_CHARS_MAX = 32  # of a port
DIGEST_CHARS = 10

_PID = re.compile(r"(?:pid:|/proc/)(\d+)(?:/ns/net)?")
_NAMED = re.compile(r"(?:/var)?/run/netns/([A-Za-z0-9_.-]+)")


def find(netns=None, pid=None, container=None):
    """Return (netns, label) of the one that is given. Raises DaemonError when there is no such container."""
    if container is not None:
        return f"pid:{container_pid(container)}", container
    if pid is not None:
        return f"pid:{pid}", f"pid-{pid}"
    path = os.path.abspath(netns) if "/" in netns else netns
    if match := _PID.fullmatch(path):
        return f"pid:{match[1]}", f"pid-{match[1]}"
    match = _NAMED.fullmatch(path)
    netns = match[1] if match else path
    return netns, os.path.basename(netns)


def port_name(netns, ifname, label):
    """Name of the port behind `ifname` there: the same each time, and no other namespace's."""
    path = netns if netns.startswith("/") else f"/run/netns/{netns}"
    if match := _PID.fullmatch(netns):
        path = f"/proc/{match[1]}/ns/net"
    try:
        there, here = os.stat(path), os.stat("/proc/self/ns/net")
    except OSError as error:
        raise DaemonError(f"network namespace {netns!r}: {path}: {error.strerror}") from None
    if os.path.samestat(there, here):
        raise DaemonError(f"network namespace {netns!r} is the host's own; `dpu port add` makes a port there")
    digest = hashlib.sha256(f"{there.st_dev} {there.st_ino} {ifname}".encode()).hexdigest()[:DIGEST_CHARS]
    label = re.sub(r"[^A-Za-z0-9_.-]", "-", label)[: NAME_CHARS_MAX - DIGEST_CHARS - 1]
    return f"{label}-{digest}"


def container_pid(name):
    """Number of the first process of a running container. Raises DaemonError with what the engines say."""
    answers = {engine: _ask(engine, name) for engine in ENGINES if shutil.which(engine)}
    if not answers:
        raise DaemonError(f"container {name!r}: neither {' nor '.join(ENGINES)} is installed")
    pids = {engine: int(text) for engine, text in answers.items() if text.isdigit()}
    running = [engine for engine, pid in pids.items() if pid]
    if len(running) > 1:
        raise DaemonError(f"container {name!r}: {' and '.join(running)} have one each; --pid says which")
    if running:
        return pids[running[0]]
    if pids:
        raise DaemonError(f"container {name!r} of {next(iter(pids))} is not running")
    said = "; ".join(f"{engine}: {text}" for engine, text in answers.items())
    raise DaemonError(f"container {name!r}: {said}")


def _ask(engine, name):
    """Process number that the engine gives, else its complaint."""
    command = [engine, "inspect", "--type", "container", "--format", "{{.State.Pid}}", "--", name]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=ENGINE_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {ENGINE_TIMEOUT_S:g} s"
    except OSError as error:
        return error.strerror
    text = done.stdout.strip() if done.returncode == 0 else done.stderr.strip()
    return text.splitlines()[-1] if text else f"exit {done.returncode}"
