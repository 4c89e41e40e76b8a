"""redis-server on one host of a pair, redis-benchmark on the other: commands that the server answered.

Spec: redis.io, redis.conf and redis-benchmark.
In:   nothing is kept on disk.
"""

import contextlib
import csv
import re
import tempfile
from dataclasses import dataclass

PORT = 6379
COMMANDS = ("SET", "GET")
US_PER_MS = 1e3
_SETTINGS = {"save": "", "appendonly": "no", "protected-mode": "no", "daemonize": "no", "port": str(PORT)}


@dataclass(frozen=True)
class Answers:
    """Of one command: requests a second, percentiles in us."""

    rate: float
    p50: float
    p99: float


@contextlib.contextmanager
def serving(pair):
    """redis-server on the server's host; its files go when the block ends, it ends with the host."""
    with tempfile.TemporaryDirectory(prefix="dpu-bench-") as folder:
        settings = {**_SETTINGS, "bind": pair.address, "dir": folder}
        words = [word for key, value in settings.items() for word in (f"--{key}", value)]
        pair.server.start("redis-server", *words)
        pair.server.wait_listening(PORT)
        yield


def ask(pair, requests, clients, pipeline):
    """{command: Answers} of `requests` of each; AssertionError when the server did not count as many."""
    before = counted(pair)
    how = ["-c", clients, "-P", pipeline, "-n", requests, "-t", ",".join(COMMANDS).lower(), "--csv"]
    printed = pair.client.run("redis-benchmark", "-h", pair.address, "-p", PORT, *how)
    after = counted(pair)
    for command in COMMANDS:
        calls, failed = (now - then for now, then in zip(after[command], before[command], strict=True))
        assert calls >= requests, f"{pair.name}: the server saw {calls} of {requests} {command}"
        assert failed == 0, f"{pair.name}: {failed} {command} failed"
    return parse(printed)


def parse(printed):
    """{command: Answers} of redis-benchmark's CSV."""
    lines = printed[printed.index('"test"') :].splitlines()
    return {
        row["test"]: Answers(
            float(row["rps"]),
            float(row["p50_latency_ms"]) * US_PER_MS,
            float(row["p99_latency_ms"]) * US_PER_MS,
        )
        for row in csv.DictReader(lines)
    }


def counted(pair):
    """{command: (calls, those that failed or were rejected)} by the server's own count."""
    printed = pair.server.run("redis-cli", "-h", pair.address, "-p", PORT, "info", "commandstats")
    found = dict.fromkeys(COMMANDS, (0, 0))
    for line in printed.splitlines():
        if match := re.match(r"cmdstat_(\w+):calls=(\d+),.*rejected_calls=(\d+),failed_calls=(\d+)", line):
            name, calls, rejected, failed = match.groups()
            if name.upper() in found:
                found[name.upper()] = int(calls), int(rejected) + int(failed)
    return found
