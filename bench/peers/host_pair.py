"""Host programs on vhost-user ports: a sender and a receiver built on libdpu, in one process and one thread.

Two programs that poll would take one CPU from each other in slices of milliseconds, so they take turns.
Source: host_pair.c, which says what its options mean.
"""

import os
import select
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.peers.compiled import compiled
from bench.peers.hosts import Host, end
from dpu_runtime.drivers.host import build_host

HERE = Path(__file__).resolve().parent
END_SECONDS_MAX = 15.0  # for connecting, and what is under way at the end


@dataclass(frozen=True)
class Line:
    """What the program printed: `what`, then what it counted.

    time_ns       CLOCK_MONOTONIC
    sent          packets handed to the DPU
    frames        packets received, `octets` of payload in them; `whole`: of the length they were sent with
    owed          received with their checksum owed and yet to be cut
    repeated      received more than once
    damaged       of those compared octet by octet
    resent        handed over again to a restarted DPU
    bufs_missing  buffers that are in no pool and in no ring
    waited_ns     time in which it was ready but had no CPU
    """

    what: str
    time_ns: int
    seconds: float
    sent: int
    frames: int
    octets: int
    whole: int
    owed: int
    repeated: int
    damaged: int
    resent: int
    reconnects: int
    bufs_missing: int
    errors: int
    waited_ns: int

    @property
    def lost(self):
        """Packets that were sent and never received; for the Line `total`."""
        return self.sent - (self.whole - self.repeated)


def parse(text):
    """Line of a printed line."""
    what, *words = text.split()
    pairs = (word.split("=") for word in words)
    return Line(what, **{key: float(value) if "." in value else int(value) for key, value in pairs})


def built():
    """Path of the program, compiled with the library in it, as long as the block lasts."""
    sources = [HERE / "host_pair.c", *sorted(build_host.HOST.glob("*.c"))]
    return compiled("host_pair", sources, ("-O3", f"-I{build_host.HOST}", "-pthread"))


class HostPair:
    """The program on `sockets` (one or two), running on `cpu`; `options` as host_pair.c has them.

    latencies  keep them, see `finish`
    """

    def __init__(self, program, sockets, cpu, *options, latencies=False):
        self._host = Host(str(cpu))
        self._latencies = None
        argv = [program, *map(str, options)]
        if latencies:
            self._latencies = Path(program).with_name(f"latencies-{self._host.pid}")
            argv += ["-l", self._latencies]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "bufsize": 0}
        self._process = self._host.start(*argv, *sockets, **pipes)

    @property
    def pids(self):
        """The process."""
        return [self._process.pid]

    def line(self, seconds_max=END_SECONDS_MAX):
        """Wait for the next line and return it as printed. Raises RuntimeError when there is none in time."""
        ready, _, _ = select.select([self._process.stdout], [], [], seconds_max)
        if not ready:
            raise RuntimeError(f"host_pair prints nothing for {seconds_max} s: no packet arrives")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"host_pair ended:\n{self._process.stderr.read().decode()}")
        return line.decode().strip()

    def wait_ready(self):
        """Wait until a packet arrived. Raises RuntimeError when none does."""
        if (line := self.line()) != "ready":
            raise RuntimeError(f"no packet arrived: {line}")

    def again(self, seconds_max):
        """Wait until a packet arrived after the link was down; returns the Line counted so far."""
        return parse(self.line(seconds_max))

    def open_files(self):
        """Number of its file descriptors."""
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def finish(self, seconds=0.0):
        """Wait for its end, `seconds` from now; returns (Line counted, Line total, uint32[] latencies)."""
        try:
            out, err = self._process.communicate(timeout=seconds + END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, err = self._process.communicate()
            err += b"it did not end"
        if self._process.returncode != 0:
            raise RuntimeError(f"host_pair: exit status {self._process.returncode}\n{err.decode()}")
        lines = {
            one.what: one for one in map(parse, (text for text in out.decode().splitlines() if "=" in text))
        }
        latencies = np.fromfile(self._latencies, np.uint32) if self._latencies else None
        return lines["counted"], lines["total"], latencies

    def stop(self):
        """End it in order; what `finish` returns."""
        self._process.terminate()
        return self.finish()

    def close(self):
        """End it at once; twice is allowed."""
        end(self._process)
        for pipe in (self._process.stdout, self._process.stderr):
            pipe.close()
        self._host.close()
        if self._latencies:
            self._latencies.unlink(missing_ok=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
