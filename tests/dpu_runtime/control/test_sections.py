"""Plans, origin and state of items that name each other, with a function that is not the project's."""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpu_runtime.config.errors import ApplyError, ConfigError, DaemonError
from dpu_runtime.config.file import parse_config
from dpu_runtime.control.control import Control, plan
from dpu_runtime.control.state import StateDir
from tests.dpu_runtime.config.configs import config_data
from tests.dpu_runtime.control.memory_device import MemoryDevice
from tests.dpu_runtime.control.test_plan import NoState, matches
from tests.functions import toy

FILE = "".join(f'[[port]]\nname = "{name}"\nkind = "null"\n' for name in "ab")
RULE = '[[rule]]\nname = "r"\npriority = 1\naction = "drop"\nin_port = "a"\n'
TAG = '[[tag]]\nname = "t"\nport = "b"\n'


@pytest.fixture
def models(monkeypatch):
    return toy.use(monkeypatch, toy.FUNCTION)


@pytest.fixture
def make(models):
    """Function of lists of ports, rules and tags: a configuration."""

    def made(ports="", rules=(), tags=(), **runtime):
        data = {"port": [{"name": name, "kind": "null"} for name in ports], "runtime": runtime}
        data["rule"] = [{"priority": 1, "action": "drop", **rule} for rule in rules]
        return models.Config.model_validate({**data, "tag": list(tags)})

    return made


@pytest.fixture
def started(models, tmp_path):
    """Function of a file's text: a Control on a device in memory and on what an earlier one left."""

    def start(file="", **device):
        state = StateDir(tmp_path)
        control = Control(MemoryDevice(**device), state, parse_config("").runtime)
        run(control.start(parse_config(file), state.load_kept()))
        return control

    return start


def run(coroutine):
    return asyncio.run(coroutine)


def control_with(config, models, **device):
    control = Control(MemoryDevice(**device), NoState(), models.RuntimeConfig())
    run(control.apply(config))
    control.device.calls.clear()
    return control


def steps(old, new):
    return [str(step) for step in plan.diff(old, new)]


def rule(models, **keys):
    (section,) = (section for section in models.Config.SECTIONS if section.key == "rule")
    return section.model.model_validate({"priority": 1, "action": "drop", **keys})


R, T = {"name": "r", "in_port": "a"}, {"name": "t", "port": "b", "rule": "r"}


def test_what_is_named_is_set_first_and_taken_away_last(make):
    assert steps(make(), make("ab", [R], [T])) == ["add port a", "add port b", "set acl", "set toy"]
    assert steps(make("ab", [R], [T]), make()) == ["set toy", "set acl", "del port a", "del port b"]


def test_what_names_something_that_is_replaced_is_away_meanwhile(make):
    old = make("ab", [R], [T, {"name": "u", "port": "b"}])
    new = make("ab", [R | {"name": "s"}], [T | {"rule": "s"}, {"name": "u", "port": "b"}])
    off, acl, on = plan.diff(old, new)
    assert (str(off), str(acl), str(on)) == ("set toy", "set acl", "set toy")
    assert [tag.name for tag in off.items["tag"]] == ["u"]
    assert [tag.name for tag in on.items["tag"]] == ["t", "u"]


def test_an_item_that_only_changes_leaves_those_that_name_it_alone(make):
    old = make("ab", [R], [T])
    assert steps(old, make("ab", [R | {"priority": 9}], [T])) == ["set acl"]
    assert steps(old, make("ab", [R], [T | {"value": 7}])) == ["set toy"]


def test_what_can_do_without_is_not_taken_away(make):
    old = make("ab", [R], [T | {"rule": None, "hint": "r"}])
    assert steps(old, make("ab", [], [T | {"rule": None}])) == ["set acl", "set toy"]


def test_a_port_that_is_replaced_takes_what_names_it_away_however_far(make, models):
    old = make("ab", [R], [T])
    control = control_with(old, models, in_place=())
    run(control.apply(make("ab", [R], [T]).model_copy(update={"port": [changed(old.port[0]), old.port[1]]})))
    assert control.device.calls == ["update a", "set toy", "set acl", "del a", "add a", "set acl", "set toy"]
    assert matches(control)


def changed(port):
    return port.model_copy(update={"mtu": 9000})


def test_settings_are_set_with_the_items(make):
    (step,) = plan.diff(make("ab", [R], [T]), make("ab", [R], [T], toy_level=3))
    assert str(step) == "set toy"
    assert step.settings == toy.ToySettings(toy_level=3)
    assert step.applied(make("ab", [R], [T])) == make("ab", [R], [T], toy_level=3)


