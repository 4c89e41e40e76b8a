"""A real daemon for tests: `dpu run` in a process of its own, and containers on its ports.

Needs root and namespaces. Sockets of the test itself are made inside a container's namespace by a
thread that enters it, so a test reads like a program that runs in both containers.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from dpu_runtime.api.client import Client, NoDaemonError
from dpu_runtime.drivers.linux.netns import run_in_netns
from dpu_runtime.plane.shared import BALANCE_IN
from tests.wires import open_wire

ROOT = Path(__file__).resolve().parents[2]
OTHER_PACKAGE = ROOT / "tests" / "live" / "other_package"  # a function of another package, as it is installed
MARK = "DPU_TEST_LIVE"  # environment variable that all processes of one daemon inherit
PING_INTERVAL_S = 0.02
START_TIMEOUT_S = 300.0  # a first start compiles
END_TIMEOUT_S = 30.0
SETTLE_TIMEOUT_S = 5.0
LEFT_SIDE = ("received", "copies", "segments")


def wait_until(condition, timeout_s=SETTLE_TIMEOUT_S, step_s=0.02):
    """Whether `condition()` comes true in time; returns its last value."""
    end = time.monotonic() + timeout_s
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(step_s)
    return value


def alive(pid):
    """Whether process `pid` is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def environment(**variables):
    """What users' daemons run with."""
    kept = {key: value for key, value in os.environ.items() if key != "DPU_SOCKET"}
    return kept | variables


def dpu_command(*words):
    """Command line of `dpu` in this checkout."""
    return [sys.executable, "-m", "dpu_runtime", *map(str, words)]


