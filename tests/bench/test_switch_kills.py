"""bench/switch_kills.py: a few kills; its check."""

import pytest

from bench import switch_kills
from tests.bench.test_host_pair import marked


class Answering:
    """A daemon that answers as it is told."""

    def __init__(self, on, copies, delivered):
        self.on, self.copies, self.delivered = on, copies, delivered
        self.looks = 0

    def call(self, method):
        if method == "mirror.show":
            return ["copies"] * self.on
        if method == "status":
            return {"data_plane": {"standby_pid": 7}}
        self.looks += 1
        stage = {"packets": self.copies * self.looks}
        port = {"tx_packets": self.delivered * self.looks}
        return {"kernels": {"mirror_in": stage}, "ports": {"host1": port}}


@pytest.mark.parametrize(
    ("now", "before", "outcome", "copies", "text"),
    [
        (False, False, switch_kills.ANSWERED, 0, "answered, and `mirror` is False"),
        (True, False, switch_kills.REFUSED, 5, "refused, and `mirror` is True"),
        (True, False, switch_kills.CUT_OFF, 0, "`mirror` is True, and 0 copies"),
        (False, False, switch_kills.CUT_OFF, 5, "`mirror` is False, and 10 copies"),
    ],
)
def test_what_goes_wrong_is_caught(now, before, outcome, copies, text):
    with pytest.raises(AssertionError, match=text):
        switch_kills.look(Answering(now, copies, 1 << 20), before, not before, outcome)


def test_what_is_right_is_so(monkeypatch):
    assert switch_kills.look(Answering(True, 5, 1 << 20), False, True, switch_kills.ANSWERED)
    assert not switch_kills.look(Answering(False, 0, 1 << 20), False, True, switch_kills.REFUSED)
    monkeypatch.setattr(switch_kills, "WAIT_SECONDS_MAX", 0.1)
    with pytest.raises(AssertionError, match="no packet arrives"):
        switch_kills.look(Answering(False, 0, 0), False, True, switch_kills.REFUSED)


@marked
@pytest.mark.slow
def test_kills_at_random_moments_lose_what_was_in_hand():
    made = {one.name: one for one in switch_kills.run(8, rate=20_000)}
    outcomes = [made[f"commands {outcome}"].median for outcome in ("answered", "refused", "cut off")]
    assert sum(outcomes) == 8
    sent, lost = made["packets sent"].median, made["packets lost in 8 kills"].median
    assert lost <= made["packets dropped in 8 kills, by the counters"].median < sent / 100