def test_a_setting_that_does_not_change_while_the_daemon_runs(make, models):
    control = control_with(make(), models)
    with pytest.raises(ConfigError, match="toy_size = 2: only a restart changes it, the daemon runs with 1"):
        run(control.apply(make(toy_size=2)))


def test_summary_has_a_line_for_each_item(make):
    old = make("ab", [R], [T, {"port": "a"}])
    new = make("ab", [R], [{"port": "a"}, T | {"others": ["a"]}, {"name": "n", "port": "b"}], toy_level=3)
    assert plan.summary(old, new) == [
        "~ runtime.toy_level: 0 -> 3",
        "~ tag t: others [] -> [a]",
        "+ tag n: port b",
    ]
    swapped = old.model_copy(update={"tag": old.tag[::-1]})
    assert plan.summary(old, swapped) == ["~ tag order"]


@pytest.mark.parametrize("failing", ["add new", "del b", "update a", "set acl", "set toy"])
def test_failure_rolls_everything_back(make, models, failing):
    old = make("ab", [R], [T, {"name": "u", "port": "b"}])
    control = control_with(old, models)
    new = make(["a", "new"], [R | {"name": "s"}], [{"name": "u", "port": "new", "rule": "s"}], toy_level=3)
    new = new.model_copy(update={"port": [changed(new.port[0]), new.port[1]]})
    for times in (1, 2):
        control.device.fail[failing] = times
        try:
            run(control.apply(new))
        except ApplyError as error:
            assert error.rolled_back == matches_exactly(control, old)
        assert matches(control)
        control.device.fail.clear()
        run(control.apply(old))
        assert matches_exactly(control, old)


def matches_exactly(control, config):
    return matches(control) and control.running == config


@st.composite
def configs(draw, models):
    config = models.Config.model_validate(draw(config_data()))
    ports, rules = ([item.name for item in items] for items in (config.port, config.rule))
    tags = []
    for i in range(draw(st.integers(0, 3)) if ports else 0):
        tag = {"port": draw(st.sampled_from(ports)), "others": draw(st.lists(st.sampled_from(ports)))}
        if draw(st.booleans()):
            tag["name"] = f"named-{i}"
        if rules:
            optional = {"rule": st.sampled_from(rules), "hint": st.sampled_from(rules)}
            tag |= draw(st.fixed_dictionaries({}, optional=optional))
        tags.append(toy.TagConfig.model_validate(tag))
    runtime = models.RuntimeConfig(toy_level=draw(st.integers(0, 2)))
    return models.Config.of_models(**{**config.parts(), "tag": tags, "runtime": runtime})


WITH_TOY = toy.models_with(toy.FUNCTION)


IN_PLACE = [(), ("mtu", "vlan", "trunk", "address", "route")]


@settings(max_examples=60, deadline=None)
@given(configs(WITH_TOY), configs(WITH_TOY), st.sampled_from(IN_PLACE))
def test_any_configuration_follows_any_other(first, second, in_place):
    with pytest.MonkeyPatch.context() as patch:
        toy.use_models(patch, WITH_TOY)
        control = control_with(first, WITH_TOY, in_place=in_place)
        run(control.apply(second))
    assert matches_exactly(control, second)


@settings(max_examples=60, deadline=None)
@given(configs(WITH_TOY), configs(WITH_TOY), st.integers(0, 9))
def test_any_failure_leaves_the_first_configuration(first, second, fails_at):
    with pytest.MonkeyPatch.context() as patch:
        toy.use_models(patch, WITH_TOY)
        control = control_with(first, WITH_TOY)
        if not (names := steps(first, second)):
            return
        control.device.fail[names[fails_at % len(names)].replace(" port", "")] = 1
        with pytest.raises(ApplyError):
            run(control.apply(second))
    assert matches_exactly(control, first)


def test_items_come_and_go(make, models):
    control = control_with(make("ab"), models)
    assert run(control.add_item("tag", toy.TagConfig(port="a"))) == "mark-1"
    assert run(control.add_item("tag", toy.TagConfig(port="b"))) == "mark-2"
    with pytest.raises(ConfigError) as caught:
        run(control.add_item("tag", toy.TagConfig(port="c")))
    assert str(caught.value) == 'port = "c": no such port, there are: a, b'
    with pytest.raises(ApplyError, match="no tag 'x', there are: mark-1, mark-2"):
        run(control.del_item("tag", "x"))
    run(control.del_item("tag", "mark-1"))
    assert [tag.name for tag in control.device.items["tag"]] == ["mark-2"]


