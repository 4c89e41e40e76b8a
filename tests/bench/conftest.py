"""Fixtures for the benches that start a daemon."""

import pytest


@pytest.fixture
def daemons_as_users_run_them(monkeypatch):
    """Daemons compile and cache what users' do, not the callable helpers of tests/conftest.py."""
    monkeypatch.setenv("DPU_CALLABLE_HELPERS", "0")
