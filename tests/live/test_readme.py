"""The command lines of README.md that plug QEMU and DPDK into a port, as they stand there."""

import contextlib
import re
import shlex
import signal
import subprocess

import pytest

from tests.live.daemon import ROOT, wait_until

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2", "iputils-ping")]

START_TIMEOUT_S = 30.0
END_TIMEOUT_S = 10.0
DISK = "disk.qcow2"


def command(text):
    """Words of the README's one command that begins with `text`, its folded lines joined."""
    code = "\n".join(re.findall(r"^    (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE))
    (found,) = (line for line in code.replace("\\\n", " ").splitlines() if line.startswith(text))
    return shlex.split(found)


@contextlib.contextmanager
def running(words):
    """A program that is told to end, and waited for."""
    with subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *words],
        stdin=subprocess.PIPE,  # testpmd ends with its input
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture
def plug(dpu, socket_dir):
    """Add the port that the README adds, with its socket elsewhere; returns the words of `text` with that."""

    def add(name, text):
        port = command(f"dpu port add {name} ")
        place = port[port.index("--socket") + 1]
        done = dpu.cli(*(word.replace(place, f"{socket_dir}/{name}") for word in port[1:]))
        assert (done.returncode, done.stderr) == (0, "")
        return [word.replace(place, f"{socket_dir}/{name}") for word in command(text)]

    return add


def connection(dpu, name):
    return dpu.call("port.show", name=name)[0]["info"]["vhost_user"]


@pytest.mark.package("qemu-system-x86")
def test_qemu(dpu, plug):
    """Without a disk the guest is not started: its device is there all the same."""
    words = plug("vm", "qemu-system-x86_64 ")
    assert words[-1] == DISK
    with running([*words[:-1], "-S", "-display", "none"]):
        assert wait_until(lambda: connection(dpu, "vm")["protocol_features"], START_TIMEOUT_S)
    assert wait_until(lambda: not connection(dpu, "vm")["connected"])


@pytest.mark.package("dpdk-dev")
def test_testpmd(dpu, plug):
    client = dpu.container("client")
    with running(plug("pmd", "dpdk-testpmd ")):
        assert wait_until(lambda: connection(dpu, "pmd")["queue_pairs_live"] == 1, START_TIMEOUT_S)
        ping = command("nsenter --net=/run/netns/client ping -c 3 10.0.0.99")
        address = ping[-1].replace("10.0.0.", "10.7.0.")
        # its rings are there some time before it forwards
        assert wait_until(lambda: client.ping(address, 1, check=False).returncode == 0, START_TIMEOUT_S)
        assert client.ping(address, 3, "-w", 5).returncode == 0
        assert dpu.port("pmd")["rx_packets"] >= 3