def test_what_is_named_cannot_be_deleted(make, models):
    control = control_with(make("ab", [R], [T, {"name": "u", "port": "a", "others": ["b", "b"]}]), models)
    for section, name, why in (
        ("rule", "r", "rule 'r' is named by tag t"),
        ("port", "a", "port 'a' is named by rule r and tag u"),
        ("port", "b", "port 'b' is named by tag t, u"),
    ):
        with pytest.raises(ApplyError) as caught:
            run(control.del_item(section, name))
        assert str(caught.value) == why
    run(control.apply(make("ab", [R], [{"name": "t", "port": "b", "hint": "r"}])))
    with pytest.raises(ApplyError, match="rule 'r' is named by hint of tag t"):
        run(control.del_item("rule", "r"))


def test_detach_takes_along_what_names_the_port_however_far(make, models, caplog):
    caplog.set_level("INFO")
    tags = [T, {"name": "u", "port": "b", "hint": "r"}, {"name": "v", "port": "b", "others": ["a"]}]
    control = control_with(make("ab", [R], tags), models)
    run(control.detach("a"))
    assert [(tag.name, tag.hint) for tag in control.running.tag] == [("u", None)]
    assert control.device.calls == ["set toy", "set acl", "del a", "set toy"]
    assert "port a is detached: asked to; with rules r and marks t, v" in caplog.text
    assert matches(control)


def test_what_was_made_at_run_time_comes_back(models, started, caplog):
    caplog.set_level("INFO")
    control = started(FILE + RULE)
    for name in "xy":
        run(control.add_item("tag", toy.TagConfig(name=name, port="a", rule="r", others=["b"])))
    run(control.add_item("rule", rule(models, name="s")))
    run(control.add_item("tag", toy.TagConfig(port="b", rule="s")))
    run(control.del_item("tag", "y"))
    before = control.running
    again = started(FILE + RULE)
    assert again.running == before
    assert "0 ports, 1 rules and 2 marks made at run time are back" in caplog.text
    lines = [json.loads(line) for line in (again._state.path / "runtime.json").read_text().splitlines()]
    assert lines[1:] == [
        {"rule": {"s": {"name": "s", "priority": 1, "action": "drop"}}},
        {"tag": {"x": {"name": "x", "port": "a", "others": ["b"], "rule": "r"}}},
        {"tag": {"mark-1": {"name": "mark-1", "port": "b", "rule": "s"}}},
    ]


def test_what_names_something_that_does_not_come_back_is_dropped(models, started, caplog):
    control = started(FILE + RULE)
    run(control.add_item("tag", toy.TagConfig(name="gone", port="a", others=["b"], rule="r")))
    run(control.add_item("tag", toy.TagConfig(name="stays", port="b", hint="r")))
    again = started(FILE.replace('"a"', '"z"'))
    assert [(tag.name, tag.hint) for tag in again.running.tag] == [("stays", None)]
    assert "tag gone, made at run time, is dropped: it names port a and rule r" in caplog.text
    assert matches(again)


def test_what_names_a_made_up_name_follows_it(models, started):
    control = started(FILE)
    run(control.add_item("rule", rule(models, in_port="b")))
    run(control.add_item("tag", toy.TagConfig(port="a", rule="rule-1", hint="rule-1")))
    again = started(FILE + RULE.replace('"r"', '"rule-1"') + TAG.replace('"t"', '"mark-1"'))
    assert [(one.name, one.in_port) for one in again.running.rule] == [("rule-1", "a"), ("rule-2", "b")]
    assert [(tag.name, tag.rule, tag.hint) for tag in again.running.tag] == [
        ("mark-1", None, None),
        ("mark-2", "rule-2", "rule-2"),
    ]


def test_a_port_that_names_an_item_comes_back_before_it(models, started):
    control = started(FILE, in_place=("toy_tag",))
    run(control.add_item("tag", toy.TagConfig(port="a")))  # mark-1
    run(control.add_port(models.NullPort(name="own", kind="null", toy_tag="mark-1", owner="engine")))
    run(control.add_item("tag", toy.TagConfig(port="own")))
    with pytest.raises(ApplyError, match="tag 'mark-1' is named by toy_tag of port own"):
        run(control.del_item("tag", "mark-1"))
    again = started(FILE + TAG.replace('"t"', '"mark-1"'), in_place=("toy_tag",))
    assert [(port.name, port.toy_tag) for port in again.running.port][2:] == [("own", "mark-3")]
    assert [(tag.name, tag.port) for tag in again.running.tag][1:] == [("mark-3", "a"), ("mark-2", "own")]
    assert again.device.calls[-2:] == ["update own", "set toy"]
    run(again.apply(parse_config(FILE + TAG.replace('"t"', '"mark-2"'))))
    assert [(port.name, port.toy_tag) for port in again.running.port][2:] == [("own", None)]
    assert [(tag.name, tag.port) for tag in again.running.tag] == [("mark-2", "b"), ("mark-1", "own")]


