"""How deep buckets are made: relations that hold for every rate and burst."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpu_runtime.functions.meter.limits import (
    BURST_DEFAULT_MIN,
    burst_behind_shaper,
    meter_burst,
    shaper_burst,
    shaper_queue,
)
from dpu_runtime.kernels.meter.table import BURST_MAX, BURST_MIN, METER_WORDS, RATE_MAX, RATE_MIN, write_meter

pytestmark = pytest.mark.one_mode("the control half: no kernel is called")
PSCHED_TICK_NS = 64  # Linux PSCHED_SHIFT
RATES = st.integers(RATE_MIN, RATE_MAX)
BURSTS = st.one_of(st.none(), st.integers(BURST_MIN, BURST_MAX))


def test_what_the_defaults_are():
    assert meter_burst(20_000_000, None) == 20_000_000 // 8 // 4
    assert meter_burst(RATE_MIN, None) == BURST_DEFAULT_MIN
    assert meter_burst(20_000_000, 70_000) == shaper_burst(20_000_000, 70_000) == 70_000
    assert shaper_burst(20_000_000, None) == BURST_DEFAULT_MIN
    assert shaper_burst(1_000_000_000, None) == 1_000_000_000 // 8 // 100
    assert shaper_queue(200_000_000, 131_072) == 131_072 + 200_000_000 // 8 // 20


@given(RATES, BURSTS)
def test_every_limit_can_be_written(rate, burst):
    for depth in (meter_burst(rate, burst), burst_behind_shaper(rate, burst)):
        assert BURST_MIN <= depth <= BURST_MAX
        write_meter([0] * METER_WORDS, rate, depth)
    depth = shaper_burst(rate, burst)
    assert depth * 8 * 1_000_000_000 // rate // PSCHED_TICK_NS < 1 << 32
    assert rate // 8 < 1 << 32
    assert depth < shaper_queue(rate, depth) < 1 << 32
    assert depth <= burst_behind_shaper(rate, burst)
