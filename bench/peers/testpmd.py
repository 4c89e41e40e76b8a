"""DPDK's testpmd: `client` makes one with virtio-user ports, BackEnd has vhost ports; driven by its commands.

Spec: DPDK 22.11, "Testpmd Application User Guide", "Virtio_user" and "Vhost Poll Mode Driver".
Not:  one forwarding core each, which shares its CPU with the main core, asleep between commands.
"""

import os
import re
import select
import subprocess
import time
from dataclasses import dataclass

from bench.peers.hosts import Host
from bench.peers.wires import PORTS

PROGRAM = "dpdk-testpmd"
PROMPT = b"testpmd> "
ANSWER_SECONDS_MAX = 20.0
MEMORY_MB = 128  # huge pages a process
BUFFERS = 16384  # of 2176 octets: the rings of two ports, twice
RING_ENTRIES = 1024  # descriptors of each of a client's rings
# Of BackEnd, so that a segment's `gso_type` and owed checksum are those of the packet that is sent again.
TSO = ",tso=1,legacy-ol-flags=1"
FIRST_BURSTS = 16  # of 32 packets, from each port: half a ring, so that none is lost and all have as many


@dataclass(frozen=True)
class Rate:
    """Packets a second that all ports of a testpmd sent and received."""

    sent: float
    received: float

    @property
    def lost_percent(self):
        """Of those sent; what was still under way at the first reading may make it less than 0."""
        return 100 * (self.sent - self.received) / self.sent if self.sent else 0.0


def client_mac(port):
    """MAC address of a client's port, of a range for local use."""
    return f"02:00:00:00:01:{port:02x}"


class Testpmd:
    """A testpmd with `devices` (DPDK's --vdev) on one CPU, stopped; ended with `close`.

    host  where it runs, whose processes end with it; default: a new one
    Raises RuntimeError with what it printed when it does not come up, or does not answer.
    """

    __test__ = False  # no class of tests, for pytest

    def __init__(self, devices, cpu, host=None):
        self._host = host or Host(str(cpu))
        # net_af_xdp reads /sys/class/net, which shows the namespace it was mounted in
        argv = ["unshare", "--mount", "sh", "-ec", 'mount -t sysfs sysfs /sys; exec "$@"', "testpmd"]
        argv += ["stdbuf", "-oL", PROGRAM, "--lcores", f"0@{cpu},1@{cpu}", "--no-pci", "--no-telemetry"]
        # Files and locks of DPDK are in memory too, so two of them do not meet.
        argv += ["--in-memory", "--single-file-segments", "-m", MEMORY_MB]
        for device in devices:
            argv += ["--vdev", device]
        argv += ["--", "-i", f"--total-num-mbufs={BUFFERS}", "--disable-link-check"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        try:
            self.process = self._host.start(*argv, **pipes)
            self._answer(b"")
        except BaseException:
            self.close()
            raise

    @property
    def pids(self):
        """Processes whose threads forward."""
        return [self.process.pid]

    def command(self, text):
        """Give a command and return what it prints."""
        self.process.stdin.write(f"{text}\n".encode())
        self.process.stdin.flush()
        return self._answer(f"{text}\r\n".encode())

    def skip_messages(self):
        """Read what it printed of its own accord, so that it is not taken for an answer."""
        while select.select([self.process.stdout], [], [], 0)[0] and os.read(
            self.process.stdout.fileno(), 65536
        ):
            pass

    def _answer(self, echo):
        """What is printed after the `echo` of a command, up to the next prompt."""
        printed = b""
        end = time.monotonic() + ANSWER_SECONDS_MAX
        while True:
            _, found, after = printed.partition(echo) if echo else (b"", b"", printed)
            if (found or not echo) and after.endswith(PROMPT):
                return after[: -len(PROMPT)].decode(errors="replace")
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))
            chunk = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not chunk:
                text = printed.decode(errors="replace").strip()
                raise RuntimeError(f"{PROGRAM} {'does not answer' if not ready else 'ended'}:\n{text}")
            printed += chunk

    def start(self, mode, bursts=0):
        """Forward in `mode` (io, macswap, rxonly); first send `bursts` of 32 packets from each port."""
        self.command(f"set fwd {mode}")
        self.command(f"start tx_first {bursts}" if bursts else "start")

    def stop(self):
        """Stop forwarding: it takes no CPU time then."""
        self.command("stop")

    def rate(self, seconds):
        """Measure the Rate over `seconds`."""
        self.command("show port stats all")  # each reading gives the rates since the last one
        time.sleep(seconds)
        printed = self.command("show port stats all")
        sent, received = (sum(map(int, re.findall(rf"{word}-pps: +(\d+)", printed))) for word in ("Tx", "Rx"))
        return Rate(sent, received)

    def close(self):
        """End it; twice is allowed."""
        self._host.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def client(sockets, cpu, listens=False):
    """Make a Testpmd with a virtio-user port for each of `sockets`; `listens`: the back-end is who connects.

    Its ports send to each other's address, a single one to itself.
    """
    common = f"queues=1,queue_size={RING_ENTRIES}{',server=1' if listens else ''}"
    macs = [client_mac(port) for port in range(len(sockets))]
    devices = [
        f"net_virtio_user{port},path={path},mac={macs[port]},{common}" for port, path in enumerate(sockets)
    ]
    made = Testpmd(devices, cpu)
    for port in range(len(sockets)):
        made.command(f"set eth-peer {port} {macs[-1 - port]}")
    return made


class BackEnd(Testpmd):
    """A Testpmd that listens on each of `sockets`: net_vhost, two ports joined, a single one to itself.

    options  further ones of the devices, such as TSO
    """

    client_listens = False

    def __init__(self, sockets, cpu, options=""):
        self.sockets = sockets
        super().__init__(
            [f"net_vhost{n},iface={path},queues=1{options}" for n, path in enumerate(sockets)], cpu
        )

    def begin(self, variant):
        """Forward, in the mode `variant`: io or macswap."""
        self.start(variant)

    def rest(self):
        """Take no CPU time until `begin`."""
        self.stop()


class KernelPorts(Testpmd):
    """A Testpmd that joins two Wires (bench/peers/wires.py) by a driver of kernel interfaces.

    driver   net_af_packet or net_af_xdp
    options  of both devices
    """

    def __init__(self, wires, cpu, driver, options=""):
        self.wires = wires
        super().__init__(
            [f"{driver}{n},iface={port}{options}" for n, port in enumerate(PORTS)], cpu, wires.switch
        )

    def begin(self):
        """Forward."""
        self.start("io")

    def rest(self):
        """Take no CPU time until `begin`."""
        self.stop()

    def close(self):
        """End it, and take the wires down; twice is allowed."""
        super().close()
        self.wires.close()
