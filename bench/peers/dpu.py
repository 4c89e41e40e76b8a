"""A daemon in a folder of its own, and what it holds: memory, descriptors, rows of its tables."""

import contextlib
import json
import os
import re
import signal
import time
from pathlib import Path

from dpu_runtime.api.client import Client
from dpu_runtime.kernels.switch import mac_table
from dpu_runtime.plane.shared import BALANCE_IN, SharedState
from examples.dpu_daemon import DpuDaemon

SETTLE_TRIES = 100  # readings of the counters until packets under way have arrived
SETTLE_SECONDS = 0.02  # between them
STANDBY_SECONDS_MAX = 60.0

_HEAD = """
[runtime]
socket = "{folder}/dpu.sock"
state_dir = "{folder}/state"
workers = [{cpu}]
standby = {standby}
"""


def settled_stats(call):
    """Return `call("stats")` once all packets are accounted for; AssertionError when they never are."""
    for _ in range(SETTLE_TRIES):
        stats = call("stats")
        b = stats["balance"]
        missing = sum(packets if key in BALANCE_IN else -packets for key, packets in b.items())
        if not missing:
            break
        time.sleep(SETTLE_SECONDS)
    assert missing == 0, f"{missing} packets are not accounted for: {json.dumps(b)}"
    return stats


class Dpu:
    """A daemon whose worker is on `cpu`, with its files in `folder`.

    text     of the configuration: ports and rules
    standby  have a second data plane wait; while packets are counted, only its start would take time
    env      environment variables for the daemon
    """

    def __init__(self, folder, cpu, text="", standby=False, env=None):
        self.folder = Path(folder)
        config = self.folder / "dpu.toml"
        config.write_text(_HEAD.format(folder=folder, cpu=cpu, standby=str(standby).lower()) + text)
        self._daemon = DpuDaemon(config, self.folder / "dpu.log", env=env)
        self.socket = f"{folder}/dpu.sock"

    def call(self, method, **params):
        """Call a method of the API, over a connection of its own as every `dpu` has it."""
        with Client(self.socket) as client:
            return client.call(method, **params)

    @property
    def control_pid(self):
        """The control process."""
        return self._daemon.process.pid

    @property
    def data_plane_pid(self):
        """The process that forwards."""
        return self.call("status")["data_plane"]["data_plane_pid"]

    def wait_for_standby(self):
        """Wait until a warm data plane stands by."""
        end = time.monotonic() + STANDBY_SECONDS_MAX
        while self.call("status")["data_plane"]["standby_pid"] is None:
            if time.monotonic() > end:
                raise RuntimeError("no standby data plane")
            time.sleep(0.05)

    def kill_data_plane(self):
        """Kill the data plane, so that the standby takes over."""
        pidfd = os.pidfd_open(self.data_plane_pid)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)

    def stats(self):
        """Return the counters at rest; AssertionError when they do not add up."""
        return settled_stats(self.call)

    def table_rows(self):
        """Rows in use of the tables in shared memory, {table: number}."""
        link = next(
            path
            for path in Path(f"/proc/{self.control_pid}/fd").iterdir()
            if "dpu-shared" in os.readlink(path)
        )
        fd = os.open(link, os.O_RDWR | os.O_CLOEXEC)
        try:
            shared = SharedState.attach(fd)
            switch = shared.of("switch")
            ageing = int(switch.settings[mac_table.AGEING_TICKS])
            return {
                "ports": int((shared.ports["kind"] != 0).sum()),
                "ports of floods": int(shared.active_ports[0]),
                "MAC entries": len(
                    mac_table.entries(switch.mac, shared.ports, mac_table.ticks_now(), ageing)
                ),
            }
        finally:
            os.close(fd)

    def log(self):
        """What it wrote so far."""
        return (self.folder / "dpu.log").read_text()

    def close(self):
        """End it; twice is allowed."""
        self._daemon.stop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def resident_kb(pid):
    """Memory of a process in KB, shared pages too: VmRSS of proc(5)."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def threads(pid):
    """Number of its threads."""
    return len(os.listdir(f"/proc/{pid}/task"))


def descriptors(pid):
    """Number of its file descriptors."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def namespaces(pid):
    """Number of its file descriptors that are network namespaces."""
    count = 0
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(path).startswith("net:[")
    return count


def kernel_kb():
    """Memory in KB that the kernel has for objects of its own: Slab and Percpu of proc(5), /proc/meminfo."""
    text = Path("/proc/meminfo").read_text()
    return sum(int(re.search(rf"^{name}:\s+(\d+)", text, re.M)[1]) for name in ("Slab", "Percpu"))
