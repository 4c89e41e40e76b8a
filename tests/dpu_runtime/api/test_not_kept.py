"""A state directory that cannot be written: the answer to every change says so, and the command prints it."""

import asyncio
import errno
import json
import os

import pytest
from pydantic import TypeAdapter

from dpu_runtime.api.methods import METHODS, Api
from dpu_runtime.cli import main as cli
from dpu_runtime.config.file import config_toml, parse_config
from dpu_runtime.config.models import RuntimeConfig
from dpu_runtime.control import control as control_module
from dpu_runtime.control.config_file import ConfigFile
from dpu_runtime.control.control import Control
from dpu_runtime.control.state import StateDir
from tests.dpu_runtime.control.memory_device import MemoryDevice
from tests.live.daemons import in_thread

PORT = {"name": "web", "kind": "tap", "ifname": "eth0"}
RULE = {"name": "r", "priority": 1, "action": "drop"}
OWNED = {"name": "own", "kind": "tap", "ifname": "eth1", "owner": "engine"}
MOVED = {"name": "own", "ifname": "eth2"}
TEXT = '[[port]]\nname = "a"\nkind = "tap"\nifname = "a"\n'
CHANGES = {
    "port.add": (PORT, "runtime.json"),
    "rule.add": (RULE, "runtime.json"),
    "port.del": ({"name": "own"}, "runtime.json"),
    "port.detach": ({"owner": "engine"}, "runtime.json"),
    "port.relocate": (MOVED, "runtime.json"),
    "rule.del": ({"name": "there"}, "runtime.json"),
    "config.apply": ({"toml": TEXT}, "running.json"),
    "config.reload": ({}, "running.json"),
}


@pytest.fixture
def full(monkeypatch):
    """Function: the disk is full, or is not any more."""
    real = os.fsync

    def fsync(_fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def is_full(value=True):
        monkeypatch.setattr(os, "fsync", fsync if value else real)

    return is_full


@pytest.fixture
def api(tmp_path):
    control = Control(MemoryDevice(), StateDir(tmp_path), RuntimeConfig())
    path = tmp_path / "dpu.toml"
    path.write_text(TEXT)
    api = Api(control, ConfigFile(path))
    for name, params in (("port.add", OWNED), ("rule.add", {**RULE, "name": "there"})):
        call(api, name, params)
    return api


def call(api, name, params):
    result = asyncio.run(api.call(name, params))
    TypeAdapter(METHODS[name].result).validate_python(json.loads(json.dumps(result)))
    return result


def test_every_change_of_the_frame_is_among_these():
    of_the_frame = {name for name in METHODS if name.split(".")[0] in ("port", "config")}
    assert of_the_frame - {"port.show", "config.get"} <= set(CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_the_answer_of_a_change_says_that_it_is_not_kept(api, full, tmp_path, name):
    params, file = CHANGES[name]
    full()
    result = call(api, name, params)
    assert result["not_kept"] == f"{tmp_path}/{file}: No space left on device"
    assert call(api, "status", {})["not_kept"] == result["not_kept"]
    assert "not_kept" not in call(api, "port.show", {})
    full(False)
    assert "not_kept" not in call(api, "rule.add", {**RULE, "name": "later"})


def test_a_dry_run_and_a_refusal_say_nothing_of_it(api, full):
    full()
    call(api, "rule.add", RULE)
    assert "not_kept" not in call(api, "config.apply", {"toml": TEXT, "dry_run": True})


def test_it_is_tried_again_and_logged_once(api, full, monkeypatch, caplog, tmp_path):
    caplog.set_level("INFO")
    monkeypatch.setattr(control_module, "RETRY_S", 0.0)
    full()
    call(api, "port.add", PORT)
    for _ in range(3):
        asyncio.run(api.control.reap())
    assert caplog.text.count("a later daemon would not know of this change") == 1
    full(False)
    asyncio.run(api.control.reap())
    assert "what runs is kept again" in caplog.text
    assert api.control.not_kept is None
    assert [port.name for port in StateDir(tmp_path).load_kept().ports] == ["own", "web"]


def test_the_commands_print_it_and_exit_0(tmp_path, full, capsys):
    def dpu(*words):
        code = cli.main(["--socket", f"{tmp_path}/dpu.sock", *map(str, words)])
        out, errors = capsys.readouterr()
        return code, out, errors

    saved = tmp_path / "saved.toml"
    with in_thread(tmp_path):
        saved.write_text(config_toml(parse_config(TEXT)))
        assert dpu("status")[0] == 0  # it has started
        full()
        for words, file in (
            (("port", "add", "web", "--kind", "tap", "--ifname", "eth0"), "runtime.json"),
            (("rule", "add", "--name", "r", "--priority", 1, "--action", "drop"), "runtime.json"),
            (("apply", saved), "running.json"),
        ):
            code, out, errors = dpu(*words)
            assert code == 0
            text = (
                f"dpu: in force, but not kept, so a restart undoes it: {tmp_path}/state/{file}: No space left"
            )
            assert text in errors
        assert "+ port a" in out
        full(False)
        assert dpu("rule", "add", "--name", "s", "--priority", 1, "--action", "drop") == (0, "", "")
