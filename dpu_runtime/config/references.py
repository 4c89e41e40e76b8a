"""What names what: the keys of models that refer to a port or to an item of another list of tables.

In:   models whose keys say `Refers` (types.py), by themselves or within a list.
Not:  keys inside of nested tables; the registry refuses those.
"""

import functools
import typing

from pydantic import BaseModel

from dpu_runtime.config.types import Refers


def annotated(model, kind):
    """Yield (key, annotation) of the fields that an annotation of class `kind` is at."""
    for key, field in model.model_fields.items():
        for found in _annotations([*field.metadata, field.annotation]):
            if isinstance(found, kind):
                yield key, found


def nested(model):
    """Yield (key, model) of tables within a table."""
    for key, field in model.model_fields.items():
        for found in _annotations([field.annotation]):
            if isinstance(found, type) and issubclass(found, BaseModel):
                yield key, found


def _annotations(annotations):
    for annotation in annotations:
        yield annotation
        yield from _annotations(typing.get_args(annotation))


@functools.cache
def references(model):
    """((key, Refers), ...) of a model."""
    return tuple(annotated(model, Refers))


def named(item):
    """Yield (location, Refers, name) of everything that a port or an item names."""
    for key, refers in references(type(item)):
        value = getattr(item, key)
        if isinstance(value, str):
            yield (key,), refers, value
        elif value is not None:
            for i, name in enumerate(value):
                yield (key, i), refers, name


def missing(item, there):
    """What an item names that is not `there`, {section: names}, and cannot do without: [(section, name)]."""
    return [
        (refers.section, name)
        for _, refers, name in named(item)
        if not refers.cleared and name not in there[refers.section]
    ]


def names_one_of(item, names):
    """Whether an item names one of `names`, {section: names}, and cannot do without."""
    return any(
        not refers.cleared and name in names.get(refers.section, ()) for _, refers, name in named(item)
    )


def standing(items, there):
    """Of `items`, {section: items}, those that name only what is `there`, or each other; `items` if all do.

    `there`, {section: names}, gets the names of those that stand.
    """
    before = {section: there.get(section, set()) for section in items}
    left = items
    while True:
        for section, own in left.items():
            there[section] = before[section] | {item.name for item in own}
        found = {section: [item for item in own if not missing(item, there)] for section, own in left.items()}
        if all(len(found[section]) == len(left[section]) for section in items):
            return left
        left = found


def cleared(item, there):
    """`item` without the names that it can do without and that are not `there`."""

    def left(refers, value):
        if isinstance(value, str):
            return value if value in there[refers.section] else None
        return value if value is None else [name for name in value if name in there[refers.section]]

    return _changed(item, {key: left for key, refers in references(type(item)) if refers.cleared})


def renamed(item, names):
    """`item` with other names in its references: `names` is {(section, old): new}."""

    def new(refers, value):
        if isinstance(value, str):
            return names.get((refers.section, value), value)
        return value if value is None else [names.get((refers.section, name), name) for name in value]

    return _changed(item, {key: new for key, _ in references(type(item))}) if names else item


def _changed(item, changes):
    """`item` with the keys of `changes`, {key: function (Refers, value)}; itself when nothing is another."""
    if not changes:
        return item
    values = {key: (refers, getattr(item, key)) for key, refers in references(type(item)) if key in changes}
    update = {key: changes[key](refers, value) for key, (refers, value) in values.items()}
    update = {key: value for key, value in update.items() if value != values[key][1]}
    return item.model_copy(update=update) if update else item
