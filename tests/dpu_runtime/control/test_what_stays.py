"""docs/what-stays.md: its first table, cell by cell, and the rule which file is in force."""

import errno
import os
from pathlib import Path

import pytest

from dpu_runtime.api.methods import Api
from dpu_runtime.config.errors import ConfigError, DaemonError
from dpu_runtime.config.file import config_toml, parse_config
from dpu_runtime.control.state import StateDir
from tests.dpu_runtime.control.lives import ADOPTED, ENDS, Lives, names, reloads
from tests.dpu_runtime.control.test_origin import rule, tap

PAGE = Path(__file__).resolve().parents[3] / "docs" / "what-stays.md"
FILE = '[[port]]\nname = "web"\nkind = "tap"\nifname = "web"\n'
APPLIED = (
    FILE.replace("web", "app") + '[[rule]]\nname = "of-app"\npriority = 1\nin_port = "app"\naction = "drop"\n'
)


def table():
    """{command: {end: cell}} of the page's first table."""
    rows = [line.strip("|").split("|") for line in PAGE.read_text().split("\n\n")[2].splitlines()]
    (_, *ends), _, *rows = [[cell.strip() for cell in row] for row in rows]
    return {command: dict(zip(ends, cells, strict=True)) for command, *cells in rows}


def applies(text):
    return lambda control: control.apply(parse_config(text))


def adds_port(name, **keys):
    return lambda control: control.add_port(tap(name, **keys))


def adds_rule(name, **keys):
    return lambda control: control.add_item("rule", rule(name=name, **keys))


def deletes(name):
    return lambda control: control.del_port(name)


def saves(folder):
    async def save(control):
        (folder / "saved.toml").write_text(config_toml(control.running))

    return save


@pytest.fixture
def lives(tmp_path, monkeypatch):
    return Lives(tmp_path, monkeypatch)


def test_the_page_has_all_ways_to_end():
    assert {tuple(cells) for cells in table().values()} == {ENDS}


# command -> (what is asked, names that are there after it, names that are not)
COMMANDS = {
    "`dpu port add`": ([adds_port("db")], {"db"}, set()),
    "`dpu rule add`": ([adds_rule("r")], {"r"}, set()),
    "`dpu apply`": ([applies(APPLIED)], {"app", "of-app"}, {"web"}),
    "`dpu run -c FILE`": ([], {"web"}, set()),
    "`dpu reload`, SIGHUP": ([applies(APPLIED), reloads(FILE)], {"web"}, {"app", "of-app"}),
    "`dpu port del`": ([adds_port("db"), adds_port("x"), deletes("db")], {"x"}, {"db"}),
    "`dpu port del` of a port of FILE": ([deletes("web")], set(), {"web"}),
    "`dpu save`": ([], set(), set()),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("command", table())
def test_a_cell(lives, command, end):
    cell = table()[command][end]
    asked, there, gone = COMMANDS[command]
    before = lives.live(*asked, *([saves(lives.folder)] if "save" in command else []), file=FILE, end=end)
    assert there <= names(before)
    assert not gone & names(before)
    with_file = lives.live(file=FILE, end=end)
    without = lives.live(end=end)
    if cell == "changes nothing":
        assert lives.folder.joinpath("saved.toml").read_text() == config_toml(before.running)
        assert names(with_file) == {"web"}
        return
    as_file_says = {"web"} if cell == "by the file" else set()
    assert there <= names(with_file)
    assert names(with_file) & gone == gone & as_file_says
    assert names(without) >= (there - as_file_says)
    assert not names(without) & (as_file_says | gone)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("file", [None, FILE])
def test_what_was_saved_and_applied_is_there_again(lives, end, file, caplog):
    """The ports of commands become those of an applied file."""
    caplog.set_level("INFO")
    asked = [adds_port("db"), adds_rule("r", in_port="db")]

    async def save_and_apply(control):
        assert await control.apply(parse_config(config_toml(control.running))) == []

    async def applied_is(control):
        seen.append((await Api(control).call("status", {}))["applied"])

    seen = []
    before = lives.live(*asked, applied_is, save_and_apply, file=file, end=end)
    for _ in range(2):
        again = lives.live(applied_is, file=file, end=end)
        assert (again.running.port, again.running.rule) == (before.running.port, before.running.rule)
    assert ("in force as `dpu apply` left it: 1 ports" in caplog.text) is (
        end not in ADOPTED and file is None
    )
    assert "is dropped" not in caplog.text
    assert seen == [False, True, True]


def test_the_log_says_that_the_file_is_not_in_force(lives, caplog):
    """It may have been edited, applied and set back."""
    lives.live(applies(APPLIED), file=FILE)
    lives.live(file=FILE)
    text = "what was applied is in force, not the file, which differs in 3 lines; `dpu apply FILE` makes"
    assert text in caplog.text
    lives.live(applies(FILE), file=FILE)
    caplog.clear()
    lives.live(file=FILE)
    assert "not the file" not in caplog.text


def test_comments_and_keys_of_the_restart_do_not_change_a_file(lives):
    lives.live(applies(APPLIED), file=FILE)
    assert names(lives.live(file="# as it was\n" + FILE)) == {"app", "of-app"}
    assert names(lives.live(file="idle_spin_us = 7\n" + FILE)) == {"app", "of-app"}


@pytest.mark.parametrize("first", [None, FILE, FILE.replace("web", "first")])
def test_another_file_wins_and_the_log_says_what_it_changes(lives, first, caplog):
    lives.live(applies(APPLIED), adds_port("db"), file=first)
    other = FILE + "mtu = 1400\n"
    assert names(lives.live(file=other)) == {"web", "db"}
    assert "not as it was applied: - port app" in caplog.text
    assert "not as it was applied: + port web: kind tap, mtu 1400, ifname web" in caplog.text
    assert "not as it was applied: - rule of-app" in caplog.text
    copy = lives.folder / "state" / "applied.toml"
    assert (
        f"it wins, and what was applied is forgotten; `dpu apply {copy}` makes that run again" in caplog.text
    )
    assert names(lives.live(file=first)) == {"db"} | ({"first"} if first and "first" in first else set()) | (
        {"web"} if first == FILE else set()
    )
    assert names(lives.live(applies(copy.read_text()))) == {"app", "of-app"}


def test_a_file_that_says_what_was_applied_wins_without_a_line(lives, caplog):
    """`dpu apply` of the file itself, after an edit."""
    lives.live(applies(APPLIED), file=FILE)
    assert names(lives.live(file=APPLIED)) == {"app", "of-app"}
    assert "not as it was applied" not in caplog.text
    assert names(lives.live()) == set()


def test_a_file_that_cannot_run_forgets_nothing(lives):
    lives.live(applies(APPLIED), file=FILE)
    bad = FILE + FILE.replace('name = "web"', 'name = "same"').replace('ifname = "web"', 'ifname = "web2"')
    device = "tests.dpu_runtime.control.memory_device.MemoryDevice.add_port"

    async def refuse(_self, _port):
        raise OSError(16, "busy")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, refuse)
        with pytest.raises(Exception, match="busy"):
            lives.live(file=bad)
    assert names(lives.live(file=FILE)) == {"app", "of-app"}


