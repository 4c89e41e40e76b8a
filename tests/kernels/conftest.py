"""Fixtures of the kernels' tests."""

import pytest

from tests.kernels.batches import Batch


@pytest.fixture(scope="module", params=["contiguous", "pieces"])
def payload_layouts(request):
    """Run a module's tests with the payload of every Batch in one piece, and in many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batch, "in_pieces", request.param == "pieces")
        yield
