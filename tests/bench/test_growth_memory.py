"""bench/growth_memory.py, small: all is measured, and what is simulated follows the law."""

import pytest

pytestmark = [pytest.mark.in_memory, pytest.mark.compiled]


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
