"""A data-plane process as its parent starts it: ended, taken, or let go."""

import os

import pytest

from dpu_runtime.plane import child as module
from dpu_runtime.plane.child import Child


def test_it_is_ended_once():
    child = Child()
    child.end()
    assert child.process.returncode == -9
    child.end()


def test_one_that_was_taken_goes_on():
    child = Child()
    child.taken = True
    child.end()
    assert child.process.poll() is None
    child.sock.close()  # it ends by itself: nobody will ever tell it anything
    assert child.process.wait(30) == 0


def test_one_that_cannot_be_started_leaves_no_descriptor(monkeypatch):
    monkeypatch.setattr(module.sys, "executable", "/nowhere/python")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        Child()
    assert len(os.listdir("/proc/self/fd")) == before
