"""Fixtures of tests of the supervisor."""

import sys
from types import SimpleNamespace

import pytest

from dpu_runtime.device import supervisor as module
from dpu_runtime.plane import child
from tests.dpu_runtime.device.supervised import FAKE


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Say how the next processes are: `plan("well", "die")`."""
    command = tmp_path / "python"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
    command.chmod(0o755)
    monkeypatch.setattr(child, "sys", SimpleNamespace(executable=str(command)))
    monkeypatch.setattr(module, "RETRY_S", 0.02)
    monkeypatch.setenv("FAKE_PLAN", str(tmp_path / "plan"))
    monkeypatch.setenv("PYTHONPATH", str(FAKE.parents[3]))

    def write(*words):
        (tmp_path / "plan").write_text(" ".join(words))

    write()
    return write
