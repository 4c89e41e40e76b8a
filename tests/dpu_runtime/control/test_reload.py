"""The configuration file of the daemon, read again: by SIGHUP, by `dpu reload`."""

import json
import os
import signal

import pytest

from dpu_runtime.cli import main as cli
from dpu_runtime.config.file import parse_config
from dpu_runtime.control.daemon import Daemon
from tests.live.daemons import start_process, wait_for

WEB = '[[port]]\nname = "web"\nkind = "tap"\nifname = "eth0"\n'
DB = '[[port]]\nname = "db"\nkind = "tap"\nifname = "eth1"\n'
WRONG = WEB + "mtu = 1\n"
NO_FILE = "the daemon has no configuration file to read again"


@pytest.fixture
def start(tmp_path):
    """Start a daemon on this text as its file, or on none; it is killed at the end of the test."""
    started = []

    def run(text=None):
        path = tmp_path / "dpu.toml"
        if text is not None:
            path.write_text(text)
        started.append(start_process(tmp_path, *([path] if text is not None else [])))
        wait_for(tmp_path / "dpu.sock").close()
        return started[-1], path

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def dpu(tmp_path, capsys):
    """Run `dpu`; returns (exit code, stdout, stderr)."""

    def run(*words):
        code = cli.main(["--socket", f"{tmp_path}/dpu.sock", *words])
        return code, *capsys.readouterr()

    return run


def hang_up(process, text):
    """Send SIGHUP and read what the daemon says until it says `text`; returns the lines."""
    process.send_signal(signal.SIGHUP)
    lines = []
    while not lines or text not in lines[-1]:
        lines.append(process.stderr.readline())
        assert lines[-1], f"it ended (exit {process.wait()}): {''.join(lines)}"
    return "".join(lines)


def ports(folder):
    with wait_for(folder / "dpu.sock") as client:
        return [view["config"]["name"] for view in client.call("port.show")]


def test_hang_up_applies_the_file_as_it_is_now(start, tmp_path):
    process, path = start(WEB)
    path.write_text(WEB + DB)
    assert "SIGHUP: reading the configuration file again" in hang_up(process, "+ port db")
    assert ports(tmp_path) == ["web", "db"]
    hang_up(process, "nothing to change")
    path.write_text(DB)
    hang_up(process, "- port web")
    assert ports(tmp_path) == ["db"]


def test_what_was_applied_does_not_come_back_after_a_reload(start, tmp_path, dpu):
    process, _ = start(WEB)
    other = tmp_path / "other.toml"
    other.write_text(DB)
    assert dpu("apply", str(other))[0] == 0
    assert json.loads(dpu("status", "-j")[1])["applied"] is True
    hang_up(process, "+ port web")
    assert json.loads(dpu("status", "-j")[1])["applied"] is False
    process.terminate()
    assert process.wait(20) == 0
    process, _ = start(WEB)
    assert ports(tmp_path) == ["web"]
    process.terminate()
    assert "WARNING" not in process.stderr.read()


def test_a_file_that_is_wrong_is_logged_and_what_runs_goes_on(start, tmp_path):
    process, path = start(WEB)
    path.write_text(WRONG)
    assert f"not reloaded: {path}:5: port[0].mtu = 1" in hang_up(process, "not reloaded")
    path.write_text(DB + "[runtime]\nstandby = false\n")
    assert "not reloaded: runtime.standby = false" in hang_up(process, "not reloaded")
    path.unlink()
    assert f"not reloaded: {path}: No such file or directory" in hang_up(process, "not reloaded")
    assert ports(tmp_path) == ["web"]
    process.terminate()
    assert process.wait(20) == 0


def test_without_a_file_there_is_nothing_to_read(start, tmp_path, dpu):
    process, _ = start()
    assert NO_FILE in hang_up(process, "not reloaded")
    code, out, errors = dpu("reload")
    assert (code, out) == (1, "")
    assert NO_FILE in errors
    assert ports(tmp_path) == []


def test_reload_answers_with_the_changes_or_the_reason(start, tmp_path, dpu):
    _, path = start(WEB)
    assert dpu("reload") == (0, "nothing to change\n", "")
    path.write_text(WEB + DB)
    change = "+ port db: kind tap, ifname eth1"
    assert dpu("reload", "--dry-run") == (0, f"{change}\n", "")
    assert ports(tmp_path) == ["web"]
    code, out, _ = dpu("reload", "-j")
    assert (code, json.loads(out)) == (0, {"changes": [change], "dry_run": False})
    assert ports(tmp_path) == ["web", "db"]
    path.write_text(WRONG)
    code, out, errors = dpu("reload")
    assert (code, out) == (1, "")
    assert errors.startswith(f"dpu: {path}:5: port[0].mtu = 1: ")
    assert "allowed: " in errors
    assert ports(tmp_path) == ["web", "db"]


def test_what_the_command_line_said_still_counts(tmp_path):
    """`dpu --socket PATH run -c FILE`, where FILE has another socket."""
    path = tmp_path / "dpu.toml"
    path.write_text('[runtime]\nsocket = "/run/other.sock"\n' + WEB)
    daemon = Daemon(None, parse_config(path.read_text()), f"{tmp_path}/dpu.sock", perf_map=True, path=path)
    assert daemon.config.runtime.socket == f"{tmp_path}/dpu.sock"
    again = daemon._file.as_given(parse_config(path.read_text()))
    assert again.runtime == daemon.runtime
    assert daemon._file.path == os.path.abspath(path)