def test_what_was_applied_goes_on_when_a_data_plane_is_adopted_with_another_file(lives, caplog):
    lives.live(applies(APPLIED), file=FILE, end="crash of the control process")
    other = FILE.replace("web", "new")
    assert names(lives.live(file=other)) == {"app", "of-app"}
    assert "not applied: + port new" in caplog.text
    assert names(lives.live(file=other)) == {"new"}


def test_a_kill_between_the_two_files_of_an_apply_leaves_one_of_each(lives, monkeypatch, caplog):
    """What was made at run time is the file's now, and still in runtime.json."""

    async def killed(control):
        monkeypatch.setattr(StateDir, "keep", lambda *_: None)
        await control.apply(parse_config(config_toml(control.running)))

    lives.live(adds_port("db"), adds_rule("r", in_port="db"), killed, end="crash of both processes")
    monkeypatch.undo()
    for _ in range(2):
        assert names(lives.live()) == {"db", "r"}
    assert "is dropped" not in caplog.text


def test_a_start_that_is_killed_forgets_nothing(lives, monkeypatch):
    lives.live(applies(APPLIED + FILE), adds_port("db"), file=FILE)

    async def killed(_self, port):
        assert port.name != "web"

    monkeypatch.setattr("tests.dpu_runtime.control.memory_device.MemoryDevice.add_port", killed)
    with pytest.raises(AssertionError):
        lives.live(file=FILE, end="crash of both processes")
    monkeypatch.undo()
    assert names(lives.live(file=FILE)) == {"app", "of-app", "web", "db"}


def test_a_full_disk_does_not_keep_a_daemon_from_starting(lives, monkeypatch, caplog):
    lives.live(applies(APPLIED), adds_port("db"))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(os, "pwrite", full)
    assert names(lives.live(file=FILE, end="crash of both processes")) == {"web", "db"}
    copy = lives.folder / "state" / "applied.toml"
    assert f"what was applied is forgotten; no copy of it: {copy}: No space left on device" in caplog.text
    monkeypatch.undo()
    assert names(lives.live()) == {"app", "of-app", "db"}  # it could not be forgotten either


def test_a_port_that_was_applied_and_deleted_stays_deleted(lives):
    lives.live(applies(APPLIED + FILE), deletes("web"))
    assert names(lives.live()) == {"app", "of-app"}


