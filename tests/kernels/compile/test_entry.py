"""Entries: kernels called by address, with what is lent to them, and found again on disk."""

from collections import namedtuple

import numpy as np
import pytest

from dpu_runtime.kernels.compile.entry import caller, entry_address, lent_address
from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.compile.mode import PYTHON_MODE
from dpu_runtime.kernels.compile.reference import Lent

Rules = namedtuple("Rules", ["step", "limit"])
Limits = namedtuple("Limits", ["limit", "step"])  # the same types, in another order

_judge = caller("UniTuple(int64, 2)", 3, lent=(0,))
_note = caller("none", 2)


@kernel
def _add(rules, values, count):
    total = np.int64(0)
    for i in range(count):
        total += np.int64(values[i]) * np.int64(rules.step[0])
    return total, np.int64(rules.limit[0])


@kernel
def _write(values, count):
    values[count] = 77


@kernel
def _call(address, rules, values, count):
    return _judge(address, rules, values, count)


@kernel
def _call_note(address, values, count):
    _note(address, values, count)
    return values[count]


def passed(*values):
    """Types of arguments; in Python mode nobody asks."""
    if PYTHON_MODE:
        return ()
    from numba import typeof

    return tuple(map(typeof, values))


def words(*values):
    return np.array(values, np.uint64)


def test_an_entry_is_called_by_address_with_what_is_lent():
    values = words(1, 2, 3)
    for rules in (Rules(words(10), words(5)), Limits(words(5), words(10))):
        lent = Lent(rules)
        address = entry_address(_add, passed(lent, values, 3))
        got = _call(np.uint64(address), np.uint64(lent_address(lent)), values, 3)
        assert tuple(map(int, got)) == (60, 5)


def test_an_entry_that_returns_nothing():
    values = words(1, 2, 3)
    address = entry_address(_write, passed(values, 1))
    assert _call_note(np.uint64(address), values, 1) == 77


@pytest.mark.compiled
def test_an_address_stays():
    values = words(1)
    assert entry_address(_write, passed(values, 0)) == entry_address(_write, passed(values, 0))


@pytest.mark.compiled
def test_what_an_entry_is_called_with_can_be_checked():
    seen = []
    checked = caller("none", 2, check=seen.append)

    @kernel
    def call(address, values, count):
        checked(address, values, count)

    values = words(1, 2)
    call(np.uint64(entry_address(_write, passed(values, 1))), values, 1)
    assert passed(values, 1) in seen


@pytest.mark.compiled
def test_a_call_with_fewer_arguments_does_not_compile():
    @kernel
    def call(address, values):
        _note(address, values)

    with pytest.raises(Exception, match="argument"):
        call(np.uint64(1), words(1))


@pytest.mark.compiled
def test_an_entry_that_does_not_compile_says_where():
    @kernel
    def wrong(values):
        return values.missing

    with pytest.raises(Exception, match=r"(?s)missing.*test_entry\.py"):
        entry_address(wrong, passed(words(1)))


@pytest.mark.compiled
def test_fields_of_other_names_are_another_type():
    rules, limits = passed(Lent(Rules(words(1), words(1))), Lent(Limits(words(1), words(1))))
    assert rules != limits
    assert rules == passed(Lent(Rules(words(1, 2), words(1, 2, 3))))[0]
    of_floats = passed(Lent(Rules(np.zeros(1), words(1))))[0]
    assert rules != of_floats


STATE = """
        import numpy as np
        from collections import namedtuple
        from numba import int64, typeof
        from dpu_runtime.kernels.compile.entry import entry_address
        from dpu_runtime.kernels.compile.jit import kernel
        from dpu_runtime.kernels.compile.reference import Lent

        @kernel
        def judge(state, n):
            return state.tables.rows[n] + state.tables.masks[n] + state.counters.hits[n, 0]

        def state(tables=("rows", "masks")):
            inner = namedtuple("Tables", tables)(*(np.ones(3, np.uint64) for _ in tables))
            counters = namedtuple("Counters", ["hits", "octets"])(*np.ones((2, 4, 2), np.uint64))
            return Lent(namedtuple("State", ["tables", "counters"])(inner, counters))

        def address(*given):
            return entry_address(judge, (typeof(state(*given)), int64))
"""
PROGRAM = """
from planted.states import address, judge, state
given = []
assert address(*given) == address(*given)
print(len(judge.overloads), judge(state(*given), 2), sum(judge.stats.cache_hits.values()))
"""


@pytest.mark.compiled
def test_a_namedtuple_made_when_the_program_runs_is_found_again_on_disk(planted):
    planted.write("states", STATE)
    assert planted.run(PROGRAM) == (["1", "3", "0"], ["states.judge"])
    assert planted.run(PROGRAM) == (["1", "3", "1"], [])
    more = PROGRAM.replace("[]", '[["masks", "rows", "more"]]')
    assert planted.run(more) == (["1", "3", "0"], ["states.judge"])
