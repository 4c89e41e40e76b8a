"""The command lines of docs/, as they stand there: the whole tour, and those that plug in QEMU and DPDK."""

import contextlib
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.daemon import ROOT, environment, wait_until

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2", "iputils-ping")]

START_TIMEOUT_S = 30.0
END_TIMEOUT_S = 10.0
DISK = "disk.qcow2"


def commands(page):
    """The commands of a page of docs/, folded lines joined."""
    code = "\n".join(re.findall(r"^    (.*)$", (ROOT / "docs" / page).read_text(), re.MULTILINE))
    return code.replace("\\\n", " ").splitlines()


def command(text):
    """Words of the one command of docs/ports.md that begins with `text`."""
    (found,) = (line for line in commands("ports.md") if line.startswith(text))
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
    """Add the port that the page adds, with its socket elsewhere; returns the words of `text` with that."""

    def add(name, text):
        port = command(f"dpu port add {name} ")
        place = port[port.index("--socket") + 1]
        done = dpu.cli(*(word.replace(place, f"{socket_dir}/{name}") for word in port[1:]))
        assert (done.returncode, done.stderr) == (0, "")
        return [word.replace(place, f"{socket_dir}/{name}") for word in command(text)]

    return add


LISTENING = "until nsenter --net=/run/netns/web ss -ltn | grep -q :8080; do sleep 0.05; done"
# What a user waits for or ends by Ctrl-C, and a test need not.
SOONER = {"ping -c 3": "ping -c 3 -i 0.1", "-m 2": "-m 0.5", "--rate ": "--rate --count 1 --interval 0.1 "}


@pytest.mark.package("curl")
def test_the_tour(dpu, netns, tmp_path):
    """From the first port to `apply`: every command ends well, and does what the page says it does."""
    web, client = netns(), netns()
    before = {". .venv/bin/activate", "ip netns add web", "ip netns add client", "dpu run"}
    lines = [line for line in commands("tour.md") if line not in before]
    (server,) = (line for line in lines if line.endswith(" &"))
    lines[lines.index(server)] = f"{server}\ntrap 'kill $!' EXIT\n{LISTENING}"
    script = "\n".join(["set -ex", *lines])
    places = {}
    for name, place in (("web", web), ("client", client)):
        places |= {f"/run/netns/{name}": f"/run/netns/{place}", f"--netns {name} ": f"--netns {place} "}
    for text, instead in (places | SOONER).items():
        assert text in script, text
        script = script.replace(text, instead)
    programs = f"{Path(sys.executable).parent}:{environment()['PATH']}"
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=tmp_path,
        env=environment(PATH=programs, DPU_SOCKET=str(dpu.socket)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said.count("dropped") == 1 and "200" in said
    assert any(line.split()[:1] == ["no-web"] for line in said), "the rule is shown"
    (rule,) = dpu.call("rule.show")
    assert rule["config"]["name"] == "no-web", "applied again, as it was saved"


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
