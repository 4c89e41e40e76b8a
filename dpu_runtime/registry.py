"""The functions there are: one line each, and those of other packages.

A function of another package is found by an entry point of the group "dpu_runtime.functions", which names its
`Function`. One that cannot be loaded, or that clashes, is left out with a line that says why.
Out:  `functions()`, checked (declarations.py); `by_references` and `order` say what comes first.
"""

import functools
import importlib
import importlib.metadata
import logging

from dpu_runtime.declarations import DeclarationError, by_references, check, order
from dpu_runtime.function import Function

__all__ = ["GROUP", "NAMES", "by_references", "check", "function", "functions", "load", "order"]

log = logging.getLogger("dpu.registry")

GROUP = "dpu_runtime.functions"
NAMES = (
    "switch",
    "acl",
    "meter",
    "mirror",
)


@functools.cache
def functions():
    """Every Function: those of NAMES in their order, then those of other packages by their names."""
    own = tuple(importlib.import_module(f"dpu_runtime.functions.{name}").FUNCTION for name in NAMES)
    check(own)
    return with_others(own, importlib.metadata.entry_points(group=GROUP))


def function(name):
    """The Function called `name`."""
    return next(one for one in functions() if one.name == name)


def load(place):
    """What "module:name" names; None for None."""
    if place is None:
        return None
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def with_others(own, entry_points):
    """`own` and what entry points name, but for what is broken or clashes."""
    found = [(point, _loaded(point)) for point in sorted(entry_points, key=lambda point: point.name)]
    there, left = own, [(point, one) for point, one in found if one is not None]
    while left:
        refused = []
        for point, one in left:
            try:
                check((*there, one))
            except Exception as error:  # what it declares may be of any type
                refused.append((point, one, error if isinstance(error, DeclarationError) else repr(error)))
            else:
                there = (*there, one)
        if len(refused) == len(left):
            for point, _, error in refused:
                log.error("function %s of %s is left out: %s", point.name, _distribution(point), error)
            break
        left = [(point, one) for point, one, _ in refused]  # one may refer to another that came since
    return there


def _loaded(point):
    try:
        one = point.load()
    except (Exception, SystemExit) as error:  # other people's code: whatever it does, the rest goes on
        log.error("function %s of %s is left out: %r", point.name, _distribution(point), error)
        return None
    if not isinstance(one, Function):
        text = "function %s of %s is left out: %s is not a Function"
        log.error(text, point.name, _distribution(point), point.value)
        return None
    return one


def _distribution(point):
    return f"distribution {point.dist.name} {point.dist.version}" if point.dist else "no distribution"
