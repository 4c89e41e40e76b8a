"""`dpu vhost-user` with a real daemon: front-ends on its path and behind its descriptors, also of DPDK."""

import signal
import socket
import subprocess

import pytest

from dpu_runtime.drivers.vhost_user.messages import Request
from tests.clients.testpmd import Testpmd, virtio_user
from tests.drivers.vhost_user.raw_frontend import Frontend
from tests.live.daemon import ROOT, dpu_command, environment, wait_until

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2")]

END_TIMEOUT_S = 30.0
PONG = "10.7.0.99"  # any address: testpmd's icmpecho answers for all


@pytest.fixture
def program(dpu):
    """Start `dpu vhost-user --port vm WORDS`, wait until it has its port; ended with the test."""
    started = []

    def start(*words, pass_fds=()):
        command = dpu_command("--socket", dpu.socket, "vhost-user", "--port", "vm", *words)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), pass_fds=pass_fds, **pipes)
        started.append(process)
        assert process.stdout.readline().startswith("port vm"), process.stderr.read()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def result(process):
    """(exit code, stderr) of a program that ends."""
    _, errors = process.communicate(timeout=END_TIMEOUT_S)
    return process.returncode, errors


def connection(dpu):
    """What the port says about its front-end."""
    return dpu.call("port.show", name="vm")[0]["info"]["vhost_user"]


def nothing_left(dpu, path=None):
    folders = [entry.name for entry in dpu.folder.iterdir() if entry.name.startswith("vhost-user-")]
    return dpu.call("port.show") == [] and not folders and not (path and path.exists())


def test_a_front_end_on_the_path(dpu, program, socket_dir):
    path = socket_dir / "vm"
    process = program(f"--socket-path={path}")
    with Frontend(path) as frontend:
        frontend.start()
        assert connection(dpu)["queue_pairs_live"] == 1
        process.send_signal(signal.SIGTERM)
        assert result(process) == (0, "")
        assert frontend.closed()
    assert nothing_left(dpu, path)


def test_a_front_end_behind_a_descriptor(dpu, program):
    """Memory, kicks and calls are descriptors that must arrive with their own messages."""
    here, there = socket.socketpair()
    with there:
        process = program(f"--fd={there.fileno()}", pass_fds=[there.fileno()])
    with Frontend(sock=here) as frontend:
        frontend.start(rings=4)
        shown = connection(dpu)
        assert (shown["rings_live"], shown["memory_regions"]) == ([0, 1, 2, 3], 1)
        assert shown["socket"].startswith(f"{dpu.folder}/vhost-user-"), "where no other user can come in"
    assert result(process) == (0, ""), "gone with its front-end"
    assert nothing_left(dpu)


def test_sigterm_ends_a_front_end_behind_a_descriptor(dpu, program):
    here, there = socket.socketpair()
    with there:
        process = program(f"--fd={there.fileno()}", pass_fds=[there.fileno()])
    with Frontend(sock=here) as frontend:
        frontend.start()
        process.send_signal(signal.SIGTERM)
        assert result(process) == (0, "")
        assert frontend.closed()
    assert nothing_left(dpu)


def test_a_front_end_that_the_daemon_throws_out(dpu, program):
    here, there = socket.socketpair()
    with there:
        process = program(f"--fd={there.fileno()}", pass_fds=[there.fileno()])
    with Frontend(sock=here) as frontend:
        frontend.negotiate()
        frontend.send(Request.SET_VRING_NUM, b"")
        assert frontend.closed()
    assert result(process) == (1, "dpu: port vm: the daemon closed the connection, its log says why\n")
    assert nothing_left(dpu)


def test_front_ends_one_after_the_other_behind_a_listening_descriptor(dpu, program, socket_dir):
    path = socket_dir / "vm"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        process = program(f"--fd={listener.fileno()}", pass_fds=[listener.fileno()])
    for number in range(1, 4):
        with Frontend(path) as frontend:
            frontend.start()
            shown = connection(dpu)
            assert (shown["connections"], shown["queue_pairs_live"]) == (number, 1)
        assert wait_until(lambda: not connection(dpu)["connected"])
    process.send_signal(signal.SIGTERM)
    assert result(process) == (0, "")
    assert nothing_left(dpu)


def test_the_daemon_is_killed(new_daemon, socket_dir):
    daemon = new_daemon().start(standby=False)
    words = ("--socket", daemon.socket, "vhost-user", f"--socket-path={socket_dir}/vm")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(dpu_command(*words), cwd=ROOT, env=environment(), **pipes) as process:
        assert process.stdout.readline()
        daemon.kill_control()
        assert result(process) == (3, f"dpu: no daemon on {daemon.socket}: Connection refused\n")


@pytest.mark.package("dpdk-dev", "iputils-ping")
@pytest.mark.parametrize("way", ["--socket-path", "--fd"])
def test_testpmd_answers_pings(dpu, program, socket_dir, way):
    """DPDK's driver either connects to the program's path, or listens, and is handed over connected."""
    a = dpu.container("a")
    path = socket_dir / "vm"
    process = program(f"--socket-path={path}") if way == "--socket-path" else None
    with Testpmd(virtio_user(path, server=way == "--fd")) as pmd:
        if way == "--fd":
            assert wait_until(path.exists, END_TIMEOUT_S)
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(path))
                process = program(f"--fd={sock.fileno()}", pass_fds=[sock.fileno()])
        pmd.forward("icmpecho")
        pmd.start()
        assert wait_until(lambda: connection(dpu)["queue_pairs_live"] == 1)
        assert a.ping(PONG, 3).returncode == 0
        assert dpu.port("vm")["rx_packets"] >= 3
        pmd.stop()
        process.send_signal(signal.SIGTERM)
        assert result(process) == (0, "")
    assert [view["config"]["name"] for view in dpu.call("port.show")] == ["a"]
