"""The DPU: a daemon with default settings and two containers, each a host with a TAP port."""

import contextlib
import os
import signal
import tempfile
import time
from pathlib import Path

from bench.peers.dpu import settled_stats
from bench.peers.hosts import ANYWHERE, CLIENT_ADDRESS, PREFIX, SERVER_ADDRESS, Assembled, Host
from dpu_runtime.api.client import Client
from examples.dpu_daemon import DpuDaemon

INTERFACE = "eth0"

_HEAD = """
[runtime]
socket = "{folder}/dpu.sock"
state_dir = "{folder}"
{workers}
"""
_PORT = """
[[port]]
name = "{name}"
kind = "tap"
netns = "pid:{pid}"
ifname = "{interface}"
address = ["{address}/{prefix}"]
"""
# No packet of a measurement goes to these addresses, of RFC 5737.
RULE = """
[[rule]]
priority = {priority}
proto = "tcp"
dst = "198.51.100.{octet}/32"
dport = "{port}"
action = "drop"
"""


class Containers(Assembled):
    """A pair of hosts; see hosts.py.

    env      environment variables for the daemon
    start    False: the caller starts the daemon by `start_daemon`
    workers  their CPUs; None: as by default
    rules    in force, none of which matches a packet that is measured
    """

    name = "dpu"
    address = SERVER_ADDRESS

    def __init__(self, cpus=ANYWHERE, env=None, start=True, workers=None, rules=0):
        self._env = env
        self._workers = f"workers = {list(workers)}" if workers else ""
        self._pidfds = {}
        self.daemon = None
        with contextlib.ExitStack() as made:
            self._folder = made.enter_context(tempfile.TemporaryDirectory(prefix="dpu-bench-"))
            self.client, self.server = (made.enter_context(Host(cpu)) for cpu in cpus)
            made.callback(self._end_all)
            self._config = Path(self._folder, "dpu.toml")
            self._config.write_text(self._text(rules))
            if start:
                self.start_daemon()
            self._made = made.pop_all()

    def _text(self, rules=0):
        parts = [_HEAD.format(folder=self._folder, workers=self._workers)]
        for name, host, address in (
            ("client", self.client, CLIENT_ADDRESS),
            ("server", self.server, SERVER_ADDRESS),
        ):
            where = {"name": name, "pid": host.pid, "address": address}
            parts.append(_PORT.format(interface=INTERFACE, prefix=PREFIX, **where))
        for number in range(rules):
            parts.append(RULE.format(priority=number + 1, octet=number % 256, port=1024 + number))
        return "".join(parts)

    def start_daemon(self):
        """Start the daemon; returns when it forwards."""
        self.daemon = DpuDaemon(self._config, Path(self._folder, "dpu.log"), env=self._env)
        self.status()

    def stop_daemon(self):
        """Stop the daemon in order."""
        self.daemon.stop()

    def call(self, method, **params):
        """Call a method of the API."""
        with Client(f"{self._folder}/dpu.sock") as client:
            return client.call(method, **params)

    def status(self):
        """The data plane's part of `dpu status`."""
        plane = self.call("status")["data_plane"]
        for pid in (plane["data_plane_pid"], plane["standby_pid"]):
            if pid and pid not in self._pidfds:
                self._pidfds[pid] = os.pidfd_open(pid)
        return plane

    def wait_for_standby(self, seconds_max=60.0):
        """Wait until a warm data plane stands by; returns the data plane's part of `dpu status`."""
        end = time.monotonic() + seconds_max
        while (plane := self.status())["standby_pid"] is None:
            if time.monotonic() > end:
                raise RuntimeError("no standby data plane")
            time.sleep(0.05)
        return plane

    def set_rules(self, count):
        """Have `count` rules, none of which matches a packet that is measured."""
        self.call("config.apply", toml=self._text(count))

    def stats(self):
        """Return the counters at rest; AssertionError when they do not add up."""
        return settled_stats(self.call)

    def kill_control(self):
        """Kill the control process; the data plane goes on."""
        self.daemon.process.send_signal(signal.SIGKILL)
        self.daemon.process.wait()

    def kill_data_plane(self):
        """Kill the data plane; the control process has the standby take over."""
        signal.pidfd_send_signal(self._pidfds[self.status()["data_plane_pid"]], signal.SIGKILL)

    def _end_all(self):
        try:
            if self.daemon:
                self.stop_daemon()
        finally:
            for pidfd in self._pidfds.values():  # those that outlived their control process
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                os.close(pidfd)
            self._pidfds = {}