class LiveDaemon:
    """A daemon whose socket, state and log are in `folder`; it can be killed and started again.

    root  the checkout that it runs of
    path  folders with further packages
    """

    root = ROOT
    path = ()

    def __init__(self, folder):
        self.folder = Path(folder)
        self.socket = self.folder / "dpu.sock"
        self.state_dir = self.folder / "state"
        self.log_path = self.folder / "log"
        self.process = None

    def config_file(self, text="", **runtime):
        """Write a configuration with this daemon's paths; returns its path."""
        keys = {"socket": str(self.socket), "state_dir": str(self.state_dir), **runtime}
        lines = ["[runtime]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), text]
        path = self.folder / "dpu.toml"
        path.write_text("\n".join(lines))
        return path

    def spawn(self, config=None, wrap=(), options=(), terminal=None, **runtime):
        """Start `dpu run` on a file without waiting.

        wrap      goes in front of the command, `options` behind
        terminal  descriptor of one to run on, in place of the log
        """
        wrap = wrap if terminal is None else ("setsid", "--ctty", *wrap)
        config = config or self.config_file(**runtime)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*wrap, *dpu_command("run", "-c", config, *options)],
                cwd=self.root,
                env=environment(**{MARK: str(self.folder), "PYTHONPATH": self._path(self.root)}),
                stdin=subprocess.DEVNULL if terminal is None else terminal,
                stdout=log if terminal is None else terminal,
                stderr=log if terminal is None else terminal,
            )
        return self.process

    def _path(self, root):
        return os.pathsep.join(map(str, (root, *self.path)))

    def start(self, config=None, **runtime):
        """Start `dpu run` and wait until it answers."""
        process = self.spawn(config, **runtime)
        assert wait_until(lambda: process.poll() is not None or self._answers(), START_TIMEOUT_S), self.log()
        assert process.poll() is None, f"exit {process.returncode}\n{self.log()}"
        return self

    def _answers(self):
        try:
            with Client(self.socket, timeout_s=START_TIMEOUT_S) as client:
                return bool(client.call("status"))
        except NoDaemonError:
            return False

    def log(self):
        """What the daemon and its data planes wrote so far."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    def call(self, method, **params):
        """Call a method of the API."""
        with Client(self.socket) as client:
            return client.call(method, **params)

    def cli(self, *words, **options):
        """Run `dpu WORDS` to its end."""
        return subprocess.run(
            dpu_command("--socket", self.socket, *words),
            cwd=ROOT,
            env=environment(PYTHONPATH=self._path(ROOT)),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **options,
        )

    def popen(self, *words):
        """Start `dpu WORDS`."""
        return subprocess.Popen(
            dpu_command("--socket", self.socket, *words),
            cwd=ROOT,
            env=environment(PYTHONPATH=self._path(ROOT)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def status(self):
        """The data plane's part of `dpu status`."""
        return self.call("status")["data_plane"]

    def stats(self):
        """`dpu stats -j`."""
        return self.call("stats")

    def port(self, name):
        """Counters of one port."""
        return self.stats()["ports"][name]

    def drops(self, reason):
        """Packets dropped for `reason` so far."""
        return self.stats()["drops"].get(reason, 0)

    def in_hand(self):
        """Packets received or made, less those sent, dropped, merged or kept; 0 when no traffic runs."""
        balance = self.stats()["balance"]
        return sum(value if key in BALANCE_IN else -value for key, value in balance.items())

    def settled(self):
        """Whether every packet is accounted for; waits for the last ones."""
        return wait_until(lambda: self.in_hand() == 0)

    def data_plane(self):
        """Process number of the active data plane."""
        return self.status()["data_plane_pid"]

    def wait_for_standby(self):
        """Wait until a second data plane is warm."""
        pid = wait_until(lambda: self.status()["standby_pid"], START_TIMEOUT_S)
        assert pid, self.log()
        return pid

    def kill_control(self):
        """`kill -9` of the control process."""
        self.process.kill()
        self.process.wait(END_TIMEOUT_S)

    def saved(self):
        """Have the daemon write what runs to a file; returns its path."""
        path = self.folder / "saved.toml"
        assert self.cli("save", path).returncode == 0
        return path

    def stop(self, number=signal.SIGTERM):
        """End it in order; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(END_TIMEOUT_S)

    def processes(self):
        """Numbers of all its processes that are there."""
        mark = f"{MARK}={self.folder}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if mark in (entry / "environ").read_bytes().split(b"\0") and alive(entry.name):
                        found.append(int(entry.name))
                except OSError:  # it ended meanwhile
                    continue
        return found

    def close(self):
        """End whatever is left of it; twice is allowed."""
        if self.process is not None and self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill_control()
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: not self.processes()), self.processes()


class Container:
    """A network namespace behind a port of the daemon.

    number   its addresses are 10.7.0.NUMBER and, with IPv6, fd07::NUMBER
    """

    def __init__(self, daemon, namespaces, name, number, ipv6):
        self.daemon = daemon
        self.name = name
        self.ipv4 = f"10.7.0.{number}"
        self.ipv6 = f"fd07::{number:x}"
        self.addresses = [f"{self.ipv4}/24", *([f"{self.ipv6}/64"] if ipv6 else [])]
        self.netns = namespaces.create(ipv6=ipv6)
        self.ifname = "eth0"
        self._namespaces = namespaces

    def attach(self, **keys):
        """Add the port."""
        keys = {"kind": "tap", "netns": self.netns, "ifname": self.ifname, "address": self.addresses} | keys
        self.daemon.call("port.add", name=self.name, **keys)
        return self

    def run(self, *argv, **options):
        """Run a command inside."""
        return self._namespaces.run(self.netns, argv, **options)

    def popen(self, *argv, **options):
        """Start a command inside."""
        return self._namespaces.popen(self.netns, argv, **options)

    def ping(self, address, count=1, *options, **how):
        """Ping from inside, each PING_INTERVAL_S unless an option says; returns the finished process."""
        interval = () if "-f" in options else ("-i", PING_INTERVAL_S)
        return self.run("ping", "-n", "-c", count, "-W", 2, *interval, *options, address, **how)

    def inside(self, function):
        """Call `function` in a thread that is inside."""
        return run_in_netns(self.netns, function)

    def socket(self, kind=socket.SOCK_STREAM, family=socket.AF_INET, timeout_s=20.0):
        """A socket that belongs to the namespace."""
        sock = self.inside(lambda: socket.socket(family, kind))
        sock.settimeout(timeout_s)
        return sock

    def wire(self, timeout_s=2.0):
        """A packet socket on the interface: whole frames out and in."""
        return open_wire(self.netns, self.ifname, timeout_s)

    def snmp(self, protocol, name):
        """A counter of /proc/net/snmp."""
        lines = [line.split() for line in self.run("cat", "/proc/net/snmp").stdout.splitlines()]
        names, values = (line for line in lines if line[0] == f"{protocol}:")
        return int(values[names.index(name)])

    def mac(self):
        """MAC address of the interface, in text."""
        with self.wire() as wire:
            return wire.getsockname()[4].hex(":")
