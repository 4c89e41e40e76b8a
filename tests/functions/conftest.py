"""What is here runs in three modes, but for tests on real Linux and those that say why not."""

from tests.modes import mark_three_modes


def pytest_itemcollected(item):
    """Say so of a test of this folder."""
    mark_three_modes(item)
