"""Tests of kernels run in three modes, or say why not; planted ones that do neither are caught."""

import re

import pytest

from tests import modes

pytestmark = pytest.mark.in_memory

CONFTEST = "from tests.conftest import pytest_addoption, pytest_configure\n"
MARKING = """from tests.modes import mark_three_modes


def pytest_itemcollected(item):
    mark_three_modes(item)
"""
PLANTED = """import pytest


def test_of_a_kernel(): pass


@pytest.mark.root
def test_on_linux(): pass
"""


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Write a test file and the conftest.py of its folder; returns which tests an expression chooses."""
    monkeypatch.setenv("PYTHONPATH", str(modes.ROOT))

    def chosen(text, conftest, expression=modes.STRAYS):
        folder = tmp_path / "kernels"
        folder.mkdir()
        (tmp_path / "conftest.py").write_text(CONFTEST)
        (folder / "conftest.py").write_text(conftest)
        (folder / "test_planted.py").write_text(text)
        return modes.collected(expression, [folder], tmp_path)

    return chosen


def test_every_test_of_a_kernel_runs_in_three_modes_or_says_why_not():
    assert modes.collected(modes.STRAYS) == []


def test_a_folder_that_does_not_mark_its_tests_is_caught(planted):
    assert planted(PLANTED, "") == ["kernels/test_planted.py::test_of_a_kernel"]


def test_a_folder_marks_all_but_the_tests_on_linux(planted):
    assert planted(PLANTED, MARKING, "three_modes") == ["kernels/test_planted.py::test_of_a_kernel"]


@pytest.mark.parametrize("mark", ["one_mode", "one_mode()", 'one_mode(" ")'])
def test_a_test_in_one_mode_without_a_reason_is_refused(planted, mark):
    text = f"import pytest\npytestmark = pytest.mark.{mark}\n\n\ndef test_planted(): pass\n"
    with pytest.raises(ValueError, match=re.escape('::test_planted: one_mode("why it does not')):
        planted(text, MARKING)


def test_a_test_in_one_mode_says_why(planted):
    text = "import pytest\npytestmark = pytest.mark.one_mode('no kernel')\n\n\ndef test_planted(): pass\n"
    assert planted(text, MARKING, "three_modes") == []


def test_every_folder_of_tests_with_daemons_is_there():
    assert all((modes.ROOT / folder).is_dir() for folder in modes.DAEMONS)


def test_a_marker_that_is_misspelled_is_refused(planted):
    text = "import pytest\n\n\n@pytest.mark.three_mode\ndef test_planted(): pass\n"
    with pytest.raises(ValueError, match="'three_mode' not found in `markers`"):
        planted(text, "")
