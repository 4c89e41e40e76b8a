"""What traffic notices of `kill -9`: of the data plane under iperf3, and of the control process.

Size:    times each is killed.
Figures: data plane: longest time between two answers to a `ping -i 0.002`, longest time in which the receiver
         of a TCP connection got nothing, and the take-over by the daemon's own clock; control process: echo
         requests without an answer, and the time in which the next `dpu run` adopts the running data plane.
Checks:  the TCP connection goes on; the control process's death loses nothing; the counters add up.
"""

import itertools
import json
import re
import signal
import subprocess
import tempfile
import time

from bench import results
from bench.peers.containers import Containers
from bench.peers.hosts import end, stop_on_signals

PORT = 5201
PING_INTERVAL_S = 0.002
IPERF_INTERVAL_S = 0.1
BEFORE_SECONDS = 1  # of traffic, before something is killed
AFTER_SECONDS = 3
TAKE_OVER_SECONDS_MAX = 30.0
MS_PER_S = 1e3


class Pinger:
    """`ping` every PING_INTERVAL_S, as a context manager; afterwards `sent`, `answered` and when, `times`."""

    def __init__(self, pair):
        self._pair = pair

    def __enter__(self):
        self._file = tempfile.TemporaryFile("w+")
        argv = ["ping", "-n", "-D", "-i", str(PING_INTERVAL_S), self._pair.address]
        self._process = self._pair.client.start(*argv, stdout=self._file)
        return self

    def __exit__(self, kind, *_):
        end(self._process, signal.SIGINT)
        with self._file:
            self._file.seek(0)
            printed = self._file.read()
        if kind is None:
            self.times = [
                float(time_) for time_ in re.findall(r"^\[([\d.]+)\] \d+ bytes from", printed, re.M)
            ]
            found = re.search(r"(\d+) packets transmitted, (\d+) received", printed)
            self.sent, self.answered = int(found[1]), int(found[2])


def longest_gap(times, since):
    """Longest time between two neighbours of `times`, the later one after `since`."""
    return max(later - earlier for earlier, later in itertools.pairwise(times) if later > since)


def longest_silence(intervals):
    """Longest run of iperf3's intervals without an octet, in seconds; 0 with octets in each."""
    runs = itertools.groupby(intervals, lambda interval: interval["sum"]["bytes"] == 0)
    return max((sum(i["sum"]["seconds"] for i in run) for silent, run in runs if silent), default=0.0)


def kill_data_plane(dpu):
    """Kill the data plane under traffic: (gap, silence, take-over), all in ms."""
    restarts = dpu.wait_for_standby()["restarts"]
    seconds = str(BEFORE_SECONDS + AFTER_SECONDS)
    # The client receives (-R), so that its intervals are what arrived.
    words = ["-c", dpu.address, "-p", str(PORT), "-R", "-t", seconds, "-i", str(IPERF_INTERVAL_S), "-J"]
    with tempfile.TemporaryFile("w+") as report, Pinger(dpu) as pinger:
        iperf = dpu.client.start("iperf3", *words, stdout=report, stderr=subprocess.STDOUT)
        time.sleep(BEFORE_SECONDS)
        killed_at = time.time()
        dpu.kill_data_plane()
        code = iperf.wait(BEFORE_SECONDS + AFTER_SECONDS + TAKE_OVER_SECONDS_MAX)
        report.seek(0)
        data = json.load(report)
    assert code == 0, f"the TCP connection broke: {data.get('error')}"
    assert data["intervals"][-1]["sum"]["bytes"] > 0, "the TCP connection does not go on"
    plane = dpu.status()
    assert plane["restarts"] == restarts + 1, f"{plane['restarts'] - restarts} take-overs instead of one"
    gap = longest_gap(pinger.times, killed_at) * MS_PER_S
    return gap, longest_silence(data["intervals"]) * MS_PER_S, plane["last_takeover_ms"]


def kill_control(dpu):
    """Kill the control process and start the next: (requests lost, seconds until it has adopted)."""
    dpu.wait_for_standby()
    forwarding = dpu.status()["data_plane_pid"]
    with Pinger(dpu) as pinger:
        time.sleep(BEFORE_SECONDS / 2)
        dpu.kill_control()
        time.sleep(BEFORE_SECONDS / 2)
        began = time.monotonic()
        dpu.start_daemon()
        took = time.monotonic() - began
        time.sleep(BEFORE_SECONDS / 2)
    plane = dpu.status()
    assert plane["adopted"] and plane["data_plane_pid"] == forwarding, f"not adopted: {plane}"
    # The last request may have been under way when ping was ended.
    return max(0, pinger.sent - pinger.answered - 1), took


def run(size):
    """Kill each process `size` times."""
    with Containers() as dpu:
        dpu.server.start("iperf3", "-s", "-B", dpu.address, "-p", str(PORT))
        dpu.server.wait_listening(PORT)
        gaps, silences, take_overs = zip(*[kill_data_plane(dpu) for _ in range(size)], strict=True)
        lost, adoptions = zip(*[kill_control(dpu) for _ in range(size)], strict=True)
        dpu.stats()
    step = round(IPERF_INTERVAL_S * MS_PER_S)
    assert sum(lost) == 0, f"requests lost while the control process was away: {lost}"
    return [
        results.result("data plane killed: longest gap between answers to ping", "ms", gaps),
        results.result(f"data plane killed: longest silence of TCP, to {step} ms", "ms", silences),
        results.result("data plane killed: take-over, the daemon's clock", "ms", take_overs),
        results.result("control process killed: requests lost", "packets", lost),
        results.result("control process killed: next one has adopted", "s", adoptions),
    ]


if __name__ == "__main__":
    stop_on_signals()
    results.main("recovery", run, 10, __doc__)
