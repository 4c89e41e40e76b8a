"""bench/host_programs.py: small; its check, and that every case is measured."""

import numpy as np
import pytest

from bench import host_programs
from tests.bench.test_host_pair import line, marked

RULES = 20


def test_percentiles_are_in_us():
    sample = host_programs.Sample(line(), line(), np.arange(1001, dtype=np.uint32) * 1000, 0.0)
    taken = [sample.percentile(percent) for percent in host_programs.PERCENTILES]
    assert taken == pytest.approx([500, 990, 999])


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"damaged": 1}, "changed"),
        ({"errors": 1}, "changed"),
        ({"repeated": 1}, "twice"),
        ({"bufs_missing": 1}, "missing"),
    ],
)
def test_what_goes_wrong_is_caught(fields, text):
    host_programs.check(line(frames=1), line())
    with pytest.raises(AssertionError, match=text):
        host_programs.check(line(frames=1), line(**fields))
    with pytest.raises(AssertionError, match="no packet"):
        host_programs.check(line(), line())


@marked
@pytest.mark.slow
def test_all_cases_are_measured(monkeypatch):
    monkeypatch.setattr(host_programs, "RATES", (5000,))
    made = {one.name: one for one in host_programs.run(100, repeats=1, rules=RULES)}
    cases = [
        f"{name}, {way}" for name in ("xconnect", f"switch, {RULES} rules") for way in ("polling", "dpu_wait")
    ]
    assert {name for name, one in made.items() if one.unit == "Mpps"} == {f"64 B: {case}" for case in cases}
    assert all(made[f"64 B: {case}"].median > 0 for case in cases)
    for case in cases:
        low, middle, high = (made[f"one way, 5 kpps: {case}, p{p}"].median for p in (50, 99, 99.9))
        assert 0 < low <= middle <= high
    assert all(one.median == 0 for name, one in made.items() if name.endswith("lost"))
