"""docs/add-a-function.md walks through mirror: its excerpts are what the files have."""

import re

import pytest

from tests.conventions import ROOT

PAGE = (ROOT / "docs" / "add-a-function.md").read_text()
EXCERPT = re.compile(r"<!-- (\S+) -->\n```python\n(.*?)```", re.DOTALL)
FOUND = EXCERPT.findall(PAGE)

pytestmark = pytest.mark.one_mode("reads files")


def test_every_excerpt_says_where_it_is_from():
    assert len(FOUND) == PAGE.count("```python") >= 8


@pytest.mark.parametrize("number", range(len(FOUND)))
def test_an_excerpt_is_in_its_file(number):
    path, excerpt = FOUND[number]
    text = (ROOT / path).read_text()
    at = 0
    for piece in excerpt.split("...\n"):
        at = text.find(piece, at)
        assert at >= 0, f"{path} has no\n{piece}"


def test_files_that_are_named_are_there():
    for path in re.findall(r"`((?:kernels|dpu_runtime|tests|docs)/[\w/.-]+)`", PAGE):
        assert (ROOT / path).exists(), path
