"""Lists of tables that functions have in a configuration: names of items, and what items name.

In:   Function.sections, sorted so that what is referred to comes first (registry.py).
Out:  the problems of a whole configuration, in the words of an error message.
"""

import functools
import re
from dataclasses import dataclass
from typing import Any

from dpu_runtime.config.references import named, references


@dataclass(frozen=True)
class Section:
    """A list of tables.

    key    of the configuration: [[key]]
    word   that names of items which were given none are made of, word-1 and so on; also the noun of commands
    words  its plural
    """

    key: str
    model: Any
    word: str
    words: str

    @functools.cached_property
    def _made_up(self):
        return re.compile(rf"{re.escape(self.word)}-[1-9][0-9]*")

    def is_made_up(self, name):
        """Whether a name may be one that was made up: then it gives way to one that was not."""
        return self._made_up.fullmatch(name) is not None

    def with_names(self, items):
        """`items`, those without a name under the lowest free ones, in order."""
        if all(item.name for item in items):
            return items
        free = self.free_names(item.name for item in items)
        return [item if item.name else item.model_copy(update={"name": next(free)}) for item in items]

    def free_names(self, taken):
        """Yield names to make up, the lowest first."""
        taken = set(taken)
        number = 0
        while True:
            number += 1
            if (name := f"{self.word}-{number}") not in taken:
                yield name


def _words(function, key):
    noun = function.nouns.get(key)
    return (noun.name, noun.many) if noun else (key, f"{key}s")


def sections_of(functions):
    """Sections of `functions` in their order."""
    return tuple(
        Section(key, model, *_words(function, key))
        for function in functions
        for key, model in function.sections.items()
    )


def settings_of(function, runtime):
    """Keys of [runtime] that a function joined to it, as its own model; None if it has none."""
    if function.settings is None:
        return None
    values = {key: getattr(runtime, key) for key in function.settings.model_fields}
    return function.settings.model_construct(**values)


def item_problems(section, items, there):
    """Problems of items: names that are there twice, references to what is not `there`.

    there  {(section, kind of port or ""): names}

    Yields (location, text, value).
    """
    names = {item.name for item in items}
    if len(names) < len(items):
        names = set()
        for i, item in enumerate(items):
            if item.name in names:
                yield (section, i, "name"), f"another {section} has this name", item.name
            names.add(item.name)
    keys = [(key, there[r.section, r.kind]) for key, r in references(type(items[0]))] if items else []
    for i, item in enumerate(items):
        for key, names in keys:
            value = getattr(item, key)
            if value is not None and not (value.__class__ is str and value in names):  # soon: there are many
                yield from reference_problems((section, i), item, there, key)


def reference_problems(place, item, there, key=None):
    """Problems of what an item names, or of what its `key` does; `place` is its location."""
    for location, refers, name in named(item):
        names = there[refers.section, refers.kind]
        if key in (None, location[0]) and name not in names:
            what = f"{refers.kind} {refers.section}".lstrip()
            text = f"no such {what}, there are: {', '.join(sorted(names)) or 'none'}"
            yield (*place, *location), text, name
