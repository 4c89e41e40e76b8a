"""CPU time of the DPU without traffic: control process, data plane and standby, two ports attached.

Size: seconds.
"""

import time
from pathlib import Path

from bench import results
from bench.peers.containers import Containers
from bench.peers.hosts import stop_on_signals

NS_PER_S = 1e9
QUIET_SECONDS = 2.0  # after the start, for what starts in the background


def cpu_seconds(pid):
    """CPU time of all threads of a process: /proc/PID/task/TID/schedstat, in ns, where stat has 10 ms."""
    files = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in files) / NS_PER_S


def run(size):
    """Measure for `size` seconds; returns the share of one core by process."""
    with Containers() as dpu:
        plane = dpu.wait_for_standby()
        time.sleep(QUIET_SECONDS)
        pids = {
            "control process": dpu.daemon.process.pid,
            "data plane": plane["data_plane_pid"],
            "standby": plane["standby_pid"],
        }
        before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        packets = dpu.stats()["balance"]["received"]
        began = time.monotonic()
        time.sleep(size)
        took = time.monotonic() - began
        used = {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()}
        assert dpu.stats()["balance"]["received"] == packets, "there was traffic"
    percent = {name: 100 * seconds / took for name, seconds in used.items()}
    percent["all of them"] = sum(percent.values())
    return [results.result(f"idle: {name}", "% of a core", [share]) for name, share in percent.items()]


if __name__ == "__main__":
    stop_on_signals()
    results.main("idle", run, 30, __doc__)
