"""What a function of the DPU declares; the frame makes all else of it.

A declaration is data: it imports neither numba nor an operating system, and has no string twice. Code is
named as "module:name" and loaded by whoever runs it. `Refers` is in dpu_runtime/config/types.py, `Keys` in
dpu_runtime/config/model.py; a declaration must not import dpu_runtime/config/models.py, made of them all.
Out:  `Function` and its parts; dpu_runtime/registry.py has those there are, and refuses what clashes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

INGRESS, FORWARD, EGRESS = HOOKS = ("ingress", "forward", "egress")


@dataclass(frozen=True)
class Stage:
    """One entry of a function into a hook of the pipeline.

    name    unique; the row of `dpu stats` under which its packets and cycles are counted
    entry   "module:name" of a kernel `entry(burst, state, port, count) -> count`, kernels/stage.py
    after   names of stages of the same hook that come first, where both are on; one that may not be
            there, as it is of another package, ends in "?"
    before  names of stages of the same hook that come later, likewise
    reads   words of `marks` that it needs; stages that can write them do so only then
    made    of an egress stage: whether packets pass it that functions made, or held and let go
    """

    name: str
    hook: str
    entry: str
    after: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    made: bool = False


@dataclass(frozen=True)
class Tables:
    """A function's arrays in shared memory, its region.

    layout  {name: (dtype, shape)}; a dimension PER_WORKER of kernels/layout.py is as long as workers run
    each    hooks that have arrays of their own; (): one set for all stages
    """

    layout: dict[str, tuple]
    each: tuple[str, ...] = ()


@dataclass(frozen=True)
class Private:
    """A worker's own memory for a function: what "module:name" makes, a namedtuple of arrays."""

    new: str
    each: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """Compiled work by the clock: "module:name" of a kernel in the form of a stage.

    It is called between two bursts, with the state that the function's stages have in common; `port` and
    `count` are 0, and it returns an int64 that is not used. Every worker calls it; a call's work is bounded.

    every_ms  between two calls
    """

    name: str
    entry: str
    every_ms: int


@dataclass(frozen=True)
class Rest:
    """A column of `show` with all keys that no other column has, as words `key value`.

    head   its heading
    empty  what it has where there is none
    """

    head: str
    empty: str = "-"


MATCH = Rest("match", empty="any")


@dataclass(frozen=True)
class Noun:
    """The words of a section on the CLI and in the API: `dpu NOUN add|del|show`, NOUN.add and so on.

    columns  of `show`: keys of the section's model, and one `Rest`; default: the name and all the rest
    stats    counters of an item, as its book gives them, that `show --stats` adds
    order    "module:name" of a sort key of items in `show`; default: as configured
    plural   default: the name and an s
    counted  `dpu status` and `dpu check` say how many there are
    """

    name: str
    columns: tuple[str | Rest, ...] = ("name", Rest("settings"))
    stats: tuple[str, ...] = ()
    order: str | None = None
    plural: str = ""
    counted: bool = False

    @property
    def many(self):
        """The noun's plural."""
        return self.plural or f"{self.name}s"


@dataclass(frozen=True)
class Function:
    """One thing that the DPU can do. Everything but its name is optional.

    name      the same in every folder, on the CLI, in the configuration and in counters
    summary   what it does, in one sentence, for help and documents
    sections  {key: model}, lists of tables of the configuration; fields that refer to a port or to an item of
              another section say so (`Refers`), order and refusals follow from it
    settings  `Keys` that are joined to [runtime]
    changing  those of them that change while the daemon runs
    port      `Keys` that are joined to every [[port]]; all of them change under traffic
    tables, private, counters, drops
              its memory: {name: (dtype, shape)} of counters a worker, names of drop reasons
    shown     {array of counters: names of its words}, a group of `dpu stats -j` called like the array
    stages, tasks
              its compiled entries
    active    "module:name" of `active(items, settings) -> (stage, port) -> bool`; default: always on
    book      "module:name" of the class that turns configuration into rows, dpu_runtime/functions/book.py
    wire      "module:name" of `wire(wire, port, before)`, called in the namespace of an interface that the
              device makes, when it is made and when keys of `port` change, dpu_runtime/device/wiring.py
    nouns     {section: Noun}
    punted    "module:name" of a coroutine function that takes packets which stages punt, plane/punts.py
    explain   {stage: text} with fields of the item that decided
    """

    name: str
    summary: str = ""
    sections: dict[str, Any] = field(default_factory=dict)
    settings: Any = None
    changing: tuple[str, ...] = ()
    port: Any = None
    tables: Tables | None = None
    private: Private | None = None
    counters: dict[str, tuple] = field(default_factory=dict)
    drops: tuple[str, ...] = ()
    shown: dict[str, tuple[str, ...]] = field(default_factory=dict)
    stages: tuple[Stage, ...] = ()
    tasks: tuple[Task, ...] = ()
    active: str | Callable | None = None
    book: str | None = None
    wire: str | None = None
    nouns: dict[str, Noun] = field(default_factory=dict)
    punted: str | None = None
    explain: dict[str, str] = field(default_factory=dict)
