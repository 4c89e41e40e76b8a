"""`dpu vhost-user` as QEMU and libvirt run it: options, signals, exit codes, and the port it has."""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tomllib

import pytest

from dpu_runtime.api.client import Client
from dpu_runtime.cli import main as cli
from tests.live.daemon import dpu_command, environment, wait_until
from tests.live.daemons import ROOT, in_thread, start_process, wait_for

END_TIMEOUT_S = 30.0
# The program with its pauses shortened; test_live_vhost_program.py ends one that has them as they are.
IMPATIENT = """
import sys
from dpu_runtime.cli.main import main
from dpu_runtime.programs import vhost_program
vhost_program.CHECK_S = vhost_program.GRACE_S = 0.5
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def program(socket_dir):
    """Start `dpu vhost-user WORDS` for the daemon in `socket_dir`; ended with the test."""
    started = []

    def start(*words, pass_fds=(), impatient=False):
        words = ("--socket", socket_dir / "dpu.sock", "vhost-user", *words)
        command = [sys.executable, "-c", IMPATIENT, *words] if impatient else dpu_command(*words)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment(), pass_fds=pass_fds, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def device(socket_dir):
    """The device of a daemon that runs in this process."""
    with in_thread(socket_dir) as device:
        yield device


def result(process):
    """(exit code, stdout, stderr) of a program that ends."""
    out, errors = process.communicate(timeout=END_TIMEOUT_S)
    return process.returncode, out, errors


@pytest.mark.parametrize(
    "words",
    [(), ("--fd=x", "--nonsense"), ("--socket-path=/x", "--fd=3"), ("--port", "a b")],
    ids=["alone", "wrong options", "contradiction", "value"],
)
def test_capabilities_whatever_else_is_said(program, words):
    """Without a daemon too: vhost-user, "other options and arguments should be ignored"."""
    code, out, errors = result(program(*words, "--print-capabilities"))
    assert (code, json.loads(out), errors) == (0, {"type": "net", "features": []}, "")


def test_the_option_is_nothing_special_elsewhere(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["port", "show", "--print-capabilities"])
    assert caught.value.code == 2
    assert "unrecognized arguments: --print-capabilities" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_port_as_long_as_the_program_lives(program, device, socket_dir, number):
    path = socket_dir / "vm.sock"
    process = program(
        f"--socket-path={path}", "--port=vm", "--mtu=9000", "--queues=2", "--no-gro", "--xconnect=vm"
    )
    assert process.stdout.readline() == f"port vm on {path}\n"
    port = device.ports["vm"]
    assert (port.kind, port.socket, port.client) == ("vhost_user", str(path), False)
    assert (port.mtu, port.queues, port.gro, port.xconnect) == (9000, 2, False, "vm")
    process.send_signal(number)
    assert result(process) == (0, "", "")
    assert device.ports == {}


def test_names_are_made_up_and_paths_may_be_relative(program, device, socket_dir):
    processes = [program(f"--socket-path={os.path.relpath(socket_dir, ROOT)}/{i}", "-j") for i in range(2)]
    for i, process in enumerate(processes):
        assert wait_until(lambda pid=process.pid: f"vhost-user-{pid}" in device.ports), process.poll()
        assert device.ports[f"vhost-user-{process.pid}"].socket == f"{socket_dir}/{i}"
        process.terminate()
        code, out, _ = result(process)
        assert (code, json.loads(out)["name"]) == (0, f"vhost-user-{process.pid}")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--socket-path=/x", "--port=a b"), 'dpu: name = "a b": allowed: 1 to 32 of A-Z a-z 0-9 _ . -'),
        (("--socket-path=/x", "--port=taken"), 'dpu: name = "taken": another port has this name'),
        (("--socket-path=/taken",), 'dpu: socket = "/taken": port taken has it'),
        (("--socket-path=/x", "--queues=17"), "dpu: queues = 17: allowed: 1 to 16"),
        (("--socket-path=/x", "--xconnect=no"), 'dpu: xconnect = "no": no such vhost_user port, there are: '),
        ((f"--socket-path=/{'x' * 107}",), "has 108 octets; allowed: an absolute path of at most 107 octets"),
        (("--fd=-1",), "dpu: --fd=-1: not a descriptor"),
        (("--fd=4000",), "dpu: --fd=4000: Bad file descriptor"),
        (("--fd=1",), "dpu: --fd=1: Socket operation on non-socket"),
    ],
)
def test_what_is_refused_leaves_nothing(program, device, socket_dir, words, text):
    with Client(socket_dir / "dpu.sock") as client:
        client.call("port.add", name="taken", kind="vhost_user", socket="/taken")
    code, out, errors = result(program(*words))
    assert (code, out) == (1, "")
    assert text in errors
    assert "Traceback" not in errors
    assert list(device.ports) == ["taken"]
    assert [entry.name for entry in socket_dir.iterdir() if entry.name.startswith("vhost-user-")] == []


def test_descriptors_that_are_no_front_end(program, device):
    with socket.socket(socket.AF_UNIX) as lonely, socket.socket(socket.AF_INET) as inet:
        for sock, text in (
            (lonely, "Transport endpoint is not connected"),
            (inet, "not a Unix stream socket"),
        ):
            code, _, errors = result(program(f"--fd={sock.fileno()}", pass_fds=[sock.fileno()]))
            assert (code, errors) == (1, f"dpu: --fd={sock.fileno()}: {text}\n")
    assert device.ports == {}


def test_no_daemon(program, socket_dir):
    text = f"dpu: no daemon on {socket_dir}/dpu.sock: No such file or directory\n"
    here, there = socket.socketpair()
    with here, there:
        for words in (["--socket-path=/x"], [f"--fd={there.fileno()}"]):
            assert result(program(*words, pass_fds=[there.fileno()])) == (3, "", text)


def test_a_port_that_a_rule_names_stays(program, device, socket_dir):
    process = program(f"--socket-path={socket_dir}/vm", "--port=vm")
    process.stdout.readline()
    with Client(socket_dir / "dpu.sock") as client:
        client.call("rule.add", name="r", priority=1, in_port="vm", action="drop")
    process.terminate()
    assert result(process) == (1, "", "dpu: port 'vm' is named by rule r\n")
    assert list(device.ports) == ["vm"]


def test_a_port_that_is_deleted_ends_the_program(program, device, socket_dir):
    process = program(f"--socket-path={socket_dir}/vm", "--port=vm", impatient=True)
    process.stdout.readline()
    with Client(socket_dir / "dpu.sock") as client:
        client.call("port.del", name="vm")
        client.call("port.add", name="vm", kind="null")  # somebody else's
    assert result(process) == (1, "", "dpu: port vm was deleted\n")
    assert device.ports["vm"].kind == "null"


def test_a_daemon_that_ends_ends_the_program(program, socket_dir):
    daemon = start_process(socket_dir)
    try:
        wait_for(socket_dir / "dpu.sock").close()
        process = program(f"--socket-path={socket_dir}/vm", impatient=True)
        process.stdout.readline()
    finally:
        daemon.terminate()
        daemon.communicate()
    assert result(process) == (3, "", f"dpu: no daemon on {socket_dir}/dpu.sock: No such file or directory\n")


def test_a_daemon_that_comes_back_with_the_port_keeps_it(program, socket_dir):
    """As when the control process is killed, and the next one adopts the data plane."""
    daemon = start_process(socket_dir)
    wait_for(socket_dir / "dpu.sock").close()
    process = program(f"--socket-path={socket_dir}/vm", "--port=vm")
    try:
        process.stdout.readline()
    finally:
        daemon.kill()
        daemon.communicate()
    config = socket_dir / "adopted.toml"
    config.write_text(f'[[port]]\nname = "vm"\nkind = "vhost_user"\nsocket = "{socket_dir}/vm"\n')
    daemon = start_process(socket_dir, "", config)
    try:
        with wait_for(socket_dir / "dpu.sock") as client:
            assert client.call("port.show", name="vm")
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1.0)
            process.terminate()
            assert result(process) == (0, "", "")
            assert client.call("port.show") == []
    finally:
        daemon.terminate()
        daemon.communicate()


def test_the_description_for_qemu_names_the_program_that_is_installed():
    """vhost-user.json, VhostUserBackend; the unit file names the same folder."""
    (path,) = (ROOT / "packaging").glob("[0-9][0-9]-*.json")
    description = json.loads(path.read_text())
    assert set(description) <= {"description", "type", "binary", "tags"}
    assert description["type"] == "net"
    folder, _, name = description["binary"].rpartition("/")
    assert f"ExecStart={folder}/dpu run" in (ROOT / "packaging" / "dpu.service").read_text()
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts[name].partition(":")
    assert getattr(importlib.import_module(module), function) is cli.vhost_user_main


def test_the_program_by_its_own_name(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["dpu-vhost-user", "--fd=9", "--print-capabilities"])
    assert cli.vhost_user_main() == 0
    assert json.loads(capsys.readouterr().out)["type"] == "net"
