"""bench/growth.py and growth_ports.py, small: packets get through, and each axis says what it is."""

import pytest

pytestmark = pytest.mark.compiled


@pytest.mark.root
@pytest.mark.package("iproute2")
def test_packets_are_forwarded_between_one_pair_and_between_all():
    from bench import growth_ports

    made = {row.name: row for row in growth_ports.ports(20, 1, counts=(2, 6))}
    for count in (2, 6):
        for which in ("one pair talks", "all pairs talk"):
            assert made[f"ports, {count}: DPU, {which}"].median > 0
            assert 0 <= made[f"ports, {count}: DPU, {which}, lost"].median < 100


@pytest.mark.root
@pytest.mark.package("gcc", "libc6-dev", "iproute2", "dpdk-dev")
def test_large_packets_are_segments():
    from bench import growth_ports

    made = {row.name: row for row in growth_ports.sizes(50, 1, octets=(64, 9000))}
    for octets in (64, 9000):
        ours, ratio = (made[f"packet size, {octets}: DPU{end}"] for end in ("", " / testpmd io"))
        assert ours.median > 0
        assert ratio.ours == ours.median and ratio.of_unit == "Gbit/s"


def test_each_axis_says_what_it_is():
    from bench import growth
    from bench.plots import LINE_ROW

    names = ("rules in memory, 10,000: DPU, x", "MAC table in memory, 1: DPU", "workers of TAP ports, 2: DPU")
    assert [LINE_ROW.fullmatch(name)["group"] in growth.PLOT["x"] for name in names] == [True] * 3
