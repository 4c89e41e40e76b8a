"""The functions there are: one line each.

A function of another package is found by an entry point of the group "dpu_runtime.functions".
"""

import functools
import graphlib
import importlib

from dpu_runtime.function import HOOKS

NAMES = (
    "switch",
    "acl",
    "meter",
)


@functools.cache
def functions():
    """Every Function, in the order of NAMES."""
    return tuple(importlib.import_module(f"dpu_runtime.functions.{name}").FUNCTION for name in NAMES)


def order(declared):
    """{hook: stages of the functions `declared`, in the order in which they run}."""
    ordered = {}
    for hook in HOOKS:
        stages = {
            stage.name: stage for function in declared for stage in function.stages if stage.hook == hook
        }
        before = {name: set(stage.after) & set(stages) for name, stage in stages.items()}
        for name, stage in stages.items():
            for later in set(stage.before) & set(stages):
                before[later].add(name)
        names = graphlib.TopologicalSorter(before).static_order()
        ordered[hook] = [stages[name] for name in names]
    return ordered
