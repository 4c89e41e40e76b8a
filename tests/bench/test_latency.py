"""bench/latency.py: small; percentiles and the check for losses."""

import pytest

from bench import latency


def test_percentiles_are_of_the_nearest_rank():
    assert latency.percentile([3, 1, 2, 4], 50) == 2
    assert latency.percentile(range(1, 101), 99) == 99
    assert latency.percentile([7], 99) == 7


def test_a_lost_request_is_caught():
    latency.check_answers("3 packets transmitted, 3 received, 0% packet loss", 3)
    with pytest.raises(AssertionError, match="2 received"):
        latency.check_answers("3 packets transmitted, 2 received, 33% packet loss", 3)


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.package("iproute2", "iputils-ping", "sockperf")
@pytest.mark.usefixtures("daemons_as_users_run_them")
def test_all_round_trips_are_measured():
    made = latency.run(200, repeats=1, seconds=1)
    figures = [
        f"{title}: {pair}"
        for title in (
            "ping -f, mean",
            "ping -A, p50",
            "ping -A, p99",
            "TCP ping-pong, p50",
            "TCP ping-pong, p99",
        )
        for pair in ("bridge", "DPU", "DPU / bridge")
    ]
    assert [one.name for one in made] == figures
    assert all(one.median > 0 for one in made)
