"""The distance of two CPUs: one that can be, and how it is called."""

import pytest

from bench import cpu_distance


@pytest.mark.parametrize(
    "low_ns, high_ns, distance",
    [(100, 140, "near"), (100, 200, "near"), (201, 390, "far"), (140, 390, "mixed"), (None, None, "unknown")],
)
def test_a_distance_has_a_name(low_ns, high_ns, distance):
    assert cpu_distance.distance(low_ns, high_ns) == distance


@pytest.mark.compiled
def test_a_line_takes_more_than_cycles_and_less_than_a_system_call():
    assert 10 < cpu_distance.measure() < 5_000


@pytest.mark.compiled
def test_who_waits_for_nobody_gives_up(monkeypatch):
    monkeypatch.setattr(cpu_distance, "SECONDS_MAX", 0.0)
    assert cpu_distance.measure() is None


def test_a_single_cpu_has_no_distance(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert cpu_distance.measure() is None