def test_a_port_whose_item_does_not_come_back_is_without_it(models, started):
    control = started(FILE, in_place=("toy_tag",))
    run(control.add_item("tag", toy.TagConfig(name="t", port="a")))
    run(control.add_port(models.NullPort(name="own", kind="null", toy_tag="t")))
    again = started(FILE.replace('"a"', '"z"'), in_place=("toy_tag",))
    assert [(port.name, port.toy_tag) for port in again.running.port][2:] == [("own", None)]
    assert matches(again)


def test_a_name_that_the_file_took_is_the_files(models, started, caplog):
    control = started(FILE)
    run(control.add_item("tag", toy.TagConfig(name="t", port="a")))
    again = started(FILE + TAG)
    assert [(tag.name, tag.port) for tag in again.running.tag] == [("t", "b")]
    assert "tag t, made at run time, is dropped: the configuration file has a tag of this name" in caplog.text


def test_apply_leaves_alone_what_names_an_owned_port_however_far(models, started):
    control = started(FILE + RULE)
    run(control.add_port(models.NullPort(name="own", kind="null", owner="engine")))
    run(control.add_item("rule", rule(models, in_port="own")))  # rule-1
    tags = {
        "direct": {"port": "own"},
        "through": {"port": "b", "rule": "rule-1"},
        "hint": {"port": "own", "hint": "r"},
        "mine": {"port": "b"},
        "gone": {"port": "b", "rule": "r"},
    }
    for name, keys in tags.items():
        run(control.add_item("tag", toy.TagConfig(name=name, **keys)))
    wanted = parse_config(FILE + RULE.replace('"r"', '"rule-1"') + TAG)
    expected = run(control.apply(wanted, dry_run=True))
    assert run(control.apply(wanted)) == expected
    assert [tag.name for tag in control.running.tag] == ["t", "direct", "through", "hint"]
    assert [tag.rule for tag in control.running.tag] == [None, None, "rule-2", None]
    assert control.running.tag[-1].hint is None
    assert run(control.apply(wanted)) == []
    assert matches(control)


def test_adoption_sets_everything_once_more(models, started, tmp_path):
    control = started(FILE + RULE + TAG, in_place=())
    run(control.add_item("tag", toy.TagConfig(name="a", port="a")))
    run(control.add_item("tag", toy.TagConfig(name="through", port="b", rule="r")))
    state = StateDir(tmp_path)
    device = MemoryDevice(adopted=True)
    device.preset(control.running)
    del device.ports["a"]  # the control process was killed between the steps that took it away
    adopted = Control(device, state, parse_config("").runtime)
    run(adopted.adopt(state.load(), state.load_kept()))
    configured = [one.name for one in models.Config.FUNCTIONS if one.sections or one.settings]
    assert device.calls == [f"set {name}" for name in configured]
    assert {"acl", "switch", "toy"} <= set(configured)
    assert [item.name for item in adopted.running.tag] == ["t"]
    assert adopted.running.rule == []
    assert matches(adopted)
    assert state.load_kept().items["tag"][0].name == "a"


def test_an_entry_of_no_function_is_refused_and_so_is_one_that_is_wrong(models, tmp_path):
    lines = [
        {"version": 2},
        {"tag": {"t": {"name": "t", "port": "a", "value": 256}, "u": {"name": "u", "port": "b"}}},
        {"cloud": {"c": {"name": "c"}}},
    ]
    (tmp_path / "runtime.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    kept = StateDir(tmp_path).load_kept()
    assert [tag.name for tag in kept.items["tag"]] == ["u"]
    assert kept.refused == [
        "tag t: value = 256: allowed: 0..255",
        "cloud c: no function that is installed has a cloud",
    ]


def test_what_ran_of_a_function_that_is_gone_is_not_guessed_at(models, started, monkeypatch, tmp_path):
    started(FILE + TAG)
    monkeypatch.undo()
    with pytest.raises(DaemonError, match=r"(?s)running.json cannot be read: .*tag"):
        StateDir(tmp_path).load()
