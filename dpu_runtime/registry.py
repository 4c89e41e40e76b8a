"""The functions there are: one line each.

A function of another package is found by an entry point of the group "dpu_runtime.functions".
"""

import functools
import importlib

NAMES = (
    "switch",
    "acl",
    "meter",
)


@functools.cache
def functions():
    """Every Function, in the order of NAMES."""
    return tuple(importlib.import_module(f"dpu_runtime.functions.{name}").FUNCTION for name in NAMES)
