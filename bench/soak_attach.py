"""Containers that come and go at random on one daemon, many of them killed: what is left in the end.

Size:   cycles: a container starts and is attached, others end. They are detached by name or by owner, or
        killed without a word, so that the daemon has to notice; a namespace is named by process or by path.
        Some talk, some have rules that name their port; now and then one is killed while it is attached, or
        the data plane is.
Checks: counted before and after: interfaces, descriptors, namespaces, threads and memory of both processes,
        rows of the tables, rules, what the state directory keeps; and every packet is accounted for. Nothing
        may be left, and memory may grow by no more than GROWTH_KB_MAX.
"""

import contextlib
import json
import os
import random
import signal
import socket
import tempfile
import threading
import time

from bench import results
from bench.peers import dpu
from bench.peers.hosts import Host, stop_on_signals
from dpu_runtime.config.errors import RpcError
from dpu_runtime.control.durable import Journal
from dpu_runtime.control.state import RUNTIME_VERSION
from dpu_runtime.drivers.linux.netns import run_in_netns

WORKER_CPU = 1
CYCLES, WARM_UP_CYCLES = 1000, 60
LIVE_MAX = 12  # containers at a time
GONE_SECONDS_MAX = 10.0  # until the daemon has noticed that containers are
PROGRESS_CYCLES = 100
LOG_LINES_SHOWN = 40
KILL_DATA_PLANE_EVERY = 100  # cycles, on average
GROWTH_KB_MAX = {"control process": 8 * 1024, "data plane": 8 * 1024}
SEED = 4
IFNAME = "eth0"
ETHERTYPE = 0x88B5  # for experiments, IEEE 802, 9.2.4
BROADCAST = b"\xff" * 6


class Guest:
    """A container: a process in a network namespace of its own, with a port of the daemon's."""

    def __init__(self, number, chosen):
        self.name = f"c{number}"
        self.owner = f"soak/{number}"
        self.host = Host()
        pid = self.host.pid
        self.netns = chosen.choice([f"pid:{pid}", f"/proc/{pid}/ns/net"])
        self.port = {
            "name": self.name,
            "kind": "tap",
            "owner": self.owner,
            "netns": self.netns,
            "ifname": IFNAME,
            "address": [f"10.8.{number // 250 % 250}.{number % 250 + 2}/16"],
        }

    def talk(self, frames):
        """Send broadcasts, from which the switch learns an address."""

        def inside():
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
                wire.bind((IFNAME, 0))
                for _ in range(frames):
                    wire.send(BROADCAST + wire.getsockname()[4] + ETHERTYPE.to_bytes(2, "big") + bytes(46))

        with contextlib.suppress(OSError):  # the data plane may have been killed, and its carrier be down
            run_in_netns(self.netns, inside)

    def kill(self):
        """End it as the kernel's out-of-memory killer does."""
        os.kill(self.host.pid, signal.SIGKILL)


class Soak:
    """The cycles on a daemon; `counts` says how often what happened."""

    def __init__(self, daemon, seed=SEED):
        self.daemon = daemon
        self.live = []
        self.counts = {}
        self._random = random.Random(seed)
        self._number = 0

    def cycle(self):
        """Start and attach a container, end others, perhaps kill the data plane."""
        chosen = self._random
        self._start(killed=chosen.random() < 0.05)
        if self.live and chosen.random() < 0.3:
            self._rule(chosen.choice(self.live))
        if self.live and chosen.random() < 0.5:
            chosen.choice(self.live).talk(chosen.randrange(1, 8))
        if chosen.random() < 1 / KILL_DATA_PLANE_EVERY:
            self._count("data plane killed")
            self.daemon.kill_data_plane()
        while len(self.live) > chosen.randrange(LIVE_MAX):
            self._end(self.live.pop(chosen.randrange(len(self.live))))

    def finish(self):
        """End all containers; returns when the daemon has noticed. Fails when it does not."""
        while self.live:
            self._end(self.live.pop())
        until = time.monotonic() + GONE_SECONDS_MAX
        while self.daemon.call("port.show") or self.daemon.call("rule.show"):
            assert time.monotonic() < until, f"still there: {self.daemon.call('port.show')}"
            time.sleep(0.05)

    def _count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def _start(self, killed):
        """Attach a new container; `killed`: it dies meanwhile, so that the daemon may refuse."""
        self._number += 1
        guest = Guest(self._number, self._random)
        if not killed:
            self.daemon.call("port.add", **guest.port)
            self.live.append(guest)
            return
        self._count("killed while attached")
        killer = threading.Timer(self._random.random() * 0.02, guest.kill)
        killer.start()
        with contextlib.suppress(RpcError):
            self.daemon.call("port.add", **guest.port)
        killer.join()
        guest.host.close()

    def _rule(self, guest):
        self._count("rule")
        match = {self._random.choice(["in_port", "out_port"]): guest.name, "proto": "udp", "dport": "9"}
        with contextlib.suppress(RpcError):  # the port may be gone already, with its container
            self.daemon.call("rule.add", priority=self._random.randrange(1, 1000), action="drop", **match)

    def _end(self, guest):
        way = self._random.choice(
            ["detached by name", "detached by owner", "killed", "killed, then detached"]
        )
        self._count(way)
        if way.startswith("killed"):
            guest.kill()
        if way == "detached by owner":
            self.daemon.call("port.detach", owner=guest.owner)
        elif way != "killed":
            self.daemon.call("port.detach", name=guest.name)
        guest.host.close()


