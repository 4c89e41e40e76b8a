"""The DPU with vhost-user ports: bare, connected to each other past the pipeline, or as the switch it is.

A standby data plane sleeps while packets are counted; only its start takes time. It is for those that kill.
"""

import contextlib
import os
import select
import signal
import tempfile
from pathlib import Path

from dpu_runtime.api.client import Client
from examples.dpu_daemon import DpuDaemon

LOOPED, JOINED, SWITCHED = "looped", "joined", "switched"

_HEAD = """
[runtime]
socket = "{folder}/dpu.sock"
state_dir = "{folder}"
workers = [{cpu}]
standby = {standby}
"""
_PORT = """
[[port]]
name = "host{number}"
kind = "vhost_user"
socket = "{socket}"
client = {client}
"""
# No packet of a measurement goes to these addresses, of RFC 5737.
_RULE = """
[[rule]]
priority = {priority}
proto = "tcp"
dst = "198.51.100.{octet}/32"
dport = "{port}"
action = "drop"
"""


class VhostDpu:
    """A daemon that listens on each of `sockets`, its worker on `cpu`, which forwards as `variant` says.

    variant  LOOPED, JOINED or SWITCHED, for good: a port that is connected otherwise is a new one
    rules    in force when SWITCHED, none of which matches a packet that is measured
    env      environment variables for the daemon
    client   connect to the sockets instead of listening on them
    standby  have a second data plane wait
    """

    client_listens = False

    def __init__(self, sockets, cpu, folder, variant, rules=0, env=None, client=False, standby=False):
        self.sockets = sockets
        self._client = client
        self._standby = standby
        self._env = env
        self._cpu = cpu
        self._folder = Path(folder)
        self._rules = rules
        self._variant = variant
        self._config = self._folder / "dpu.toml"
        self._config.write_text(self._text())
        self._pidfd = None
        self.start_daemon()

    def start_daemon(self):
        """Start the daemon; returns when it forwards."""
        self.daemon = DpuDaemon(self._config, self._folder / "dpu.log", env=self._env)
        self.know_data_plane()

    def know_data_plane(self):
        """Have the process that forwards now be the one to end with, should nobody else end it."""
        former, self._pidfd = self._pidfd, os.pidfd_open(self.pids[0])
        if former is not None:
            os.close(former)

    def kill(self):
        """Kill the control process, then the data plane; returns when both are gone."""
        self.kill_control()
        self._kill_data_plane()

    def kill_control(self):
        """Kill the control process; the data plane goes on."""
        self.daemon.process.send_signal(signal.SIGKILL)
        self.daemon.process.wait()

    def kill_data_plane(self):
        """Kill the data plane, known before; the standby takes over if there is one."""
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _kill_data_plane(self):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        select.select([self._pidfd], [], [])
        os.close(self._pidfd)
        self._pidfd = None

    def _text(self):
        parts = [_HEAD.format(folder=self._folder, cpu=self._cpu, standby=str(self._standby).lower())]
        last = len(self.sockets) - 1
        client = str(self._client).lower()
        for number, path in enumerate(self.sockets):
            parts.append(_PORT.format(number=number, socket=path, client=client))
            if self._variant != SWITCHED:
                parts.append(f'xconnect = "host{number if self._variant == LOOPED else last - number}"\n')
        for n in range(self._rules if self._variant == SWITCHED else 0):
            parts.append(_RULE.format(priority=n + 1, octet=n % 256, port=1024 + n))
        return "".join(parts)

    def call(self, method, **params):
        """Call a method of the API."""
        with Client(f"{self._folder}/dpu.sock") as client:
            return client.call(method, **params)

    def _plane(self):
        return self.call("status")["data_plane"]

    @property
    def pids(self):
        """Processes whose threads forward."""
        return [self._plane()["data_plane_pid"]]

    def begin(self, variant):
        """Nothing to do: with packets its worker is awake."""
        assert variant == self._variant

    def rest(self):
        """Nothing to do: without packets its worker sleeps."""

    def close(self):
        """End it; twice is allowed."""
        try:
            self.daemon.stop()
        finally:
            if self._pidfd is not None:
                self._kill_data_plane()  # of a control process that did not end it

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@contextlib.contextmanager
def switch_of_two(cpu, **options):
    """A VhostDpu that is a switch of two ports, in a folder of its own; `options` as that has them."""
    with tempfile.TemporaryDirectory(prefix="dpu-bench-") as folder:
        sockets = [str(Path(folder, f"vhost{number}.sock")) for number in range(2)]
        with VhostDpu(sockets, cpu, folder, SWITCHED, **options) as dpu:
            yield dpu
