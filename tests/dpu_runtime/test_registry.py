"""The registry: a clash of declarations is refused with both sides; functions of other packages are found."""

import dataclasses
import os
import re
import subprocess
import sys
from importlib.metadata import EntryPoint, PathDistribution
from typing import Annotated, ClassVar

import pytest

from dpu_runtime import declarations, registry
from dpu_runtime.cli.main import build_parser
from dpu_runtime.config.frame import KIND_KEYS
from dpu_runtime.config.model import Keys, Model
from dpu_runtime.config.models import PORT_KINDS, PortConfig
from dpu_runtime.config.types import ItemName, PortRef, Refers
from dpu_runtime.function import EGRESS, HOOKS, INGRESS, Function, Noun, Stage, Tables, Task
from dpu_runtime.kernels.layout import PER_WORKER, WORKERS_MAX
from dpu_runtime.registry import DeclarationError, functions
from tests import conventions
from tests.functions import toy

FIRST = [one for one in functions() if one.name in ("switch", "acl", "meter")]
ACL = "of function acl (drop packets by rules over their headers)"
METER = "of function meter (limit the rate of what comes in at a port and of what goes out)"
PLANTED = "of function planted (no summary)"


class Named(Model):
    name: ItemName | None = None


def keys(base=Keys, **fields):
    """A model with `fields`, {name: annotation}; each has a default."""
    body = {"__annotations__": fields, "__module__": __name__, **dict.fromkeys(fields, None)}
    return type("Planted", (base,), body)


def stage(name, hook=INGRESS, **order):
    return Stage(name, hook, "m:f", **order)


class Misplaced(Keys):
    BEFORE: ClassVar[str] = "colour"


class Route(Model):
    port: PortRef | None = None


def item_ref(section, **more):
    return Annotated[ItemName, Refers(section, **more)] | None


