"""The two faces of a function: by itself for Python, and a part of the function that calls it."""

import numpy as np
import pytest

from dpu_runtime.kernels.compile.jit import glue, helper, kernel


@helper
def _add(values, n):
    total = np.uint64(0)
    for i in range(n):
        total += values[i]
    return total


@kernel
def _double(values, n):
    for i in range(n):
        values[i] *= np.uint64(2)
    return _add(values, n)


@glue
def _twice(values, n):
    _double(values, n)
    return _double(values, n)


@kernel
def _all(values, n):
    return _twice(values, n) + _add(values, n)


def values():
    return np.arange(4, dtype=np.uint64)


def test_each_is_called_from_python():
    assert _add(values(), 4) == 6
    assert _double(values(), 4) == 12
    assert _all(values(), 4) == 48


def test_a_kernel_is_made_where_it_is_called():
    def factory(inner):
        @kernel
        def call(array, n):
            return inner(array, n)

        return call

    assert [factory(inner)(values(), 4) for inner in (_add, _double)] == [6, 12]


@pytest.mark.compiled
def test_what_is_part_of_another_is_not_compiled_by_itself():
    from numba import float64, int64

    passed = (float64[::1], int64)
    _all.compile(passed)
    assert passed in _all.overloads and passed in _all.signatures
    for part in (_double, _add.by_itself):
        assert passed not in part.overloads
    assert _all.__name__ == _all.py_func.__name__ == "_all"


SOURCE = """
        from dpu_runtime.kernels.compile.jit import helper, kernel
        @helper
        def low(x):
            return x + 1
        @kernel
        def inner(x):
            return low(x) * 2
        @kernel
        def outer(x):
            return inner(x) - 1
"""
CALLS = "from planted.two import low, inner, outer\nprint({})"


@pytest.mark.compiled
def test_on_disk_is_what_was_asked_for(planted):
    planted.write("two", SOURCE)
    assert planted.run(CALLS.format("outer(3)")) == (["7"], ["two.outer"])
    assert planted.run(CALLS.format("inner(3), outer(3)")) == (["8", "7"], ["two.inner"])
    assert planted.run(CALLS.format("low(3), inner(3), outer(3)")) == (["4", "8", "7"], ["two.low"])
    assert planted.run(CALLS.format("low(3), inner(3), outer(3)")) == (["4", "8", "7"], [])
