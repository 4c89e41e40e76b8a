"""A virtual machine for tests: QEMU in software, Debian's kernel, its own virtio-net driver.

    with Guest(path, folder, packed=True) as guest:
        guest.run("ip link set eth0 up")

In:   the socket of a vhost-user port: QEMU listens there, or connects and connects again.
Out:  a shell in the guest, over a serial port; eth0 is the device, down until somebody sets it up.
Spec: QEMU 7.2, "Vhost-user Protocol"; virtio 1.2 section 5.1 for the features' names.
Not:  KVM; and MSI-X, with which QEMU 7.2 without KVM ends when a vhost device starts.
"""

import contextlib
import re
import select
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.clients.guest_image import guest_image

BOOT_TIMEOUT_S = 60.0
COMMAND_TIMEOUT_S = 20
SLACK_S = 10.0  # of a slow machine, beyond the time that a command may take in the guest
END_TIMEOUT_S = 5.0
MAC = "02:00:00:00:00:11"
_KERNEL_OPTIONS = (
    *("console=ttyS0", "quiet", "panic=-1", "random.trust_cpu=on", "tsc=reliable", "no_timer_check"),
    "mitigations=off",
)


class GuestError(Exception):
    """The guest ended, does not answer, or a command failed in it."""


class Guest:
    """A guest that boots; `ready` waits for it.

    path       vhost-user socket
    folder     for its own sockets and logs
    server     QEMU listens on the socket; else it connects, and again each second
    queues     queue pairs that the device has; the guest gets as many CPUs
    packed     packed rings, else split ones
    device     further properties of the device as QEMU names them: mrg_rxbuf="off", guest_tso4="off", ...
    """

    def __init__(self, path, folder, mac=MAC, server=False, queues=1, packed=False, memory_mb=192, **device):
        self.folder = Path(folder)
        self.mac = mac
        self._shell = None
        self._received = b""
        self._console = self.folder / "console.log"
        kernel, initrd = guest_image()
        device |= {"packed": "on" if packed else "off"} | ({"mq": "on"} if queues > 1 else {})
        properties = "".join(f",{key}={value}" for key, value in device.items())
        way = "server=on,wait=off" if server else "reconnect=1"
        command = ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-no-user-config"]
        command += [
            "-machine",
            "q35",
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-smp",
            str(queues),
            "-m",
            str(memory_mb),
        ]
        command += ["-object", f"memory-backend-memfd,id=memory,size={memory_mb}M,share=on"]
        command += ["-numa", "node,memdev=memory"]
        command += ["-chardev", f"socket,id=port,path={path},{way}"]
        command += ["-netdev", f"vhost-user,id=net,chardev=port,queues={queues}"]
        command += ["-device", f"virtio-net-pci,netdev=net,mac={mac},vectors=0,romfile={properties}"]
        command += ["-chardev", f"socket,id=shell,path={self._shell_path},server=on,wait=off"]
        command += ["-serial", f"file:{self._console}", "-serial", "chardev:shell"]
        command += ["-display", "none", "-no-reboot", "-kernel", str(kernel), "-initrd", str(initrd)]
        command += ["-append", " ".join(_KERNEL_OPTIONS)]
        with (self.folder / "qemu.log").open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._shell = self._connect()
        except GuestError:
            self.close()
            raise

    @property
    def _shell_path(self):
        return self.folder / "shell.sock"

    def _connect(self):
        """Take the serial port, before the guest writes to it: what nobody takes is lost."""
        end = time.monotonic() + BOOT_TIMEOUT_S
        while True:
            self._check(end, "start")
            shell = socket.socket(socket.AF_UNIX)
            try:
                shell.connect(str(self._shell_path))
                return shell
            except OSError:  # QEMU has not made it yet
                shell.close()
                time.sleep(0.02)

    def ready(self, timeout_s=BOOT_TIMEOUT_S):
        """Wait until it takes commands; returns itself."""
        try:
            self._answer(time.monotonic() + timeout_s, "boot")
        except GuestError:
            self.close()
            raise
        return self

    def _check(self, end, what):
        """GuestError when QEMU is gone or the time is over."""
        if self.process.poll() is not None:
            raise GuestError(f"{what}: QEMU ended with {self.process.returncode}\n{self.log()}")
        if time.monotonic() > end:
            raise GuestError(f"{what}: no answer in time, so far {self._received!r}\n{self.log()}")

    def _answer(self, end, what, line=b""):
        """What a command printed, and its exit status; `line` is sent again if the port lost some of it."""
        while not (found := re.search(rb"\n?@exit (\d+)\r?\n", self._received)):
            if line and (lost := re.search(rb"\n?@again\r?\n", self._received)):
                self._received = self._received[lost.end() :]
                self._shell.sendall(line)
            self._check(end, what)
            if select.select([self._shell], [], [], 0.1)[0]:
                self._received += self._shell.recv(1 << 16)
        text = self._received[: found.start()].decode(errors="replace").replace("\r", "")
        self._received = self._received[found.end() :]
        return text, int(found[1])

    def run(self, command, timeout_s=COMMAND_TIMEOUT_S, check=True):
        """Run a shell command line in the guest; returns what it printed. GuestError when it fails."""
        return self.status(command, timeout_s, check)[0]

    def status(self, command, timeout_s=COMMAND_TIMEOUT_S, check=False):
        """Run a shell command line in the guest; returns what it printed and its exit status."""
        assert "\n" not in command, command
        end = time.monotonic() + timeout_s + SLACK_S
        line = f"@run {len(command)} {timeout_s:.0f} {command}\n".encode()
        self._shell.sendall(line)
        text, code = self._answer(end, command, line)
        if check and code:
            raise GuestError(f"{command}: exit {code}\n{text}\n{self.log()}")
        return text, code

    def start(self, command):
        """Start a shell command line in the guest and leave it running."""
        self.run(f"sh -c {shlex.quote(command)} >/tmp/started.log 2>&1 &")

    def log(self):
        """What the kernel of the guest and QEMU wrote."""
        parts = (self.folder / "qemu.log", self._console)
        return "".join(path.read_text(errors="replace")[-3000:] for path in parts if path.exists())

    def set_up(self, address):
        """Give eth0 an IPv4 address with its prefix and set it up."""
        self.run(f"ip link set eth0 up && ip address add {address} dev eth0")

    def sysfs(self, name):
        """A value below /sys/class/net/eth0."""
        return self.run(f"cat /sys/class/net/eth0/{name}").strip()

    def features(self):
        """Feature word that driver and device agreed upon."""
        bits = self.sysfs("device/features")  # lowest first
        return sum(1 << number for number, bit in enumerate(bits) if bit == "1")

    def offloads(self):
        """What `ethtool -k` says: feature -> whether it is on."""
        lines = self.run("ethtool -k eth0").splitlines()[1:]
        return {
            key.strip(): value.split()[0] == "on"
            for key, _, value in (x.partition(": ") for x in lines)
            if value
        }

    def close(self):
        """End it at once; twice is allowed."""
        if self._shell is not None:
            self._shell.close()
            self._shell = None
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                self.process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(END_TIMEOUT_S)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