CLASHES = {
    "name": ({"name": "acl"}, f"name 'acl' is {ACL} and of function acl (no summary)"),
    "stage": ({"stages": (stage("acl_ingress"),)}, f"stage 'acl_ingress' is {ACL} and {PLANTED}"),
    "stage of the frame": ({"stages": (stage("parse"),)}, f"stage 'parse' is of the frame and {PLANTED}"),
    "drop": ({"drops": ("acl_egress",)}, f"drop reason 'acl_egress' is {ACL} and {PLANTED}"),
    "drop of the frame": ({"drops": ("runt",)}, f"drop reason 'runt' is of the frame and {PLANTED}"),
    "section": ({"sections": {"rule": Named}}, f"section 'rule' is {ACL} and {PLANTED}"),
    "section of the frame": ({"sections": {"port": Named}}, f"section 'port' is of the frame and {PLANTED}"),
    "noun": (
        {"sections": {"planted": Named}, "nouns": {"planted": Noun("rule")}},
        f"noun 'rule' is {ACL} and {PLANTED}",
    ),
    "noun of the frame": (
        {"sections": {"planted": Named}, "nouns": {"planted": Noun("attach")}},
        f"noun 'attach' is of the frame and {PLANTED}",
    ),
    "setting": (
        {"settings": keys(default_ingress=int | None)},
        f"key of [runtime] 'default_ingress' is {ACL} and {PLANTED}",
    ),
    "setting of the frame": (
        {"settings": keys(workers=int | None)},
        f"key of [runtime] 'workers' is of the frame and {PLANTED}",
    ),
    "port key": ({"port": keys(rx_rate=int | None)}, f"key of [[port]] 'rx_rate' is {METER} and {PLANTED}"),
    "port key of the frame": (
        {"port": keys(mtu=int | None)},
        f"key of [[port]] 'mtu' is of the frame and {PLANTED}",
    ),
    "port key of a kind": (
        {"port": keys(socket=int | None)},
        f"key of [[port]] 'socket' is of the frame and {PLANTED}",
    ),
    "group of counters": (
        {"counters": {"drops_": ("u8", (1,)), "workers": ("u8", (1,))}, "shown": {"workers": ("a",)}},
        f"group of counters 'workers' is of the frame and {PLANTED}",
    ),
    "a name that is none": ({"name": "A-1"}, "function A-1: name 'A-1' is not of a-z 0-9 _, 32 at most"),
    "a stage that is twice": (
        {"stages": (stage("a"), stage("a"))},
        "function planted: stage 'a' is there twice",
    ),
    "an array that all have": (
        {"counters": {"drops": ("u8", (1,))}},
        "function planted: array 'drops' is there twice",
    ),
    "an array that is twice": (
        {"tables": Tables({"x": ("u8", (1,))}), "counters": {"x": ("u8", (1,))}},
        "function planted: array 'x' is there twice",
    ),
    "a noun without section": (
        {"nouns": {"x": Noun("x")}},
        "function planted: noun for section 'x' is none of its sections: none",
    ),
    "a changing key that is none": (
        {"settings": keys(a=int | None), "changing": ("b",)},
        "function planted: changing key 'b' is none of its settings: a",
    ),
    "a group without counters": (
        {"shown": {"x": ()}},
        "function planted: group of counters 'x' is none of its counters: none",
    ),
    "an explained stage that is none": (
        {"explain": {"x": ""}},
        "function planted: explained stage 'x' is none of its stages: none",
    ),
    "a hook that is none": (
        {"stages": (stage("a", "middle"),)},
        "function planted: stage 'a' is of hook 'middle', there are: ingress, forward, egress",
    ),
    "code that is no place": ({"book": "module"}, "function planted: 'module' is not \"module:name\""),
    "a handler that is no place": ({"punted": "say"}, "function planted: 'say' is not \"module:name\""),
    "items without a name": (
        {"sections": {"x": Route}},
        "function planted: items of section 'x' have no key `name`",
    ),
    "keys that stand nowhere": (
        {"port": Misplaced},
        "function planted: Misplaced stand before 'colour', which is no key of the frame",
    ),
    "a stage behind none": (
        {"stages": (stage("a", after=("acl_ingres",)),)},
        "stage 'a' is declared to be after 'acl_ingres', which no function has",
    ),
    "a stage before none": (
        {"stages": (stage("a", before=("x",)),)},
        "stage 'a' is declared to be before 'x', which no function has",
    ),
    "a stage behind one of another hook": (
        {"stages": (stage("a", EGRESS, after=("acl_ingress",)),)},
        "stage 'a' of hook egress has no place beside 'acl_ingress', which is of hook ingress",
    ),
    "stages in a circle": (
        {"stages": (stage("a", after=("acl_ingress",)), stage("b", after=("a",), before=("meter_rx",)))},
        "stages run in a circle: acl_ingress -> a -> b -> meter_rx -> acl_ingress",
    ),
    "a reference to no section": (
        {"sections": {"x": keys(Named, to=item_ref("nowhere"))}},
        "function planted: key 'to' of section 'x' refers to section 'nowhere', which no function has",
    ),
    "a reference to a kind of item": (
        {"sections": {"x": keys(Named, to=item_ref("rule", kind="drop"))}},
        "function planted: key 'to' of section 'x' refers to a kind, which only ports have",
    ),
    "a port that would go with an item": (
        {"port": keys(to=item_ref("rule"))},
        "function planted: key 'to' of a port refers to section 'rule': a port does not go with an item,"
        " say cleared=True",
    ),
    "a reference within a table": (
        {"sections": {"x": keys(Named, routes=list[Route] | None)}},
        "function planted: key 'routes' of section 'x' has tables that refer to others: name them in section"
        " 'x'",
    ),
    "a setting that refers": (
        {"settings": keys(to=item_ref("rule"))},
        "function planted: key 'to' of [runtime] refers to a port or an item: only sections and ports can",
    ),
    "a table over its bound": (
        {"tables": Tables({"small": ("u8", (8,)), "large": ("u8", (1 << 29,))})},
        f"function planted: its arrays have {(1 << 32) + 64} octets with {WORKERS_MAX} workers, the frame"
        f" allows {1 << 32}; 'large' alone has {1 << 32}",
    ),
    "tables of all hooks over their bound": (
        {"tables": Tables({"large": ("u8", (1 << 28,))}, each=HOOKS)},
        f"function planted: its arrays have {3 << 31} octets with {WORKERS_MAX} workers, the frame allows"
        f" {1 << 32}; 'ingress_large' alone has {1 << 31}",
    ),
    "a table of workers over its bound": (
        {"tables": Tables({"large": ("u8", (PER_WORKER, (1 << 23) + 1))})},
        f"function planted: its arrays have {(1 << 32) + 512} octets with {WORKERS_MAX} workers, the frame"
        f" allows {1 << 32}; 'large' alone has {(1 << 32) + 512}",
    ),
    "counters over their bound": (
        {"counters": {"large": ("u8", ((1 << 23) + 1,))}},
        f"function planted: its arrays have {(1 << 32) + 512} octets with {WORKERS_MAX} workers, the frame"
        f" allows {1 << 32}; 'large' alone has {(1 << 32) + 512}",
    ),
}


