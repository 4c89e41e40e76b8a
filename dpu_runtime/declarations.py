"""Whether declarations of functions fit each other and the frame, and which of them comes first.

In:   Functions, in the order of the registry.
Out:  DeclarationError with a sentence that names both sides; `order` of stages, `by_references` of functions.
Not:  whether the code that they name is there: whoever runs it loads it.
"""

import math
import re

import numpy as np

from dpu_runtime.config.frame import KIND_KEYS, PortKeys, RuntimeKeys
from dpu_runtime.config.references import nested, references
from dpu_runtime.function import HOOKS
from dpu_runtime.kernels.burst import WANTS
from dpu_runtime.kernels.drops import DROP_REASON_COUNT, Drop
from dpu_runtime.kernels.layout import PER_WORKER, WORKERS_MAX

REGION_BYTES_MAX = 4 << 30  # octets of a function's tables and counters, with as many workers as there can be
DROP_REASONS_MAX = 256  # meta.drop_reason has 8 bits
TASK_MS_MAX = 24 * 3600 * 1000
FRAME = "the frame"
FRAME_STAGES = ("rx", "parse", "verify", "offload", "tx", "xconnect")  # rows of `dpu stats`
FRAME_SECTIONS = ("runtime", "port", "process")  # the last of the state directory only
# of the command line and of the API
FRAME_WORDS = (
    *("run", "reload", "stop", "check", "apply", "save", "status", "stats", "profile"),
    *("port", "attach", "detach"),
    *("vhost-user", "config", "schema"),
)
FRAME_GROUPS = ("ports", "drops", "kernels", "balance", "workers", "tsc_hz")  # of `dpu stats -j`
REGION_ARRAYS = ("drops", "stages")  # that every function has
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_PLACE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
MAYBE = "?"  # behind the name of a stage that may not be there


class DeclarationError(Exception):
    """Declarations that do not fit each other, or the frame."""


def check(functions):
    """Raise DeclarationError when `functions` clash, with each other or with the frame."""
    _check_names(functions)
    for function in functions:
        _check_parts(function)
        _check_code(function)
        _check_references(function, functions)
        _check_size(function)
    _check_drops(functions)
    order(functions)
    by_references(functions)


def order(functions):
    """{hook: [Stage]}: stages as they run, where they are on; otherwise as the registry has them."""
    stages = [stage for function in functions for stage in function.stages]
    hooks = {stage.name: stage.hook for stage in stages}
    before = {stage.name: set() for stage in stages}  # name -> stages that come first
    for stage in stages:
        for names, first in ((stage.after, True), (stage.before, False)):
            for name in names:
                other = name.removesuffix(MAYBE)
                if other not in hooks:
                    if name.endswith(MAYBE):
                        continue
                    text = f"stage {stage.name!r} is declared to be {'after' if first else 'before'}"
                    raise DeclarationError(f"{text} {name!r}, which no function has")
                if hooks[other] != stage.hook:
                    text = f"stage {stage.name!r} of hook {stage.hook} has no place beside {other!r},"
                    raise DeclarationError(f"{text} which is of hook {hooks[other]}")
                before[stage.name if first else other].add(other if first else stage.name)
    named = {stage.name: stage for stage in stages}
    return {
        hook: [named[name] for name in _sorted([n for n in named if hooks[n] == hook], before, "stages run")]
        for hook in HOOKS
    }


def by_references(functions):
    """`functions` so that what an item names is an item of its own function or of one before."""
    owners = _owners(functions)
    before = {function.name: set() for function in functions}
    for function in functions:
        for model in function.sections.values():
            for _, refers in references(model):
                if refers.section in owners and not refers.cleared:
                    before[function.name].add(owners[refers.section].name)
        before[function.name].discard(function.name)
    named = {function.name: function for function in functions}
    return tuple(named[name] for name in _sorted(list(named), before, "references run"))


def _sorted(names, before, what):
    """`names`, each behind those of `before` that it has there, otherwise as they are."""
    done, left = [], list(names)
    while left:
        ready = next((name for name in left if before[name] <= set(done)), None)
        if ready is None:
            raise DeclarationError(f"{what} in a circle: {' -> '.join(_circle(left, before))}")
        done.append(ready)
        left.remove(ready)
    return done


