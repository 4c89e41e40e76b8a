"""The daemon as a process: start, signals, locks, service manager, adoption."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from dpu_runtime.api.client import Client
from dpu_runtime.config.errors import ApplyError, NotAdoptedError
from dpu_runtime.config.file import config_toml, parse_config
from dpu_runtime.control.daemon import Daemon
from dpu_runtime.control.durable import write_atomically
from dpu_runtime.control.notify import sd_notify, watchdog_interval_s
from dpu_runtime.control.state import StateDir
from tests.dpu_runtime.control.memory_device import MemoryDevice
from tests.live.daemons import ROOT, in_thread, start_process, wait_for

CONFIG = """
[[port]]
name = "web"
kind = "tap"
ifname = "eth0"
[[rule]]
priority = 1
in_port = "web"
action = "drop"
"""
END_TIMEOUT_S = 20


@pytest.fixture
def start(tmp_path):
    """Start daemons of this test, killed at its end whatever happens."""
    started = []

    def run(*arguments, **env):
        process = start_process(tmp_path, *arguments, env={**os.environ, **env})
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def ended(process):
    """(exit code, stderr) of a process that ends."""
    _, errors = process.communicate(timeout=END_TIMEOUT_S)
    return process.returncode, errors


def test_control_process_never_imports_the_compiler():
    code = (
        "import sys, dpu_runtime.control.daemon, dpu_runtime.cli.main, dpu_runtime.device.device\n"
        "sys.exit(', '.join({'numba', 'llvmlite', 'scapy'} & set(sys.modules)))"
    )
    if not (ROOT / "dpu_runtime" / "device" / "device.py").exists():
        code = code.replace(", dpu_runtime.device.device", "")
    run = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, capture_output=True, text=True)
    assert run.stderr.strip() == "", f"imports {run.stderr}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_is_a_clean_end(start, tmp_path, number):
    config = tmp_path / "dpu.toml"
    config.write_text(CONFIG)
    process = start(config)
    with wait_for(tmp_path / "dpu.sock") as client:
        status = client.call("status")
    assert (status["pid"], status["ports"], status["rules"]) == (process.pid, 1, 1)
    assert (tmp_path / "state" / "running.json").exists()
    process.send_signal(number)
    code, errors = ended(process)
    assert code == 0, errors
    assert "Traceback" not in errors
    assert f"{number.name}: stopping" in errors
    assert not (tmp_path / "dpu.sock").exists()
    assert not (tmp_path / "state" / "running.json").exists()


def test_second_daemon_names_the_first(start, tmp_path):
    first = start()
    wait_for(tmp_path / "dpu.sock").close()
    code, errors = ended(start())
    assert code == 1
    assert f"another daemon (process {first.pid}) uses state directory {tmp_path}/state" in errors
    with Client(tmp_path / "dpu.sock") as client:
        assert client.call("status")["pid"] == first.pid


def test_killed_daemon_leaves_nothing_in_the_way(start, tmp_path):
    first = start()
    wait_for(tmp_path / "dpu.sock").close()
    first.kill()
    first.wait()
    assert (tmp_path / "dpu.sock").exists()
    second = start()
    wait_for(tmp_path / "dpu.sock").close()
    second.terminate()
    code, errors = ended(second)
    assert code == 0
    assert "removed the stale socket" in errors


def test_configuration_that_the_device_refuses_ends_the_start(tmp_path):
    runtime = f'[runtime]\nsocket = "{tmp_path}/dpu.sock"\nstate_dir = "{tmp_path}/state"\n'
    config = parse_config(runtime + CONFIG + '[[port]]\nname = "b"\nkind = "tap"\nifname = "eth1"\n')
    device = MemoryDevice()
    device.fail["add b"] = 1
    with pytest.raises(ApplyError, match="port 'b': add: Device or resource busy; nothing was changed"):
        asyncio.run(Daemon(lambda _: device, config).run())
    assert device.calls[-1] == "stop"
    assert device.ports == {}
    assert not (tmp_path / "dpu.sock").exists()


def test_stop_while_starting(tmp_path):
    device = MemoryDevice()

    async def never(_config):
        await asyncio.Event().wait()

    device.start = never
    config = parse_config(f'[runtime]\nsocket = "{tmp_path}/dpu.sock"\nstate_dir = "{tmp_path}/state"\n')

    async def scenario():
        daemon = Daemon(lambda _: device, config)
        running = asyncio.create_task(daemon.run())
        await asyncio.sleep(0.05)
        daemon.stop()
        await asyncio.wait_for(running, END_TIMEOUT_S)

    asyncio.run(scenario())
    assert device.calls == ["stop"]


def test_adoption_goes_on_with_what_ran_whatever_the_file_says(start, tmp_path):
    config = tmp_path / "dpu.toml"
    config.write_text(CONFIG)
    first = start(config)
    with wait_for(tmp_path / "dpu.sock") as client:
        client.call("port.add", name="db", kind="tap", ifname="eth1")
        running = client.call("config.get")["toml"]
    first.kill()
    first.wait()
    had = tmp_path / "had.toml"
    had.write_text(running)
    second = start("", had)  # no file: what ran goes on
    with wait_for(tmp_path / "dpu.sock") as client:
        assert client.call("config.get")["toml"] == running
        assert client.call("status")["data_plane"]["adopted"] is True
    second.kill()
    second.wait()
    third = start(config, had)
    with wait_for(tmp_path / "dpu.sock") as client:
        assert client.call("config.get")["toml"] == running
        client.call("config.apply", toml=CONFIG)
        assert [port["config"]["name"] for port in client.call("port.show")] == ["web"]
    third.terminate()
    code, errors = ended(third)
    assert code == 0
    assert "adopted a data plane with 2 ports and 1 rules" in errors
    assert "not applied: - port db" in errors
    assert "`dpu apply FILE`" in errors
    assert "+ port web" not in errors


def test_unreadable_state_of_an_adopted_data_plane_stops_nothing(start, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "running.json").write_text('{"version": 99}')
    had = tmp_path / "had.toml"
    had.write_text(CONFIG)
    code, errors = ended(start("", had))
    assert code == 1
    assert "running.json: version 99, not 1" in errors
    assert (tmp_path / "state" / "running.json").exists()


@pytest.mark.parametrize("refused", ["start", "set acl", "take over"])
def test_what_cannot_be_taken_over_goes_on_and_is_still_known(tmp_path, refused):
    """A data plane of another version, say: this daemon ends and takes nothing down."""
    config = parse_config(CONFIG)
    paths = {"socket": f"{tmp_path}/dpu.sock", "state_dir": f"{tmp_path}/state"}
    config = config.model_copy(update={"runtime": config.runtime.model_copy(update=paths)})
    state = StateDir(tmp_path / "state")
    state.lock()
    state.save(config)
    state.close()
    device = MemoryDevice(adopted=True)
    device.preset(config)
    if refused == "start":
        device.start = not_adopted
    device.fail = {refused: 1}
    daemon = Daemon(lambda _runtime: device, config)
    with pytest.raises(NotAdoptedError, match="data plane 7 goes on" if refused == "start" else "busy"):
        asyncio.run(daemon.run())
    assert "stop" not in device.calls
    assert set(device.ports) == {"web"}
    assert state.load() == config


async def not_adopted(_config):
    raise NotAdoptedError("data plane 7 goes on")


class Manager:
    """The service manager's end of sd_notify."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(path)
        self.sock.settimeout(END_TIMEOUT_S)

    def next(self):
        return self.sock.recv(4096).decode().splitlines()