def inventory(daemon):
    """What the daemon holds: {what: number}."""
    pids = {"control process": daemon.control_pid, "data plane": daemon.data_plane_pid}
    held = {f"rows of {table}": rows for table, rows in daemon.table_rows().items()}
    held["rules"] = len(daemon.call("rule.show"))
    held["interfaces"] = len(os.listdir("/sys/class/net"))
    for name, pid in pids.items():
        held[f"{name}, descriptors"] = dpu.descriptors(pid)
        held[f"{name}, namespaces"] = dpu.namespaces(pid)
        held[f"{name}, threads"] = dpu.threads(pid)
        held[f"{name}, memory"] = dpu.resident_kb(pid)
    for path in sorted((daemon.folder / "state").glob("*.json")):
        held[f"ports and rules in {path.name}"] = _kept(path)
    return held


def _kept(path):
    """Number of ports and rules in a file of the state directory."""
    if path.name == "runtime.json":
        data = Journal(path, RUNTIME_VERSION).load()
    else:
        data = json.loads(path.read_text())["config"]
    return len(data.get("port", ())) + len(data.get("rule", ()))


def grown(before, after):
    """What there is more of in `after` than in `before`, of memory more than GROWTH_KB_MAX."""
    allowed = {f"{name}, memory": kb for name, kb in GROWTH_KB_MAX.items()}
    return {
        what: f"{before.get(what, 0)} -> {number}"
        for what, number in after.items()
        if number > before.get(what, 0) + allowed.get(what, 0)
    }


def check(daemon, before):
    """Inventory once nothing more is held than `before`; fails when that does not come.

    What is just being closed, such as the connection of a request, is not left behind.
    """
    until = time.monotonic() + GONE_SECONDS_MAX
    while left := grown(before, after := inventory(daemon)):
        assert time.monotonic() < until, f"left behind: {left}"
        time.sleep(0.1)
    return after


def run(size, seed=SEED, progress=True, env=None):
    """Go through `size` cycles; returns what there is more than before, which is nothing but some memory."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dpu-bench-"))
        daemon = stack.enter_context(dpu.Dpu(folder, WORKER_CPU, standby=True, env=env))
        stack.enter_context(_log_on_failure(daemon))
        before = _warmed_up(daemon, seed)
        soak, began = Soak(daemon, seed + 1), time.monotonic()
        for cycle in range(1, size + 1):
            soak.cycle()
            if progress and cycle % PROGRESS_CYCLES == 0:
                memory = dpu.resident_kb(daemon.control_pid)
                print(
                    f"{cycle} cycles after {time.monotonic() - began:.0f} s, control process {memory} KB",
                    flush=True,
                )
        soak.finish()
        daemon.wait_for_standby()
        daemon.stats()
        seconds = time.monotonic() - began
        after = check(daemon, before)
    if progress:
        print(", ".join(f"{what}: {count}" for what, count in sorted(soak.counts.items())))
    return [
        results.result("cycles", "containers", [size]),
        results.result("a cycle", "ms", [1e3 * seconds / size]),
        *(
            results.result(
                f"more than before: {what}",
                "KB" if what.endswith("memory") else "",
                [after[what] - before.get(what, 0)],
            )
            for what in after
        ),
    ]


@contextlib.contextmanager
def _log_on_failure(daemon):
    """Show what the daemon said beside what it did, when something fails."""
    try:
        yield
    except Exception:
        said = [line for line in daemon.log().splitlines() if " INFO dpu.control: " not in line]
        print("\n".join(said[-LOG_LINES_SHOWN:]))
        raise


def _warmed_up(daemon, seed):
    """What the daemon holds after some cycles and a take-over, so with everything that is made once."""
    daemon.wait_for_standby()
    daemon.kill_data_plane()
    soak = Soak(daemon, seed)
    for _ in range(WARM_UP_CYCLES):
        soak.cycle()
    soak.finish()
    daemon.wait_for_standby()
    return inventory(daemon)


if __name__ == "__main__":
    stop_on_signals()
    results.main(
        "soak_attach",
        run,
        CYCLES,
        __doc__,
        seed={"type": int, "default": SEED, "help": f"of what is random; default: {SEED}"},
    )
