"""bench/start.py: small, warm."""

import pytest

from bench import start


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.package("iproute2")
def test_the_first_frame_comes_at_about_the_time_of_ready():
    forwarded, ready = start.run(1, cold=0)
    assert forwarded.name == "start, warm: to the first forwarded packet"
    assert 0 < forwarded.median < 60
    assert forwarded.median == pytest.approx(ready.median, abs=2)
