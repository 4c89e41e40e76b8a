"""What is said of a background ping: what was lost, and for how long."""

import io

import pytest

from tests.live.pings import Pings


class Sender:
    """A container whose ping prints what it is told."""

    def __init__(self, answers, sent):
        lines = [f"[{at:.3f}] 64 bytes from 10.7.0.2: icmp_seq={n} ttl=64 time=0.1 ms" for n, at in answers]
        self.stdout = io.StringIO("\n".join([*lines, f"{sent} packets transmitted, x received", ""]))

    def popen(self, *_words, **_options):
        return self

    def send_signal(self, _number):
        pass

    def wait(self, _timeout_s):
        pass


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(Pings.go_on, "__defaults__", (20, 0.1))


@pytest.mark.parametrize(
    ("answered", "sent", "lost"),
    [
        ([1, 2, 3], 3, []),
        ([1, 2, 3], 4, []),  # the last one was under way
        ([1, 2, 3], 5, [4]),
        ([1, 3, 4], 4, [2]),
        ([1, 4, 4, 3], 6, [2, 5]),
    ],
)
def test_every_number_but_the_last_has_an_answer(answered, sent, lost):
    ping = Pings(Sender([(number, number / 100) for number in answered], sent), "10.7.0.2")
    assert (ping.lost, ping.sent) == (lost, sent)


def test_the_longest_gap_is_between_two_answers():
    ping = Pings(Sender([(1, 0.0), (2, 0.01), (5, 0.31), (6, 0.32)], 6), "10.7.0.2")
    assert ping.gap_s == pytest.approx(0.3)


def test_nobody_answers(monkeypatch):
    monkeypatch.setattr("tests.live.pings.ANSWER_TIMEOUT_S", 0.1)
    with pytest.raises(AssertionError, match="nobody answers"):
        Pings(Sender([], 3), "10.7.0.2")
