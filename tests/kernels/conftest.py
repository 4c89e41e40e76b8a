"""Fixtures of the kernels' tests, which run in three modes."""

import pytest

from tests.kernels.batches import Batch
from tests.modes import mark_three_modes


def pytest_itemcollected(item):
    """Say so of a test of this folder."""
    mark_three_modes(item)


@pytest.fixture(scope="module", params=["contiguous", "pieces"])
def payload_layouts(request):
    """Run a module's tests with the payload of every Batch in one piece, and in many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batch, "in_pieces", request.param == "pieces")
        yield
