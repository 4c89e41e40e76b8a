"""Methods of what functions have: NOUN.add, NOUN.del and NOUN.show for every noun that is declared.

In:   the declarations (dpu_runtime/registry.py).   Out: methods as methods.py registers them.
Not:  the noun `port` (methods.py), the work (control.py).
"""

import importlib
import typing
from typing import Annotated

from pydantic import Field, create_model

from dpu_runtime.api import shapes
from dpu_runtime.config.errors import ApplyError
from dpu_runtime.registry import functions


def declared():
    """(function, section, noun) of every noun there is."""
    for function in functions():
        for section, noun in function.nouns.items():
            yield function, section, noun


def counted(config):
    """{plural: how many} of ports, and of the items whose noun says so."""
    counts = {"ports": len(config.port)}
    for _, section, noun in declared():
        if noun.counted:
            counts[noun.many] = len(getattr(config, section))
    return counts


def status_shape():
    """`shapes.Status` with the counts of `counted`."""
    many = {
        noun.many: (int, Field(description="how many there are")) for _, _, noun in declared() if noun.counted
    }
    return create_model("Status", __base__=shapes.Status, __doc__=shapes.Status.__doc__, **many)


def methods():
    """(name, params, result, run, text) of every noun's methods."""
    for function, section, noun in declared():
        yield from _methods(function, section, noun)


def _methods(function, section, noun):
    model = function.sections[section]
    order = _loaded(noun.order) if noun.order else None
    what = f"{'an' if noun.name[0] in 'aeiou' else 'a'} {noun.name}"

    async def add(api, item):
        return {"name": await api.control.add_item(section, item)}

    async def delete(api, params):
        await api.control.del_item(section, params.name)
        return {"name": params.name}

    async def show(api, params):
        items = getattr(api.control.running, section)
        if params.name is not None:
            there = ", ".join(item.name for item in items) or "none"
            items = [item for item in items if item.name == params.name]
            if not items:
                raise ApplyError(f"no {noun.name} {params.name!r}, there are: {there}")
        views = [{"config": shapes.plain(item)} for item in (sorted(items, key=order) if order else items)]
        if params.stats and noun.stats:
            counters = api.control.device.item_counters(function.name).get(section, {})
            for view in views:
                counts = counters.get(view["config"]["name"], (0,) * len(noun.stats))
                view.update(zip(noun.stats, map(int, counts), strict=True))
        return views

    which, some, views = _shapes(noun, model)
    yield f"{noun.name}.add", model, shapes.Done, add, f"Add {what}."
    yield f"{noun.name}.del", which, shapes.Done, delete, f"Delete {what}; refused while something names it."
    yield f"{noun.name}.show", some, views, show, f"Show {noun.many}: one, or all."


def _shapes(noun, model):
    """What `del` and `show` take and `show` returns: models named after the noun."""
    title = "".join(word.capitalize() for word in noun.name.replace("-", "_").split("_"))
    name = _name_of(model)

    def shape(kind, text, **fields):
        return create_model(title + kind, __base__=shapes.Shape, __doc__=text, **fields)

    which = shape("Ref", f"Which {noun.name}.", name=(name, Field(description=f"name of the {noun.name}")))
    some = shape(
        "Filter",
        f"Which {noun.many} to show, and how much of them.",
        name=(name | None, Field(None, description=f"name of the {noun.name}; absent: all")),
        stats=(bool, Field(False, description="with counters")),
    )
    counters = {
        stat: (int | None, Field(None, description=f"{stat} counted, if asked for")) for stat in noun.stats
    }
    view = shape("View", f"One of the {noun.many}.", config=(model, ...), **counters)
    return which, some, list[view]


def _name_of(model):
    """Type of a model's `name`, which is there even where the model lets it be made up."""
    field = model.model_fields["name"]
    if field.metadata:
        return Annotated[(field.annotation, *field.metadata)]
    (kind,) = (part for part in typing.get_args(field.annotation) if part is not type(None))
    return kind


def _loaded(place):
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
