"""A function that is not the project's: what tests declare, configure and run without any of its files.

It has a list of tables, [[tag]], with references to ports and to a rule; a key of [runtime] that changes
while the daemon runs; a key of every port; a region, counters, a drop reason, a stage, a book.

    with_toy = models_with(FUNCTION)     in this process: a configuration that has it
    distribution(folder)                 in another one: `folder` on PYTHONPATH makes the registry find it
"""

import importlib.util
from typing import Annotated
from unittest import mock

from pydantic import Field

from dpu_runtime import registry
from dpu_runtime.config import models, types
from dpu_runtime.config.model import Keys, Model
from dpu_runtime.config.types import Allowed, Refers
from dpu_runtime.function import INGRESS, Function, Noun, Stage, Tables
from dpu_runtime.functions.book import Book
from dpu_runtime.kernels.layout import PORTS_MAX

TAGS_MAX = 16


class TagConfig(Model):
    """`[[tag]]`: a number for what comes in at a port."""

    name: types.ItemName | None = Field(None, description="name of the tag, unique; default: mark-N")
    port: types.PortRef = Field(description="port that is tagged")
    others: list[types.PortRef] = Field(default_factory=list, description="further ports")
    rule: Annotated[types.ItemName, Refers("rule")] | None = Field(None, description="rule that is meant")
    hint: Annotated[types.ItemName, Refers("rule", cleared=True)] | None = Field(
        None, description="rule that may go"
    )
    value: Annotated[int, Field(ge=0, le=255), Allowed("0..255")] = Field(0, description="the number")


class ToySettings(Keys):
    """Keys of `[runtime]`."""

    toy_level: Annotated[int, Field(ge=0, le=9), Allowed("0..9")] = Field(0, description="changes any time")
    toy_size: Annotated[int, Field(ge=1, le=9), Allowed("1..9")] = Field(1, description="never changes")


class ToyPort(Keys):
    """Keys of `[[port]]`."""

    toy: bool = Field(False, description="the port takes part")
    toy_tag: Annotated[types.ItemName, Refers("tag", cleared=True)] | None = Field(
        None, description="tag that stands for the port's own"
    )


FUNCTION = Function(
    name="toy",
    summary="put numbers on ports",
    sections={"tag": TagConfig},
    settings=ToySettings,
    changing=("toy_level",),
    port=ToyPort,
    tables=Tables({"values": ("u8", (PORTS_MAX,)), "rules": ("u8", (PORTS_MAX,)), "level": ("u8", (8,))}),
    counters={"toy": ("u8", (2,)), "hits": ("u8", (TAGS_MAX, 2))},
    shown={"toy": ("seen", "tagged")},
    drops=("toy_refused",),
    stages=(Stage("toy_in", INGRESS, "tests.functions.toy_stage:entry", after=("acl_ingress", "flow?")),),
    active="tests.functions.toy:active",
    book="tests.functions.toy:ToyBook",
    nouns={"tag": Noun("mark", columns=("name", "port", "value"), stats=("packets", "bytes"))},
)


def active(items, _settings):
    """`toy_in` is on at ports that take part and at those that have a tag."""
    tagged = {port for tag in items["tag"] for port in (tag.port, *tag.others)}
    return lambda _stage, port: port.toy or port.name in tagged


class ToyBook(Book):
    """`values` has a port's number, 1 more so that 0 is none; `rules` the hit counter of the rule meant."""

    def __init__(self, *what, **more):
        super().__init__(*what, **more)
        self.tags = {}  # name -> place

    def publish(self, items, settings, numbers):
        """Refuse more than TAGS_MAX, or the number 255, whatever is there before."""
        tags = items["tag"]
        if len(tags) > TAGS_MAX:
            raise ValueError(f"{len(tags)} tags, at most {TAGS_MAX} fit")
        if any(tag.value == 255 for tag in tags):
            raise ValueError("255 is not possible")
        self.tables.values[:] = self.tables.rules[:] = 0
        for tag in tags:
            for port in (tag.port, *tag.others):
                self.tables.values[numbers["port"][port]] = tag.value + 1
                if tag.rule:
                    self.tables.rules[numbers["port"][port]] = numbers["rule"][tag.rule]
        self.tables.level[0] = settings.toy_level
        self.tags = {tag.name: i for i, tag in enumerate(tags)}

    def numbers(self):
        """A tag's place."""
        return {"tag": self.tags}

    def counters(self):
        """Packets and octets by tag."""
        hits = self.tables.hits[: self.workers].sum(axis=0).tolist()
        return {"tag": {name: tuple(hits[i]) for name, i in self.tags.items()}}


def models_with(*more):
    """dpu_runtime/config/models.py once more, made of the functions there are and of `more`."""
    there = (*registry.functions(), *more)
    registry.check(there)
    spec = importlib.util.spec_from_file_location("dpu_runtime.config.models_with_more", models.__file__)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(registry, "functions", lambda: there):
        spec.loader.exec_module(module)
    return module


MODELS = {
    "dpu_runtime.config.file": ("Config", "PortConfig", "RuntimeConfig", "KINDS"),
    "dpu_runtime.control.basis": ("RuntimeConfig",),
    "dpu_runtime.control.config_file": ("RuntimeConfig",),
    "dpu_runtime.control.control": ("Config",),
    "dpu_runtime.control.plan": ("Config",),
    "dpu_runtime.control.state": ("Config", "PortConfig", "RuntimeConfig", "AnyPort"),
}


def use(monkeypatch, *more):
    """Have the control surface use `models_with(*more)` for the rest of a test; returns them."""
    return use_models(monkeypatch, models_with(*more))


def use_models(monkeypatch, made):
    """Have the control surface use `made`, of `models_with`; returns them."""
    for module, names in MODELS.items():
        for name in names:
            monkeypatch.setattr(f"{module}.{name}", getattr(made, name))
    return made


def distribution(folder, value="tests.functions.toy:FUNCTION", name="toy"):
    """Make a distribution in `folder` that has a function; returns what PYTHONPATH needs."""
    info = folder / f"dpu_{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dpu-{name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{name} = {value}\n")
    return str(folder)