def _circle(left, before):
    """Names of a circle in the order in which they come, the first one again at its end."""
    path = [left[0]]
    while True:
        earlier = next(name for name in left if name in before[path[-1]])
        if earlier in path:
            return [earlier, *reversed(path[path.index(earlier) :])]
        path.append(earlier)


class _Claims:
    """Which name of a kind belongs to whom."""

    def __init__(self):
        self._owners = {}

    def claim(self, kind, names, owner):
        for name in names:
            other = self._owners.setdefault((kind, name), owner)
            if other is not owner:
                raise DeclarationError(f"{kind} {name!r} is {_whose(other)} and {_whose(owner)}")


def _whose(owner):
    return f"of {FRAME}" if owner == FRAME else f"of function {owner.name} ({owner.summary or 'no summary'})"


def _check_names(functions):
    claims = _Claims()
    runtime, port = "key of [runtime]", "key of [[port]]"
    claims.claim("stage", FRAME_STAGES, FRAME)
    claims.claim("drop reason", [drop.name.lower() for drop in Drop], FRAME)
    claims.claim("noun", FRAME_WORDS, FRAME)
    claims.claim("section", FRAME_SECTIONS, FRAME)
    claims.claim("group of counters", FRAME_GROUPS, FRAME)
    claims.claim(runtime, RuntimeKeys.model_fields, FRAME)
    claims.claim(port, (*PortKeys.model_fields, *KIND_KEYS), FRAME)
    for function in functions:
        claims.claim("name", [function.name], function)
        claims.claim("stage", [stage.name for stage in function.stages], function)
        claims.claim("drop reason", function.drops, function)
        claims.claim("noun", [noun.name for noun in function.nouns.values()], function)
        claims.claim("section", function.sections, function)
        claims.claim("group of counters", function.shown, function)
        claims.claim(runtime, function.settings.model_fields if function.settings else (), function)
        claims.claim(port, function.port.model_fields if function.port else (), function)


def _refuse(function, text):
    raise DeclarationError(f"function {function.name}: {text}")


def _check_parts(function):
    """What a declaration says of itself."""
    stages = [stage.name for stage in function.stages]
    names_of_arrays = [*(name for name, _, _ in arrays(function)), *REGION_ARRAYS]
    for kind, names in (("name", [function.name]), ("stage", stages), ("drop reason", function.drops)):
        for name in names:
            if not _NAME.fullmatch(name):
                _refuse(function, f"{kind} {name!r} is not of a-z 0-9 _, 32 at most")
    for kind, names in (("stage", stages), ("drop reason", function.drops), ("array", names_of_arrays)):
        twice = {name for name in names if list(names).count(name) > 1}
        if twice:
            _refuse(function, f"{kind} {min(twice)!r} is there twice")
    for what, names, there, where in (
        ("noun for section", function.nouns, function.sections, "sections"),
        ("changing key", function.changing, getattr(function.settings, "model_fields", ()), "settings"),
        ("explained stage", function.explain, stages, "stages"),
        ("group of counters", function.shown, function.counters, "counters"),
    ):
        unknown = [name for name in names if name not in there]
        if unknown:
            _refuse(function, f"{what} {unknown[0]!r} is none of its {where}: {', '.join(there) or 'none'}")
    for stage in function.stages:
        if stage.hook not in HOOKS:
            _refuse(
                function, f"stage {stage.name!r} is of hook {stage.hook!r}, there are: {', '.join(HOOKS)}"
            )
    for section, model in function.sections.items():
        if "name" not in model.model_fields:
            _refuse(function, f"items of section {section!r} have no key `name`")
    for model, frame in ((function.settings, RuntimeKeys), (function.port, PortKeys)):
        place = getattr(model, "BEFORE", "")
        if place and place not in frame.model_fields:
            _refuse(function, f"{model.__name__} stand before {place!r}, which is no key of {FRAME}")


