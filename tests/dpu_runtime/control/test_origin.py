"""What the file has and what was made at run time: who keeps what, over `dpu apply`, restarts and damage."""

import asyncio

import pytest

from dpu_runtime.config.errors import ApplyError, ConfigError, DaemonError
from dpu_runtime.config.file import config_toml, parse_config
from dpu_runtime.config.models import VhostUserPort
from dpu_runtime.control.control import Control
from dpu_runtime.control.origin import Kept
from dpu_runtime.control.state import StateDir
from dpu_runtime.functions.acl.config import RuleConfig
from tests.dpu_runtime.control.memory_device import MemoryDevice
from tests.dpu_runtime.control.test_plan import make, matches

FILE = '[[port]]\nname = "web"\nkind = "tap"\nifname = "web"\n'
RULE = "[[rule]]\npriority = 5\naction = 'drop'\n"


def tap(name, **keys):
    return make({"name": name, **keys}).port[0]


def rule(**keys):
    return RuleConfig.model_validate({"priority": 1, "action": "drop", **keys})


def started(folder, file="", **device):
    """A `Control` on a device in memory, and on the state that an earlier one left in `folder`."""
    folder.mkdir(exist_ok=True)
    state = StateDir(folder)
    control = Control(MemoryDevice(**device), state, parse_config("").runtime)
    asyncio.run(control.start(parse_config(file), state.load_kept()))
    return control


def ports(control):
    assert matches(control)
    return [port.name for port in control.running.port]


def rules(control):
    return [rule.name for rule in control.running.rule]


def run(coroutine):
    return asyncio.run(coroutine)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "state"


def test_what_was_made_at_run_time_comes_back_and_the_file_decides_on_its_own(folder):
    control = started(folder, FILE)
    run(control.add_port(tap("db", owner="attach", address=["10.0.0.2/24"])))
    run(control.add_item("rule", rule(name="no-db", out_port="db", stage="egress")))
    run(control.add_port(tap("gone")))
    run(control.del_port("gone"))
    run(control.del_port("web"))
    run(control.stop())
    again = started(folder, FILE)
    assert ports(again) == ["web", "db"]
    assert again.running.port[1] == control.running.port[0]
    assert rules(again) == ["no-db"]
    assert ports(started(folder)) == ["db"]


def test_ports_come_back_closed_until_their_rules_are_set(folder):
    control = started(folder)
    run(control.add_port(tap("a")))
    run(control.add_item("rule", rule(name="r", in_port="a")))
    again = started(folder)
    assert again.device.calls == ["add a", "set acl"]
    assert again.device.open == {"a"}


def test_a_port_that_cannot_come_back_goes_with_its_rules_and_the_others_come(folder, caplog):
    control = started(folder)
    for name in "abc":
        run(control.add_port(tap(name)))
        run(control.add_item("rule", rule(name=f"r{name}", in_port=name)))
    device = MemoryDevice()
    device.fail["add b"] = 1
    state = StateDir(folder)
    again = Control(device, state, parse_config("").runtime)
    run(again.start(parse_config(""), state.load_kept()))
    assert ports(again) == ["a", "c"]
    assert rules(again) == ["ra", "rc"]
    assert "port b, made at run time, is dropped: port 'b': add: Device or resource busy" in caplog.text
    assert "rule rb, made at run time, is dropped: it names port b" in caplog.text
    assert [port.name for port in state.load_kept().ports] == ["a", "c"]


def test_names_that_the_file_took_meanwhile_are_the_files(folder, caplog):
    control = started(folder)
    run(control.add_port(tap("web", ifname="other")))
    run(control.add_port(tap("x", ifname="web")))
    run(control.add_port(tap("db")))
    run(control.add_item("rule", rule(in_port="db")))  # rule-1
    run(control.add_item("rule", rule(name="named", in_port="db")))
    named = "[[rule]]\nname = 'named'\npriority = 6\naction = 'allow'\n"
    again = started(folder, FILE + RULE + named)
    assert ports(again) == ["web", "db"]
    assert again.running.port[0].ifname == "web"
    assert rules(again) == ["rule-1", "named", "rule-2"]
    assert again.running.rule[2].in_port == "db"
    assert (
        "port web, made at run time, is dropped: the configuration file has a port of this name"
        in caplog.text
    )
    assert "port x, made at run time, is dropped" in caplog.text
    assert "rule named, made at run time, is dropped: the configuration file has" in caplog.text


