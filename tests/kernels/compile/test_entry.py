"""Calls by address: the address is of the machine code, and what does not fit is refused."""

from collections import namedtuple

import numpy as np
import pytest

from dpu_runtime.kernels.compile.entry import entry_address, lent_address, types_of
from dpu_runtime.kernels.compile.jit import PYTHON_MODE, kernel
from dpu_runtime.kernels.compile.reference import Lent
from dpu_runtime.kernels.stage import call_stage, stage_form

Pair = namedtuple("Pair", ["one", "two"])


@kernel
def _add(burst, state, port, count):
    burst.one[0] += state.two[port]
    return count - 1


@kernel
def _call(entry, burst, state, port, count):
    return call_stage(entry, burst, state, port, count)


def pair(one, two):
    return Lent(Pair(np.full(4, one, np.uint64), np.arange(two, two + 4, dtype=np.uint64)))


def form(burst, state):
    return ((), None) if PYTHON_MODE else stage_form(*types_of(burst, state))


def test_a_stage_is_called_with_the_state_at_an_address():
    burst, states = pair(1, 0), [pair(0, 10), pair(0, 20)]
    for state, expected in zip(states, (13, 35), strict=True):
        entry = entry_address(_add, *form(burst, state))
        assert _call(np.uint64(entry), burst, np.uint64(lent_address(state)), 2, 7) == 6
        assert burst.one[0] == expected


@pytest.mark.compiled
def test_a_burst_by_value_is_refused():
    from numba.core.errors import TypingError

    burst = pair(1, 0)
    with pytest.raises(TypingError, match="stage: a burst must be lent, it is Named"):
        _call(np.uint64(1), burst.value, np.uint64(1), 0, 0)


@pytest.mark.compiled
def test_an_entry_that_returns_something_else_is_refused():
    from numba import types

    burst, state = pair(1, 0), pair(0, 0)
    with pytest.raises(TypeError, match="returns int64 instead of none"):
        entry_address(_add, form(burst, state)[0], types.none)
