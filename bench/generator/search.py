"""The highest rate at which a device loses no more than a part of what it is sent: NDR and PDR.

Source: RFC 2544 26.1 (throughput); FD.io CSIT and draft-ietf-bmwg-mlrsearch, whose Goal Loss Ratio, Goal
        Width and Goal Exceed Ratio are `loss_ratio`, `width` and one half of `tries` here.
In:     `trial(rate) -> (sent, lost)`.   Not: how long a trial takes, which is the trial's.

A machine with other work loses a packet at any rate now and then, so one trial proves nothing: at each rate
the majority of `tries` trials counts, and the lowest rate that did not meet the goal is looked at twice.
"""

import math
from dataclasses import dataclass

TRIALS_MAX = 60  # of a search


@dataclass(frozen=True)
class Goal:
    """What is searched for.

    loss_ratio  of the packets sent, that may be lost
    width       of the interval that the rate is known to be in then, relative to its lower end
    tries       trials at one rate, of which the majority counts; odd
    """

    loss_ratio: float
    width: float = 0.05
    tries: int = 3


NDR = Goal(loss_ratio=0.0)  # no drop rate
PDR = Goal(loss_ratio=0.005)  # partial drop rate, as CSIT has it


@dataclass(frozen=True)
class Found:
    """Where a search ended.

    rate    highest at which the goal was met, 0: not at the lowest either
    above   lowest at which it was not met, None: it was at the highest rate, so the device may do more
    trials  how many it took
    """

    rate: float
    above: float | None
    trials: int


class _Trials:
    """Trials of one search, and the majority at a rate."""

    def __init__(self, trial, goal):
        self._trial = trial
        self._goal = goal
        self.count = 0

    @property
    def is_over(self):
        return self.count >= TRIALS_MAX

    def meets(self, rate):
        """Whether the goal is met at `rate`, and the mean ratio of what was not lost."""
        needed = self._goal.tries // 2 + 1
        met, tried, forwarded = 0, 0, 0.0
        while met < needed and tried - met < needed:
            sent, lost = self._trial(rate)
            self.count += 1
            tried += 1
            # nothing sent proves nothing
            met += sent > 0 and lost <= self._goal.loss_ratio * sent
            forwarded += (sent - lost) / sent if sent else 0.0
        return met == needed, forwarded / tried


def search(trial, goal, low, high, guess=None):
    """Search for the highest rate between `low` and `high` that meets `goal`; returns Found.

    trial  rate -> (packets sent, packets lost)
    guess  rate to begin with; default: what gets through at `high`
    """
    if not 0 < low < high:
        raise ValueError(f"rates from {low} to {high}: above 0, the lowest first")
    trials = _Trials(trial, goal)
    met, above = 0.0, None
    if guess is None:
        meets, forwarded = trials.meets(high)
        if meets:
            return Found(high, None, trials.count)
        above, guess = high, high * forwarded
    met, above = _bracket(trials, goal, low, high, guess, above)
    while met and above is not None and not trials.is_over:
        if above > met * (1 + goal.width):
            rate = math.sqrt(met * above)
            met, above = (rate, above) if trials.meets(rate)[0] else (met, rate)
        elif not trials.meets(above)[0]:
            break
        else:  # the first look at it was misled, and so is what is known of higher rates
            met, above = _bracket(trials, goal, low, high, above, None)
    return Found(met, above, trials.count)


def _bracket(trials, goal, low, high, guess, above):
    """Go outward from `guess` in steps that double: (rate that meets the goal, one that does not)."""
    met, step, rate = 0.0, goal.width, min(max(guess, low), high)
    while not (met and above) and not trials.is_over:
        if trials.meets(rate)[0]:
            met = rate
            if met >= high:
                return met, None
            rate = min(rate * (1 + step), high) if above is None else math.sqrt(met * above)
        else:
            above = rate
            if above <= low:
                return 0.0, above
            rate = max(rate / (1 + step), low)
        step *= 2
    return met, above