@pytest.mark.parametrize(("declared", "text"), CLASHES.values(), ids=CLASHES)
def test_a_clash_is_refused_with_both_sides(declared, text):
    planted = Function(**{"name": "planted", **declared})
    with pytest.raises(DeclarationError) as caught:
        registry.check((*functions(), planted))
    assert str(caught.value) == text


def test_references_in_a_circle_are_refused():
    one = Function("one", sections={"a": keys(Named, to=item_ref("b"))})
    two = Function("two", sections={"b": keys(Named, to=item_ref("a"))})
    with pytest.raises(DeclarationError, match="references run in a circle: one -> two -> one"):
        registry.check((one, two))
    weak = Function("two", sections={"b": keys(Named, to=item_ref("a", cleared=True))})
    registry.check((one, weak))


def test_items_of_one_function_may_name_each_other():
    both = {"a": keys(Named, to=item_ref("b")), "b": keys(Named, to=item_ref("a"), twin=item_ref("b"))}
    registry.check((Function("one", sections=both),))


def test_what_is_named_comes_first():
    assert [one.name for one in registry.by_references((toy.FUNCTION, *FIRST))] == [
        "switch",
        "acl",
        "toy",
        "meter",
    ]


def test_stages_are_in_the_order_they_ask_for():
    there = registry.order((toy.FUNCTION, *FIRST))
    names = {hook: [stage.name for stage in stages] for hook, stages in there.items()}
    assert names["ingress"] == ["switch_admit", "meter_rx", "acl_ingress", "toy_in"]
    assert names["forward"] == ["switch"]
    assert names["egress"] == ["acl_egress", "switch_tags", "meter_tx"]


def test_a_stage_that_may_not_be_there_is_heeded_when_it_is():
    flow = Function("flow", stages=(stage("flow", after=("acl_ingress",)),))
    there = registry.order((toy.FUNCTION, flow, *functions()))
    names = [stage.name for stage in there["ingress"]]
    assert names.index("acl_ingress") < names.index("flow") < names.index("toy_in")


def test_the_frames_names_are_all_there():
    of_kinds = {key for kind in PORT_KINDS for key in kind.model_fields if key not in PortConfig.model_fields}
    assert set(KIND_KEYS) == of_kinds
    commands = next(action for action in build_parser()._actions if action.choices).choices
    nouns = {noun.name for function in functions() for noun in function.nouns.values()}
    assert set(commands) - nouns <= set(declarations.FRAME_WORDS)


@pytest.mark.parametrize("folder", ["config", "control", "device", "observe"])
def test_the_control_half_knows_no_function_by_name(folder):
    of_functions = re.compile(rf"dpu_runtime\.(?:functions|kernels)\.(?:{'|'.join(registry.NAMES)})\b")
    files = sorted((conventions.ROOT / "dpu_runtime" / folder).glob("*.py"))
    assert files
    assert [str(path) for path in files if of_functions.search(path.read_text())] == []