def _check_code(function):
    """The places of code that a declaration names, and what it says of it."""
    for kind, ones in (("stage", function.stages), ("task", function.tasks)):
        for one in ones:
            if not isinstance(one.entry, str):
                _refuse(function, f'entry of {kind} {one.name!r} is {one.entry!r}, not "module:name"')
    places = [one.entry for one in (*function.stages, *function.tasks)]
    places += [function.book, function.wire, function.active, function.punted]
    places.append(function.private and function.private.new)
    for place in places:
        if isinstance(place, str) and not _PLACE.fullmatch(place):
            _refuse(function, f'{place!r} is not "module:name"')
    for task in function.tasks:
        if not isinstance(task.every_ms, int) or not 1 <= task.every_ms <= TASK_MS_MAX:
            text = f"task {task.name!r} is to run every {task.every_ms!r} ms"
            _refuse(function, f"{text}; allowed: whole numbers, 1..{TASK_MS_MAX}")
    for stage in function.stages:
        unknown = [word for word in stage.reads if word not in WANTS]
        if unknown:
            _refuse(function, f"stage {stage.name!r} reads {unknown[0]!r}; allowed: {', '.join(WANTS)}")


def _check_drops(functions):
    """All drop reasons have numbers of 8 bits."""
    free = DROP_REASONS_MAX - DROP_REASON_COUNT
    for function in functions:
        free -= len(function.drops)
        if free < 0:
            text = f"{len(function.drops)} drop reasons are {-free} more than there is room for"
            _refuse(function, f"{text}; {FRAME} has {DROP_REASON_COUNT} of {DROP_REASONS_MAX}")


def _owners(functions):
    """{section: its Function}."""
    return {section: function for function in functions for section in function.sections}


def _check_references(function, functions):
    owners = _owners(functions)
    models = [(f"section {key!r}", model) for key, model in function.sections.items()]
    models += [("[[port]]", function.port)] if function.port else []
    for where, model in models:
        for key, refers in references(model):
            if refers.section != "port" and refers.section not in owners:
                _refuse(
                    function,
                    f"key {key!r} of {where} refers to section {refers.section!r}, which no function has",
                )
            if refers.kind and refers.section != "port":
                _refuse(function, f"key {key!r} of {where} refers to a kind, which only ports have")
            if model is function.port and not refers.cleared:
                text = f"key {key!r} of a port refers to section {refers.section!r}"
                _refuse(function, f"{text}: a port does not go with an item, say cleared=True")
        for key, inner in nested(model):
            if references(inner):
                _refuse(
                    function, f"key {key!r} of {where} has tables that refer to others: name them in {where}"
                )
    if function.settings and references(function.settings):
        key, _ = references(function.settings)[0]
        _refuse(
            function, f"key {key!r} of [runtime] refers to a port or an item: only sections and ports can"
        )


def arrays(function):
    """Yield (name, dtype, shape) of a function's arrays in shared memory, but REGION_ARRAYS."""
    if function.tables is not None:
        for hook in function.tables.each or ("",):
            for name, (dtype, shape) in function.tables.layout.items():
                yield f"{hook}_{name}" if hook else name, dtype, shape
    for name, (dtype, shape) in function.counters.items():
        yield name, dtype, (PER_WORKER, *shape)


def _octets(dtype, shape):
    """Of an array, with as many workers as there can be."""
    return np.dtype(dtype).itemsize * math.prod(WORKERS_MAX if n == PER_WORKER else n for n in shape)


def _check_size(function):
    for name, dtype, shape in arrays(function):
        counts = [n for n in shape if n != PER_WORKER]
        if np.dtype(dtype).hasobject or not all(isinstance(n, int) and n > 0 for n in counts):
            text = f"array {name!r} is of {np.dtype(dtype)} and shape {shape}"
            _refuse(function, f"{text}; allowed: plain numbers and records of them, counts above 0")
    sizes = {name: _octets(dtype, shape) for name, dtype, shape in arrays(function)}
    total = sum(sizes.values())
    if total > REGION_BYTES_MAX:
        largest = max(sizes, key=sizes.get)
        text = f"its arrays have {total} octets with {WORKERS_MAX} workers, {FRAME} allows {REGION_BYTES_MAX}"
        _refuse(function, f"{text}; {largest!r} alone has {sizes[largest]}")
