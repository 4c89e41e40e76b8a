"""What a container runtime makes, reduced to its bones.

A container: namespaces for network, mounts, host name and processes, with a first process that holds them.
Not:  images and cgroups; the network interface, which is the DPU's part.
"""

import shlex
import subprocess
import time
from pathlib import Path

STOP_SECONDS_MAX = 5.0
COMMAND_SECONDS_MAX = 30.0
LISTEN_SECONDS_MAX = 5.0
# Process 1 of a container; it ends with its input, also when the demo is gone.
INIT = "echo {name} > /proc/sys/kernel/hostname; ip link set lo up; echo ready; exec cat"


class CommandError(Exception):
    """A command failed: its command line, exit status and output."""


def call(argv, check=True, shown=None):
    """Run a command to its end and return what it printed on both outputs."""
    done = subprocess.run(
        list(map(str, argv)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=COMMAND_SECONDS_MAX,
        start_new_session=True,  # Ctrl-C is for the demo, which then ends what it started
    )
    if check and done.returncode:
        shown = shown or shlex.join(map(str, argv))
        raise CommandError(f"`{shown}`: exit status {done.returncode}\n{done.stdout.strip()}")
    return done.stdout


class Container:
    """A container named `name`; its network namespace is /run/netns/NAME."""

    def __init__(self, name):
        self.name = name
        self._processes = []
        call(["ip", "netns", "add", name])
        unshare = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._init = subprocess.Popen(
            ["ip", "netns", "exec", name, *unshare, "sh", "-ec", INIT.format(name=name)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        if self._init.stdout.readline() != b"ready\n":
            raise CommandError(f"container {name} does not start")
        # `unshare --fork` stays outside; its only child is the container's process 1.
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text()
        self.pid = int(children)

    def _inside(self, argv):
        enter = ["nsenter", f"--target={self.pid}", "--net", "--mount", "--uts", "--pid", "--"]
        return [*enter, *map(str, argv)]

    def run(self, *argv, check=True):
        """Run a command in the container to its end and return what it printed."""
        return call(self._inside(argv), check, shown=f"{self.name}: {shlex.join(map(str, argv))}")

    def start(self, *argv):
        """Start a process that ends with the container."""
        process = subprocess.Popen(
            self._inside(argv), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self._processes.append(process)
        return process

    def wait_listening(self, port):
        """Wait until a process of the container listens on a TCP port."""
        end = time.monotonic() + LISTEN_SECONDS_MAX
        while not self._listens(port):
            if time.monotonic() > end:
                raise CommandError(f"nothing listens on port {port} of container {self.name}")
            time.sleep(0.02)

    def _listens(self, port):
        # proc_net(5): local address as ADDRESS:PORT, hexadecimal; state 0A is LISTEN
        lines = Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]
        return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in lines)

    def remove(self):
        """End the container: with its process 1 the kernel ends the others."""
        self._init.stdin.close()
        self._init.wait(STOP_SECONDS_MAX)
        for process in self._processes:
            process.wait(STOP_SECONDS_MAX)
        call(["ip", "netns", "del", self.name])