def test_service_manager_hears_ready_watchdog_and_stopping(start, tmp_path):
    manager = Manager(str(tmp_path / "notify"))
    process = start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="100000")
    assert manager.next() == ["READY=1", "STATUS=forwarding"]
    assert manager.next() == ["WATCHDOG=1"]
    assert manager.next() == ["WATCHDOG=1"]
    process.terminate()
    while (said := manager.next()) == ["WATCHDOG=1"]:
        pass
    assert said == ["STOPPING=1"]
    assert ended(process)[0] == 0


def test_no_watchdog_from_an_unhealthy_device(tmp_path, monkeypatch):
    manager = Manager(str(tmp_path / "notify"))
    manager.sock.settimeout(0.3)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "50000")
    device = MemoryDevice()
    device.is_healthy = False
    with in_thread(tmp_path, device=device):
        assert manager.next()[0] == "READY=1"
        with pytest.raises(TimeoutError):
            manager.next()
    manager.sock.close()


def test_sd_notify_without_a_manager(monkeypatch, tmp_path):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not sd_notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not sd_notify("READY=1")
    name = f"@dpu-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:])
        assert sd_notify("READY=1", "STATUS=x")
        assert manager.recv(100) == b"READY=1\nSTATUS=x"


def test_watchdog_interval(monkeypatch):
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    assert watchdog_interval_s() is None
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    assert watchdog_interval_s() == 15.0
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog_interval_s() is None


def test_state_survives_and_is_written_whole(tmp_path):
    state = StateDir(tmp_path / "deep" / "state")
    state.lock()
    assert state.load() is None
    config = parse_config(CONFIG)
    state.save(config)
    assert state.load() == config
    assert parse_config(config_toml(state.load())) == config
    names = {path.name for path in state.path.iterdir()}
    assert names == {"dpu.lock", "running.json"}
    state.clear()
    state.clear()
    state.close()
    state.close()


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "f"
    write_atomically(path, b"old")

    def full(_fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_log_is_one_line_an_event(start, tmp_path):
    process = start()
    wait_for(tmp_path / "dpu.sock").close()
    process.terminate()
    _, errors = ended(process)
    assert all(re.match(r"(INFO|WARNING|ERROR) dpu\.", line) for line in errors.splitlines()), errors