class Found:
    """Entry points as importlib.metadata gives them, of distributions in `folder`."""

    def __init__(self, folder):
        self.folder = folder
        self.points = []

    def add(self, name, value):
        path = self.folder / f"{name}.dist-info"
        path.mkdir(parents=True)
        (path / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dpu-{name}\nVersion: 1.0\n")
        self.points.append(EntryPoint(name, value, registry.GROUP)._for(PathDistribution(path)))
        return self

    def names(self):
        return [one.name for one in registry.with_others(functions(), self.points)][len(functions()) :]


@pytest.fixture
def found(tmp_path):
    return Found(tmp_path)


BASE = Function("base", sections={"base": Named})
ON_BASE = Function("above", sections={"above": keys(Named, to=item_ref("base"))})
AGAIN = dataclasses.replace(toy.FUNCTION, name="again")
HERE = "tests.dpu_runtime.test_registry"
TOY = "tests.functions.toy:FUNCTION"


def test_functions_of_other_packages_are_found(found):
    found.add("zebra", f"{HERE}:BASE").add("above", f"{HERE}:ON_BASE").add("toy", TOY)
    assert found.names() == ["toy", "base", "above"], "one that refers to another comes behind it"


def test_a_broken_one_is_left_out_with_its_distribution(found, caplog):
    found.add("gone", "no.such.module:FUNCTION").add("text", f"{HERE}:HERE").add("toy", TOY)
    assert found.names() == ["toy"]
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "function gone of distribution dpu-gone 1.0 is left out:"
        " ModuleNotFoundError(\"No module named 'no'\")",
        f"function text of distribution dpu-text 1.0 is left out: {HERE}:HERE is not a Function",
    ]


def test_a_clashing_one_is_left_out(found, caplog):
    found.add("toy", TOY).add("toy2", f"{HERE}:AGAIN").add("above", f"{HERE}:ON_BASE")
    assert found.names() == ["toy"]
    assert (
        "function toy2 of distribution dpu-toy2 1.0 is left out: stage 'toy_in' is of function toy (put"
        " numbers on ports) and of function again (put numbers on ports)" in caplog.text
    )
    assert (
        "function above of distribution dpu-above 1.0 is left out: function above: key 'to' of section"
        " 'above' refers to section 'base', which no function has" in caplog.text
    )


def test_a_process_has_what_is_installed(tmp_path):
    code = (
        "from dpu_runtime.config.file import config_toml, parse_config\n"
        'text = \'[runtime]\\ntoy_level = 3\\n[[port]]\\nname = "a"\\nkind = "null"\\ntoy = true\\n\'\n'
        "text += '[[tag]]\\nport = \"a\"\\n'\n"
        "print(config_toml(parse_config(text)))\n"
    )
    path = os.pathsep.join([toy.distribution(tmp_path), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '[[tag]]\nname = "mark-1"\nport = "a"' in done.stdout
    assert "toy_level = 3" in done.stdout
    assert "toy = true" in done.stdout


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"stages": (Stage("s", INGRESS, None),)}, "entry of stage 's' is None, not \"module:name\""),
        (
            {"stages": (Stage("s", INGRESS, "m:f", reads=("x",)),)},
            "'s' reads 'x'; allowed: rule, clock",
        ),
        ({"tasks": (Task("t", "m:f", 0),)}, "task 't' is to run every 0 ms; allowed: whole numbers, 1.."),
        ({"tasks": (Task("t", "m:f", 0.5),)}, "task 't' is to run every 0.5 ms"),
        ({"counters": {"c": ("u8", (-8,))}}, "array 'c' is of uint64 and shape"),
        (
            {"tables": Tables({"t": ("O", (8,))})},
            "array 't' is of object and shape (8,); allowed: plain",
        ),
        ({"drops": tuple(f"d{n}" for n in range(300))}, "300 drop reasons are "),
    ],
)
def test_what_could_not_run_is_refused(keys, text):
    with pytest.raises(DeclarationError, match=re.escape(text)):
        registry.check((Function("one", **keys),))


@pytest.mark.parametrize(
    "keys",
    [
        {"tables": Tables({"t": ("banana", (8,))})},
        {"tables": Tables({"t": "u8"})},
        {"stages": "x"},
        {"stages": Stage("s", INGRESS, "m:f")},
        {"nouns": "bad"},
        {"counters": "x"},
        {"sections": {"a": dict}},
    ],
)
def test_a_declaration_of_other_types_is_left_out_alone(keys, caplog):
    class Point:
        name, value, dist = "bad", "m:F", None

        def load(self):
            return Function("bad", **keys)

    assert registry.with_others(functions(), [Point()]) == functions()
    assert "function bad of no distribution is left out: " in caplog.text


def test_a_package_that_ends_the_process_is_left_out(caplog):
    class Point:
        name, value, dist = "bad", "m:F", None

        def load(self):
            raise SystemExit(3)

    assert registry.with_others(functions(), [Point()]) == functions()
    assert "left out: SystemExit(3)" in caplog.text
