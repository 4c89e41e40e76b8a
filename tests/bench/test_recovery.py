"""bench/recovery.py: small; gaps and silences."""

import pytest

from bench import recovery


def test_the_longest_gap_is_looked_for_after_the_kill():
    times = [0.0, 0.9, 1.0, 1.3, 1.4]
    assert recovery.longest_gap(times, since=0.95) == pytest.approx(0.3)
    assert recovery.longest_gap(times, since=0.5) == pytest.approx(0.9)


def test_the_longest_silence_is_a_run_of_intervals():
    def intervals(*octets):
        return [{"sum": {"bytes": n, "seconds": 0.1}} for n in octets]

    assert recovery.longest_silence(intervals(5, 0, 5, 0, 0, 5)) == pytest.approx(0.2)
    assert recovery.longest_silence(intervals(5, 5)) == 0.0


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.package("iproute2", "iputils-ping", "iperf3")
def test_traffic_survives_both_kills():
    gap, silence, take_over, lost, adoption = recovery.run(1)
    assert (gap.unit, silence.unit, take_over.unit) == ("ms", "ms", "ms")
    assert 0 < gap.median < 3000
    assert lost.median == 0
    assert 0 < adoption.median < 30
