"""Namedtuples by reference: compiled code reads of a `Lent` what is in the namedtuple."""

from collections import namedtuple

import numpy as np
import pytest

from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.compile.reference import Lent, make_types
from dpu_runtime.kernels.layout import META_DTYPE

Inner = namedtuple("Inner", ["words", "negative"])
Outer = namedtuple("Outer", ["first", "inner", "rows", "meta", "last"])


@helper
def _sum_inner(inner):
    total = np.int64(inner.negative)
    for k in range(len(inner.words)):
        total += np.int64(inner.words[k])
    return total


@kernel
def _read(outer, row, column):
    """(a sum of the inner tuple, one octet, one field of a record, the plain ints)."""
    meta = outer.meta[row]
    return _sum_inner(outer.inner), outer.rows[row, column], meta["frame_len"], outer.first - outer.last


@kernel
def _write(outer, row, column, value):
    outer.rows[row, column] = value
    return outer.rows.shape[0] * 1000 + outer.rows.shape[1]


def make(rows=7, columns=5):
    generator = np.random.default_rng(rows)
    meta = np.zeros(rows, META_DTYPE)
    meta["frame_len"] = np.arange(rows) * 100
    octets = generator.integers(0, 256, (rows, columns)).astype(np.uint8)
    return Outer(-3, Inner(np.arange(9, dtype=np.uint16), -20), octets, meta, 1 << 40)


@pytest.mark.parametrize("wrap", [Lent, lambda value: value], ids=["by reference", "by value"])
def test_every_field_is_read_as_it_is(wrap):
    value = make()
    lent = wrap(value)
    for row in range(7):
        for column in range(5):
            expected = (36 - 20, value.rows[row, column], row * 100, -3 - (1 << 40))
            assert tuple(map(int, _read(lent, row, column))) == expected


@pytest.mark.compiled
def test_its_type_is_made_once():
    from numba import typeof

    lent = Lent(make())
    make_types(lent)
    made = lent._type
    assert made == typeof(Lent(make()))
    assert typeof(lent) is made


def test_what_is_written_is_in_the_arrays_themselves():
    value = make()
    assert int(_write(Lent(value), 3, 4, 77)) == 7005
    assert value.rows[3, 4] == 77


def test_one_compiled_function_takes_arrays_of_any_length():
    assert [int(_write(Lent(make(rows, 3)), 0, 0, 1)) for rows in (1, 2, 50)] == [1003, 2003, 50003]


def test_python_reads_the_fields_too():
    value = make()
    lent = Lent(value)
    assert lent.inner is value.inner
    assert lent.first == -3
    with pytest.raises(AttributeError, match="missing"):
        _ = lent.missing


@kernel
def _read_missing(outer):
    return outer.missing


def test_an_unknown_field_does_not_compile():
    with pytest.raises(Exception, match="missing"):
        _read_missing(Lent(make()))
