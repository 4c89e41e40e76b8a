"""Fixtures for the benches that start a daemon."""

import pytest

from bench import results
from bench.peers import cpu_time


@pytest.fixture(autouse=True)
def small_runs(monkeypatch):
    """Nothing is measured again here: no round is dropped, and a disturbed sample is one."""
    monkeypatch.setattr(results, "ROUNDS_DROPPED", 0)
    monkeypatch.setattr(results, "_apart_ns", [])  # of another test
    monkeypatch.setattr(cpu_time, "TRIES_MAX", 1)
