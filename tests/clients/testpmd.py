"""DPDK's testpmd as a process, driven through its prompt; either end of vhost-user.

    with Testpmd(virtio_user(path, mac=MAC), cpu=0) as pmd:
        pmd.forward("icmpecho")
        pmd.start()

In:   devices, made by `virtio_user` (the driver's side) and `vhost` (the device's side).
Out:  ports 0, 1, ... of testpmd in that order.
Spec: DPDK 22.11, "Testpmd Application User Guide".
Not:  physical devices. One CPU runs all of it: the prompt sleeps unless something is typed.
"""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import time

from bench.peers.hugepages import hugepages

PROMPT = "testpmd> "
START_TIMEOUT_S = 30.0
COMMAND_TIMEOUT_S = 10.0
END_TIMEOUT_S = 5.0
BURST = 32  # packets, what testpmd sends at once
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|\r")  # what a terminal would act on


class TestpmdError(Exception):
    """testpmd ended, or did not answer; with what it wrote last."""

    __test__ = False


def virtio_user(
    path,
    mac=None,
    queues=1,
    queue_size=256,
    packed=False,
    mrg_rxbuf=True,
    in_order=True,
    server=False,
    **more,
):
    """A virtio-net driver on the vhost-user socket `path`; as `server` it listens there itself."""
    keys = {"path": path, "queues": queues, "queue_size": queue_size, "packed_vq": int(packed)}
    keys |= {"mrg_rxbuf": int(mrg_rxbuf), "in_order": int(in_order), "server": int(server)}
    keys |= {"cq": 1} if queues > 1 else {}  # the number of queues in use goes over the control queue
    return _device("net_virtio_user", keys | ({"mac": mac} if mac else {}) | more)


def vhost(path, queues=1, client=False, **more):
    """A virtio-net device on the vhost-user socket `path`, which it makes, or as `client` connects to."""
    return _device("net_vhost", {"iface": path, "queues": queues, "client": int(client)} | more)


def _device(driver, keys):
    """Function of a number that names the device, as EAL's --vdev wants it."""
    return lambda number: f"{driver}{number}," + ",".join(f"{key}={value}" for key, value in keys.items())


