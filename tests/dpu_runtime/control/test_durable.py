"""A journal: whatever it is cut down to by a crash, it is what was there before a change or after it."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpu_runtime.config.errors import DaemonError
from dpu_runtime.control import durable
from dpu_runtime.control.durable import Journal

VERSION = 7
TABLES = (
    {"port": {"a": 1, "b": {"x": "ä\n"}}, "rule": {}},
    {"port": {"a": 1, "b": {"x": "ä\n"}, 'c"': 3}, "rule": {"r": 1}},
    {"port": {"b": {"x": 2}, 'c"': 3}, "rule": {}},
    {"port": {"b": {"x": 2}, 'c"': 3, "a": 4}, "rule": {}},
)


def texts(tables):
    return {kind: {key: json.dumps(value) for key, value in table.items()} for kind, table in tables.items()}


def in_order(tables):
    """Tables as lists, without empty ones."""
    return {kind: list(table.items()) for kind, table in tables.items() if table}


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "j", VERSION)


def loaded(journal):
    return in_order(Journal(journal.path, VERSION).load())


def test_each_change_is_there_and_costs_a_line(journal):
    assert loaded(journal) == {}
    inode, size = None, 0
    for tables in TABLES:
        journal.write(texts(tables))
        assert loaded(journal) == in_order(tables)
        found = journal.path.stat()
        assert found.st_ino == inode or inode is None
        assert found.st_size > size
        inode, size = found.st_ino, found.st_size
    journal.write(texts(TABLES[-1]))
    assert journal.path.stat().st_size == size


def test_a_change_that_is_cut_short_at_any_octet_is_none(journal):
    for tables in TABLES[:2]:
        journal.write(texts(tables))
    whole = journal.path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for end in range(len(whole) - len(lines[-1]), len(whole)):
        journal.path.write_bytes(whole[:end])
        assert loaded(journal) == in_order(TABLES[0])
    later = Journal(journal.path, VERSION)
    later.write(texts(TABLES[2]))  # and the part is not what the next one is added to
    later.write(texts(TABLES[3]))
    assert loaded(journal) == in_order(TABLES[3])


@given(
    st.lists(
        st.fixed_dictionaries({"port": st.permutations("abcde"), "count": st.integers(0, 5)}), max_size=8
    )
)
def test_any_tables_after_any_others(tmp_path_factory, steps):
    journal = Journal(tmp_path_factory.mktemp("journal") / "j", VERSION)
    for number, step in enumerate(steps):
        names = step["port"][: step["count"]]
        tables = {"port": {name: [name, number % 2] for name in names}, "rule": {}}
        journal.write(texts(tables))
        assert loaded(journal) == in_order(tables)


def test_the_file_is_written_anew_after_many_changes(journal, monkeypatch):
    monkeypatch.setattr(durable, "CHANGES_MIN", 10)
    lines = []
    for number in range(50):
        tables = {"port": {"a": number}}
        journal.write(texts(tables))
        assert loaded(journal) == in_order(tables)
        lines.append(journal.path.read_bytes().count(b"\n"))
    assert max(lines) == 2 + 10
    assert lines.count(2) > 3


def test_after_a_failed_write_the_file_is_written_anew(journal, monkeypatch):
    journal.write(texts(TABLES[0]))
    real, failures = os.fsync, [OSError(28, "No space left on device")] * 2

    def full(fd):
        if failures:
            raise failures.pop()
        real(fd)

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        journal.write(texts(TABLES[1]))
    journal.write(texts(TABLES[2]))
    assert loaded(journal) == in_order(TABLES[2])
    assert journal.path.read_bytes().count(b"\n") == 1 + 2


def test_a_file_that_somebody_took_away_is_made_again(journal):
    journal.write(texts(TABLES[0]))
    journal.path.unlink()
    journal.write(texts(TABLES[1]))
    assert loaded(journal) == in_order(TABLES[1])


def test_another_version_is_refused(journal):
    journal.write(texts(TABLES[0]))
    with pytest.raises(DaemonError, match=f"{journal.path}: version {VERSION}, not {VERSION + 1}"):
        Journal(journal.path, VERSION + 1).load()
