"""bench/programs.py: small; what stages cost, and that each switch is one."""

import pytest

from bench import programs
from dpu_runtime.kernels.layout import BATCH_SIZE
from tests.bench.test_host_pair import marked


@pytest.mark.compiled
def test_stages_that_are_off_are_not_in_the_program():
    made = list(programs.stages(repeats=1, bursts=20))
    assert [(one.name, one.unit) for one in made] == [
        ("10 more stages, on", "ns a burst"),
        ("10 more stages, off", "ns a burst"),
    ]
    for name, seen in (("without", None), ("off", 0), ("on", 20 * BATCH_SIZE)):
        device = programs.devices()[name]
        assert programs.burst_ns(device, 20, 1.0) > 0
        if seen is not None:
            counted = [int(device.shared.of(f"idle{n}").stages[0, 0, 0]) for n in range(programs.MORE_STAGES)]
            assert counted == [seen] * programs.MORE_STAGES


@marked
@pytest.mark.slow
def test_packets_pass_while_mirror_is_switched():
    made = {one.name: one for one in programs.run(3, rate=20_000, repeats=1, bursts=20)}
    lost = made["mirror: packets lost in 3 times on and off"]
    assert (lost.median, lost.unit) == (0, "packets")
    assert made["mirror: packets sent"].median > 0
    assert made["mirror: command to switch on"].median > 0
