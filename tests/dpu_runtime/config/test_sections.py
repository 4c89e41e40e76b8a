"""Lists of tables of functions in a configuration, tried with one that is not the project's."""

import pytest

from dpu_runtime.config.errors import ConfigError
from dpu_runtime.config.file import config_toml, parse_config
from dpu_runtime.config.references import cleared, missing, named, renamed, standing
from dpu_runtime.config.sections import sections_of
from dpu_runtime.function import Function, Noun
from dpu_runtime.registry import functions
from tests.functions import toy

PORTS = "".join(f'[[port]]\nname = "{name}"\nkind = "null"\n' for name in "ab")
RULE = '[[rule]]\nname = "r"\npriority = 1\naction = "drop"\n'
TAG = '[[tag]]\nport = "a"\n'


@pytest.fixture
def models(monkeypatch):
    return toy.use(monkeypatch, toy.FUNCTION)


@pytest.fixture
def tag():
    return lambda **keys: toy.TagConfig(**{"name": "t", "port": "a", **keys})


def test_keys_of_functions_stand_among_those_of_the_frame(models):
    lists = [section for one in functions() if one is not toy.FUNCTION for section in one.sections]
    assert list(models.Config.model_fields) == ["runtime", "port", *lists, "tag"]
    runtime = list(models.RuntimeConfig.model_fields)
    assert runtime[-2:] == ["toy_level", "toy_size"]
    assert runtime.index("default_egress") == runtime.index("default_ingress") + 1
    port = list(models.NullPort.model_fields)
    assert port.index("vlan") < port.index("verify_checksum") < port.index("toy")
    assert port[-3:] == ["toy", "toy_tag", "owner"]
    assert models.NullPort(name="a", kind="null").toy is False


def test_settings_and_items_of_a_function(models):
    config = parse_config("[runtime]\ntoy_level = 3\n" + PORTS + TAG)
    assert config.settings(toy.FUNCTION) == toy.ToySettings(toy_level=3)
    assert config.items(toy.FUNCTION) == {"tag": config.tag}


WRONG = [
    ("tag = 3", "f:1: tag = 3: allowed: [[tag]] tables"),
    (
        PORTS + TAG + "colour = 1",
        "f:9: tag[0].colour = 1: unknown key; allowed: name, port, others, rule, hint, value",
    ),
    (PORTS + TAG + "value = 256", "f:9: tag[0].value = 256: allowed: 0..255"),
    (PORTS + TAG.replace('"a"', '"c"'), 'f:8: tag[0].port = "c": no such port, there are: a, b'),
    (PORTS + TAG.replace('"a"', '"a b"'), 'f:8: tag[0].port = "a b": allowed: 1 to 32 of A-Z a-z 0-9 _ . -'),
    (PORTS + TAG + 'others = ["b", "c"]', 'f:9: tag[0].others[1] = "c": no such port, there are: a, b'),
    (PORTS + TAG + 'rule = "x"', 'f:9: tag[0].rule = "x": no such rule, there are: none'),
    (PORTS + RULE + TAG + 'hint = "x"', 'f:13: tag[0].hint = "x": no such rule, there are: r'),
    (PORTS + 2 * (TAG + 'name = "t"\n'), 'f:12: tag[1].name = "t": another tag has this name'),
    (PORTS + "[runtime]\ntoy_level = 10", "f:8: runtime.toy_level = 10: allowed: 0..9"),
]


@pytest.mark.parametrize(("text", "expected"), WRONG, ids=range(len(WRONG)))
def test_wrong_items_have_one_clear_error(models, text, expected):
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "f")
    assert str(caught.value) == expected


def test_names_are_made_of_the_noun(models):
    config = parse_config(PORTS + TAG + TAG + 'name = "mark-1"\n' + TAG)
    assert [tag.name for tag in config.tag] == ["mark-2", "mark-1", "mark-3"]
    (section,) = (section for section in config.SECTIONS if section.key == "tag")
    assert section.is_made_up("mark-10")
    assert not any(map(section.is_made_up, ("mark-0", "mark-", "mark-1x", "tag-1")))


def test_what_is_saved_is_read_as_the_same(models):
    text = "[runtime]\ntoy_level = 3\n" + PORTS + RULE + TAG + 'others = ["b"]\nrule = "r"\nhint = "r"\n'
    config = parse_config(text)
    assert parse_config(config_toml(config)) == config


def test_saving_leaves_out_what_names_an_owned_port_however_far(models):
    config = parse_config(PORTS + RULE)
    owned = config.port[0].model_copy(update={"owner": "engine"})
    parts = {**config.parts(), "port": [owned, config.port[1]]}
    parts["rule"] = [config.rule[0].model_copy(update={"in_port": "a"})]
    parts["tag"] = [
        toy.TagConfig(name="own", port="a"),
        toy.TagConfig(name="through", port="b", rule="r"),
        toy.TagConfig(name="hint", port="b", hint="r"),
    ]
    saved = parse_config(config_toml(models.Config.of_models(**parts)))
    assert [port.name for port in saved.port] == ["b"]
    assert saved.rule == []
    assert [(tag.name, tag.hint) for tag in saved.tag] == [("hint", None)]


def test_what_an_item_names(tag):
    item = tag(others=["b", "c"], rule="r", hint="h")
    assert [(location, name) for location, _, name in named(item)] == [
        (("port",), "a"),
        (("others", 0), "b"),
        (("others", 1), "c"),
        (("rule",), "r"),
        (("hint",), "h"),
    ]
    assert missing(item, {"port": {"a", "c"}, "rule": {"r"}}) == [("port", "b")]


def test_what_can_go_is_cleared_and_what_was_renamed_follows(tag):
    item = tag(others=["b"], rule="r", hint="h")
    assert cleared(item, {"port": set(), "rule": {"h"}}) is item
    assert cleared(item, {"port": set(), "rule": set()}) == tag(others=["b"], rule="r")
    assert renamed(item, {}) is item
    assert renamed(item, {("rule", "x"): "y", ("port", "r"): "z"}) is item
    names = {("rule", "r"): "r2", ("port", "b"): "b2", ("rule", "h"): "h2"}
    assert renamed(item, names) == tag(others=["b2"], rule="r2", hint="h2")


def test_items_stand_on_each_other(tag):
    there = {"port": {"a"}, "rule": {"r"}}
    items = {"tag": [tag(name="1", rule="r"), tag(name="2", port="b"), tag(name="3", hint="x")]}
    assert [item.name for item in standing(items, there)["tag"]] == ["1", "3"]
    assert there["tag"] == {"1", "3"}


def test_a_section_has_the_plural_of_its_noun():
    nouns = {"tag": Noun("proxy", plural="proxies")}
    one, two = sections_of(
        [Function("one", sections={"tag": toy.TagConfig, "box": toy.TagConfig}, nouns=nouns)]
    )
    assert (one.word, one.words) == ("proxy", "proxies")
    assert (two.word, two.words) == ("box", "boxs")