def test_nothing_is_lost_when_the_start_is_cut_short(folder):
    control = started(folder)
    run(control.add_port(tap("a")))
    state = StateDir(folder)
    device = MemoryDevice()
    device.fail["set acl"] = 1
    second = Control(device, state, parse_config("").runtime)
    with pytest.raises(ApplyError):
        run(second.start(parse_config(RULE), state.load_kept()))
    assert ports(started(folder)) == ["a"]


def test_apply_leaves_owned_ports_and_their_rules_alone(folder):
    control = started(folder, FILE + RULE)
    run(control.add_port(tap("mine")))
    for name in ("own", "took"):
        run(control.add_port(tap(name, owner="engine")))
    run(control.add_item("rule", rule(name="stays", in_port="own")))
    run(control.add_item("rule", rule(in_port="took", out_port="own", stage="egress")))  # rule-2
    run(control.add_item("rule", rule(name="goes", in_port="mine", out_port="own", stage="egress")))
    wanted = parse_config(FILE.replace("web", "took") + RULE + RULE)
    expected = run(control.apply(wanted, dry_run=True))
    assert ports(control) == ["web", "mine", "own", "took"]
    control.device.calls.clear()
    assert run(control.apply(wanted)) == expected
    assert ports(control) == ["took", "own"]
    assert "update took" in control.device.calls
    assert control.running.port[0].owner is None
    assert rules(control) == ["rule-1", "rule-2", "stays", "rule-3"]
    assert run(control.apply(wanted)) == []
    kept = StateDir(folder).load_kept()
    assert [port.name for port in kept.ports] == ["own"]
    assert [rule.name for rule in kept.items["rule"]] == ["stays", "rule-3"]


def test_apply_clears_a_cross_connect_of_an_owned_port_to_one_that_goes(folder):
    control = started(folder)
    run(control.add_port(VhostUserPort(name="a", kind="vhost_user", socket="/a")))
    b = VhostUserPort(name="b", kind="vhost_user", socket="/b", xconnect="a", owner="engine")
    run(control.add_port(b))
    run(control.apply(parse_config("")))
    assert [(port.name, port.xconnect) for port in control.running.port] == [("b", None)]


def test_an_owned_port_whose_interface_is_gone_is_detached(folder, caplog):
    caplog.set_level("INFO")
    control = started(folder)
    run(control.add_port(tap("own", owner="engine")))
    run(control.add_port(tap("mine")))
    run(control.add_item("rule", rule(name="r", in_port="own")))
    control.device.lost = {"own", "mine"}
    run(control.reap())
    assert ports(control) == ["mine"]
    assert rules(control) == []
    assert "port own of engine is detached: its interface is gone; with rules r" in caplog.text
    assert [port.name for port in StateDir(folder).load_kept().ports] == ["mine"]


def test_an_owned_port_that_is_gone_does_not_keep_its_name(folder):
    control = started(folder)
    run(control.add_port(tap("own", owner="engine")))
    control.device.lost = {"own"}
    run(control.add_port(tap("own", owner="engine", mtu=1400)))
    assert control.running.port[0].mtu == 1400
    with pytest.raises(ConfigError, match="another port has this name"):
        control.device.lost = set()
        run(control.add_port(tap("own", owner="engine")))


def test_a_process_of_the_same_number_is_not_the_same_process(folder, caplog, monkeypatch):
    control = started(folder)
    run(control.add_port(tap("a", netns="pid:1")))
    run(control.add_port(tap("b", netns="web")))
    run(control.stop())
    assert ports(started(folder)) == ["a", "b"]
    monkeypatch.setattr("dpu_runtime.control.origin.process_identity", lambda netns: f"another {netns}")
    assert ports(started(folder)) == ["b"]
    assert "port a, made at run time, is dropped: the process of netns 'pid:1' is gone" in caplog.text


