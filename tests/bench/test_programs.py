"""bench/programs.py: small; what stages cost, and that each switch is one."""

import pytest

from bench import programs
from tests.bench.test_host_pair import marked


@pytest.mark.compiled
def test_stages_that_are_off_are_not_in_the_program():
    on, off = programs.stages(repeats=3, bursts=200)
    assert on.name == "10 more stages, on"
    assert off.name == "10 more stages, off"
    assert on.unit == off.unit == "ns a burst"
    assert on.median > off.median


@marked
@pytest.mark.slow
def test_packets_pass_while_mirror_is_switched():
    made = {one.name: one for one in programs.run(3, rate=20_000, repeats=1, bursts=20)}
    lost = made["mirror: packets lost in 3 times on and off"]
    assert (lost.median, lost.unit) == (0, "packets")
    assert made["mirror: packets sent"].median > 0
    assert made["mirror: command to switch on"].median > 0