class Testpmd:
    """testpmd on `devices`, until `close`.

    queues     pairs a port uses, of those its device has
    cpu        the one CPU it runs on; a forwarding testpmd never sleeps
    huge       memory of 2 MB pages, else of the usual ones
    memory_mb  for packets and rings
    eal        further options of DPDK
    options    further options of testpmd
    wrap       command that goes in front, as `nsenter`
    """

    __test__ = False

    def __init__(
        self, *devices, queues=1, cpu=0, huge=True, memory_mb=128, mbufs=16384, eal=(), options=(), wrap=()
    ):
        self.log = ""
        memory = ["--in-memory", "--single-file-segments"] if huge else ["--no-huge"]
        command = ["setpriv", "--pdeathsig", "KILL", *wrap, "dpdk-testpmd", "--lcores", f"0@{cpu},1@{cpu}"]
        command += ["--no-pci", "--no-telemetry", f"--file-prefix=dpu-{os.getpid()}-{id(self):x}"]
        command += ["-m", str(memory_mb), *memory, "--log-level=pmd.net.virtio.init:debug", *eal]
        command += [f"--vdev={device(number)}" for number, device in enumerate(devices)]
        command += ["--", "-i", "--nb-cores=1", f"--rxq={queues}", f"--txq={queues}", f"--burst={BURST}"]
        command += [f"--total-num-mbufs={mbufs}", *map(str, options)]
        with contextlib.ExitStack() as made:
            if huge:
                made.enter_context(hugepages(memory_mb))
            # A terminal, for to a pipe it writes in blocks.
            self._terminal, side = pty.openpty()
            made.callback(os.close, self._terminal)
            with os.fdopen(side, "rb") as terminal:
                self._process = subprocess.Popen(
                    command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
                )
            made.callback(self._end)
            self._began = False
            self._made = made.pop_all()

    def ready(self, timeout_s=START_TIMEOUT_S):
        """Wait for the prompt; returns itself. A server waits for its client before."""
        if not self._began:
            try:
                self._read_until(lambda: PROMPT in self.log, timeout_s, "start")
            except TestpmdError:
                self.close()
                raise
            self._began = True
        return self

    def _read_until(self, condition, timeout_s, what):
        end = time.monotonic() + timeout_s
        while not condition():
            readable, _, _ = select.select([self._terminal], [], [], max(0.0, end - time.monotonic()))
            if not readable:
                raise TestpmdError(f"{what}: no answer in {timeout_s} s\n{self.log[-3000:]}")
            try:
                data = os.read(self._terminal, 1 << 16)
            except OSError:  # EIO: the other side of the terminal is closed
                data = b""
            if not data:
                raise TestpmdError(f"{what}: exit {self._process.wait(END_TIMEOUT_S)}\n{self.log[-3000:]}")
            self.log += _CONTROL.sub("", data.decode(errors="replace"))

    def command(self, text, timeout_s=COMMAND_TIMEOUT_S):
        """Type a command; returns what it printed."""
        self.ready()
        begin = len(self.log)
        os.write(self._terminal, text.encode() + b"\n")
        answer = re.compile(re.escape(text) + r"\n(.*?)" + re.escape(PROMPT), re.S)
        self._read_until(lambda: answer.search(self.log, begin), timeout_s, text)
        return answer.search(self.log, begin)[1]

    def forward(self, mode, **settings):
        """Choose what to do with packets (io, macswap, rxonly, txonly, icmpecho, ...) and set more."""
        self.command(f"set fwd {mode}")
        for key, value in settings.items():
            self.command(f"set {key} {value}")

    def start(self):
        """Begin to forward."""
        return self.command("start")

    def start_tx_first(self, bursts):
        """Begin to forward after each queue has sent `bursts` bursts of BURST packets."""
        return self.command(f"start tx_first {bursts}")

    def stop(self):
        """End forwarding; packets in the hands of testpmd are sent or dropped then."""
        return self.command("stop")

    def send_to(self, port, mac):
        """Have packets that are made (txonly), or forwarded by `mac`, go from `port` to this address."""
        self.command(f"set eth-peer {port} {mac}")

    def stats(self, port=0):
        """Counters of a port: rx_packets, rx_bytes, rx_missed, tx_packets, tx_bytes, tx_errors, ..."""
        text = self.command(f"show port stats {port}")
        found = re.findall(r"([RT]X)-(packets|bytes|errors|missed|nombuf):\s+(\d+)", text)
        return {f"{way}_{what}".lower(): int(value) for way, what, value in found}

    def clear(self):
        """Set the counters of all ports to zero."""
        self.command("clear port stats all")

    def info(self, port=0):
        """What `show port info` says, by its own words."""
        lines = self.command(f"show port info {port}").splitlines()
        return {key: value.strip() for key, _, value in (line.partition(": ") for line in lines) if value}

    def is_up(self, port=0):
        """Whether the link of a port is up."""
        return self.info(port)["Link status"] == "up"

    def features(self):
        """Feature words that the virtio_user ports agreed upon, port 0 first."""
        self.ready()
        return [int(word, 16) for word in re.findall(r"features after negotiate = ([0-9a-f]+)", self.log)]

    def kill(self):
        """`kill -9`: its memory and sockets go without a word."""
        self._process.kill()
        self._process.wait(END_TIMEOUT_S)

    def _end(self):
        """End it in order while it answers."""
        with contextlib.suppress(TestpmdError, OSError):
            if self._began and self._process.poll() is None:
                os.write(self._terminal, b"quit\n")
                self._read_until(lambda: False, END_TIMEOUT_S, "quit")
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                self._process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(END_TIMEOUT_S)

    def close(self):
        """End it; twice is allowed."""
        self._made.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