def test_adoption_knows_whose_everything_is(folder):
    control = started(folder, FILE + RULE)
    run(control.add_port(tap("db")))
    run(control.add_item("rule", rule(name="r", in_port="db")))
    run(control.add_port(tap("late")))
    state = StateDir(folder)
    device = MemoryDevice(adopted=True)
    device.preset(control.running)
    kept = state.load_kept()
    kept.ports.pop()  # the control process was killed before it had written it
    adopted = Control(device, state, parse_config("").runtime)
    run(adopted.adopt(state.load(), kept))
    assert ports(adopted) == ["web", "db", "late"]
    assert rules(adopted) == ["rule-1", "r"]
    run(adopted.stop())
    assert ports(started(folder)) == ["db", "late"]


def test_a_port_of_a_vhost_user_program_is_not_kept(folder):
    control = started(folder)
    run(control.add_port(VhostUserPort(name="v", kind="vhost_user", socket="/v", owner="vhost-user")))
    assert StateDir(folder).load_kept() == Kept()


def test_relocating_a_port_of_the_file_is_refused(folder):
    control = started(folder, FILE)
    with pytest.raises(ApplyError, match="port 'web' is in the configuration file, which says where it is"):
        run(control.relocate("web", {"netns": None, "ifname": "x"}))


DAMAGE = {
    "no JSON": ('{"version":', "cannot be read"),
    "an older version": ('{"version": 1, "ports": [], "rules": [], "processes": {}}\n', "version 1, not 2"),
    "a newer version": ('{"version": 3}', "version 3, not 2"),
    "no version": ('{"port": {}}\n', "KeyError('version')"),
    "a list": ("[]", "cannot be read"),
    "a change that is none": ('{"version": 2}\n[1]\n{}\n', "cannot be read"),
    "a change that is no JSON": ('{"version": 2}\n{"port":\n', "cannot be read"),
    "ports that are none": ('{"version": 2}\n{"port": 3}\n', "cannot be read"),
    "empty": ("", "cannot be read"),
}


@pytest.mark.parametrize(("text", "why"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_refused_with_a_text(folder, text, why):
    folder.mkdir()
    (folder / "runtime.json").write_text(text)
    state = StateDir(folder)
    with pytest.raises(DaemonError) as caught:
        state.load_kept()
    assert str(caught.value).startswith(f"{folder}/runtime.json")
    assert why in str(caught.value)
    (folder / "runtime.json.refused-1").touch()
    aside = state.set_aside()
    assert aside.name == "runtime.json.refused-2"
    assert aside.read_text() == text
    assert state.load_kept() == Kept()


def test_one_damaged_entry_costs_that_entry_only(folder):
    control = started(folder)
    run(control.add_port(tap("a")))
    run(control.add_port(tap("b")))
    path = folder / "runtime.json"
    path.write_text(path.read_text().replace('"ifname":"a"', '"ifname":"a","mtu":1'))
    kept = StateDir(folder).load_kept()
    assert [port.name for port in kept.ports] == ["b"]
    assert kept.refused == ["port a: mtu = 1: allowed: 68..65535 octets"]


def test_an_unchanged_file_is_not_written_again(folder):
    control = started(folder, FILE)
    before = (folder / "running.json").stat().st_ino
    run(control.add_port(tap("a")))
    assert (folder / "running.json").stat().st_ino == before


def test_a_file_has_no_owner_and_saving_leaves_owned_ports_out(folder):
    with pytest.raises(ConfigError) as caught:
        parse_config(FILE + "owner = 'me'\n", "f")
    assert str(caught.value).startswith('f:5: port[0].owner = "me": only port.add gives an owner')
    control = started(folder, FILE)
    run(control.add_port(tap("own", owner="engine")))
    run(control.add_item("rule", rule(in_port="own")))
    saved = parse_config(config_toml(control.running))
    assert [port.name for port in saved.port] == ["web"]
    assert run(control.apply(saved)) == []
