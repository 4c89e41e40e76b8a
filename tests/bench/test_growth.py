"""bench/growth.py, small: each axis grows, what is learned is found, what is simulated follows the law."""

import pytest

pytestmark = pytest.mark.compiled


def test_amdahls_law_goes_through_what_was_measured():
    from bench.growth_memory import amdahl

    assert amdahl(10, 20, 16) == 160
    assert amdahl(10, 15, 2) == pytest.approx(15)
    assert amdahl(10, 15, 1000) == pytest.approx(30, rel=0.01)  # a third is serial
    assert amdahl(10, 8, 4) == 10  # two were slower than one: nothing is gained
    assert amdahl(10, 25, 4) == 40  # by chance: no more than each as much


@pytest.mark.slow
def test_the_pipeline_in_memory_is_measured_as_it_grows(monkeypatch):
    from bench import growth_memory

    monkeypatch.setattr(growth_memory, "RULES", (1, 100))
    monkeypatch.setattr(growth_memory, "ADDRESSES", (1, 4096))
    made = [
        row
        for measure in (growth_memory.rules, growth_memory.addresses, growth_memory.workers)
        for row in measure(2, repeats=1)
    ]
    assert all(row.unit == "Mpps" and row.median > 0 for row in made)
    assert len({row.name for row in made}) == len(made) == 4 + 2 + 5
    assert [row.name for row in made if "simulated" in row.name] == [
        f"workers in memory, {count}: DPU, 1,000 rules, simulated by Amdahl's law from 1 and 2"
        for count in growth_memory.SIMULATED_WORKERS
    ]


@pytest.mark.root
@pytest.mark.package("iproute2")
@pytest.mark.usefixtures("daemons_as_users_run_them")
def test_packets_are_forwarded_between_one_pair_and_between_all():
    from bench import growth_ports

    made = {row.name: row for row in growth_ports.ports(20, 1, counts=(2, 6))}
    for count in (2, 6):
        for which in ("one pair talks", "all pairs talk"):
            assert made[f"ports, {count}: DPU, {which}"].median > 0
            assert 0 <= made[f"ports, {count}: DPU, {which}, lost"].median < 100


@pytest.mark.root
@pytest.mark.package("gcc", "libc6-dev", "iproute2", "dpdk-dev")
@pytest.mark.usefixtures("daemons_as_users_run_them")
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
