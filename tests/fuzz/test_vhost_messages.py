"""A short run of the fuzzer of the message channel, and proof that it sees what it is there to see."""

import os
import random

import pytest

from dpu_runtime.drivers.vhost_user import handlers, messages, ring_check, session
from dpu_runtime.drivers.vhost_user.messages import Request
from dpu_runtime.drivers.vhost_user.stream import MessageStream
from tests.fuzz import vhost_messages
from tests.fuzz.vhost_conversations import Pool, conversation
from tests.fuzz.vhost_messages import FoundError, fuzz


def test_ports_survive_damaged_conversations(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["vhost_messages", "--messages", "6000", "--seed", "1"])
    assert vhost_messages.main() == 0
    *_, rings, reasons, verdict = capsys.readouterr().out.splitlines()
    assert verdict.startswith("nothing found: 6,0"), verdict
    # it gets everywhere: rings of both formats run, and most refusals there are happen
    assert " 0" not in rings, rings
    assert int(reasons.split()[3]) > 50, reasons


def found(count=600_000):  # it ends with the first check that fails
    with pytest.raises(FoundError) as error:
        fuzz(count, 2)
    return str(error.value)


def test_a_leaked_descriptor_is_seen(monkeypatch):
    kept = []

    def forgetful(self):
        kept.extend(self._fds)
        self._fds = []

    monkeypatch.setattr(MessageStream, "close", forgetful)
    try:
        assert "descriptors are left" in found()
    finally:
        for fd in kept:
            os.close(fd)


def test_a_ring_outside_memory_is_seen(monkeypatch):
    monkeypatch.setattr(ring_check, "check_user_area", lambda *_: None)
    assert "is outside memory" in found()


def test_overlapping_regions_are_seen(monkeypatch):
    monkeypatch.setattr("dpu_runtime.drivers.vhost_user.memory_table._overlap", lambda *_: False)
    assert "regions overlap" in found()


def test_a_descriptor_of_the_wrong_kind_is_seen(monkeypatch):
    monkeypatch.setattr(handlers, "_take_eventfd", lambda c: c.take_tokens()[0])
    assert "is no eventfd" in found()


def test_an_exception_is_seen(monkeypatch):
    def decode(message):
        return 1 // (message.request != Request.SET_STATUS) and messages.decode(message)

    monkeypatch.setattr(session, "decode", decode)
    assert "ZeroDivisionError" in found()


def test_a_lost_connection_of_the_other_port_is_seen(monkeypatch):
    check = vhost_messages.Fuzzer.check

    def meddling(self, frontend, fds):
        self.steady.plane.last["rings"].pop()
        check(self, frontend, fds)

    monkeypatch.setattr(vhost_messages.Fuzzer, "check", meddling)
    assert "the other port's connection is not what it was" in found()


def test_conversations_are_a_function_of_the_seed():
    pool = Pool()
    try:
        first, again, other = (conversation(random.Random(seed), pool) for seed in (5, 5, 6))
    finally:
        pool.close()
    assert first == again != other