@pytest.mark.parametrize("end", ENDS)
def test_after_a_reload_the_file_as_it_is_now_is_in_force(lives, end, caplog):
    """It was edited and read again: the next start finds what it knows, and warns of nothing."""
    edited = FILE.replace("web", "new")
    before = lives.live(applies(APPLIED), adds_port("db"), reloads(edited), file=FILE, end=end)
    assert names(before) == {"new"}
    assert before.origin.applied is None
    for _ in range(2):
        assert names(lives.live(file=edited, end=end)) == {"new"}
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert names(lives.live(applies(APPLIED), file=edited)) == {"app", "of-app"}
    assert names(lives.live(file=edited)) == {"app", "of-app"}


def test_an_apply_after_a_reload_is_in_force_with_the_file_that_was_read_last(lives):
    edited = FILE.replace("web", "new")
    lives.live(reloads(edited), applies(APPLIED), file=FILE)
    assert names(lives.live(file=edited)) == {"app", "of-app"}
    assert names(lives.live(file=FILE)) == {"web"}


def test_a_reload_after_an_apply_puts_the_file_in_force_again(lives, caplog):
    """The file itself has not changed; what was applied was in force over a restart too."""
    lives.live(applies(APPLIED), file=FILE)
    assert names(lives.live(reloads(FILE), file=FILE)) == {"web"}
    caplog.clear()
    assert names(lives.live(file=FILE)) == {"web"}
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert names(lives.live()) == set()


def test_a_reload_that_is_refused_leaves_what_was_applied_in_force(lives):
    wrong = FILE + "mtu = 1\n"

    async def refused(control):
        with pytest.raises(ConfigError):
            await reloads(wrong)(control)

    lives.live(applies(APPLIED), refused, file=FILE)
    assert names(lives.live(file=FILE)) == {"app", "of-app"}


def test_settings_are_applied_too(lives):
    text = "[runtime]\ndefault_ingress = 'drop'\n"
    lives.live(applies(text))
    assert lives.live().running.runtime.default_ingress == "drop"
    assert lives.live(file="default_ingress = 'allow'\n").running.runtime.default_ingress == "allow"


def test_one_applied_port_that_cannot_come_back_costs_that_port_only(lives, caplog):
    """A reboot, and the process whose namespace it was in is gone."""
    gone = '[[port]]\nname = "gone"\nkind = "tap"\nnetns = "pid:1"\nifname = "eth0"\n'
    named = '[[rule]]\nname = "r"\npriority = 1\nin_port = "gone"\naction = "drop"\n'
    lives.live(applies(APPLIED + gone + named), end="reboot")
    assert names(lives.live()) == {"app", "of-app"}
    assert "port gone, applied, is dropped: the process of netns 'pid:1' is gone" in caplog.text
    assert "rule r, applied, is dropped: it names port gone" in caplog.text


def test_an_entry_that_this_version_does_not_know_costs_that_entry(lives, caplog):
    lives.live(applies(APPLIED))
    path = lives.folder / "state" / "running.json"
    path.write_text(path.read_text().replace('"action":"drop"', '"action":"fling"'))
    assert names(lives.live()) == {"app"}
    assert 'applied, and lost: rule of-app: action = "fling": allowed: ' in caplog.text
    assert "fling" in (path.parent / "running.json.refused-1").read_text()


def test_a_file_of_an_older_version_is_read(lives):
    """It has no word of what was applied: nothing was."""
    lives.live(file=FILE, end="crash of both processes")
    path = lives.folder / "state" / "running.json"
    assert "applied" not in path.read_text()
    assert StateDir(path.parent).load_applied() is None
    assert names(lives.live()) == set()


@pytest.mark.parametrize("text", ["{", '{"version": 2}', '{"version": 1, "config": [], "applied": {}}'])
def test_a_damaged_file_is_kept_aside_and_the_daemon_starts(lives, text, caplog):
    lives.live(applies(APPLIED))
    path = lives.folder / "state" / "running.json"
    path.write_text(text)
    assert names(lives.live(file=FILE)) == {"web"}
    assert f"applied, and lost: {path}" in caplog.text
    assert (path.parent / "running.json.refused-1").read_text() == text


def test_fresh_forgets_and_says_what(lives, caplog):
    lives.live(applies(APPLIED), adds_port("db"), adds_rule("r", in_port="db"))
    assert names(lives.live(file=FILE, fresh=True)) == {"web"}
    assert "--fresh: applied, forgotten: port app and rule of-app" in caplog.text
    assert "--fresh: made at run time, forgotten: port db and rule r" in caplog.text
    assert names(lives.live()) == set()


def test_fresh_is_refused_while_a_data_plane_runs(lives):
    lives.live(applies(APPLIED), adds_port("db"), end="crash of the control process")
    with pytest.raises(DaemonError, match="--fresh: data plane 1 runs in state directory "):
        lives.live(fresh=True)
    running = lives.folder / "state" / "running.json"
    assert running.exists()
