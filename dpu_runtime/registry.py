"""The functions there are: one line each.

A function of another package is found by an entry point of the group "dpu_runtime.functions".
"""

import functools
import importlib
import importlib.metadata

NAMES = (
    "switch",
    "acl",
    "meter",
)


@functools.cache
def functions():
    """Every Function, in the order of NAMES, then those of other packages."""
    own = [importlib.import_module(f"dpu_runtime.functions.{name}").FUNCTION for name in NAMES]
    others = importlib.metadata.entry_points(group="dpu_runtime.functions")
    return (*own, *(entry.load() for entry in sorted(others, key=lambda entry: entry.name)))
