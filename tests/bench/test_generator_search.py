"""bench/generator/search: the rate of devices whose limit is known, quiet ones and noisy ones."""

import math
import random

import pytest

from bench.generator.search import NDR, PDR, TRIALS_MAX, Goal, search

pytestmark = pytest.mark.in_memory

LOW, HIGH, SECONDS = 1e3, 2e6, 10


class Device:
    """Forwards up to `limit` packets a second and loses the rest; now and then it loses some at any rate."""

    def __init__(self, limit, noise=0.0, base=0.0, seed=1):
        self.limit, self.noise, self.base = limit, noise, base
        self.random = random.Random(seed)
        self.rates = []

    def __call__(self, rate):
        self.rates.append(rate)
        sent = round(rate * SECONDS)
        lost = max(0, sent - round(self.limit * SECONDS)) + math.ceil(self.base * sent)
        if self.random.random() < self.noise:
            lost = max(lost, sent // 10)
        return sent, min(lost, sent)


@pytest.mark.parametrize("limit", [1.2e3, 5e4, 543_210, 1.9e6])
@pytest.mark.parametrize("goal", [NDR, PDR])
@pytest.mark.parametrize("guess", [None, 1e3, 6e5, 2e6])
def test_the_limit_is_within_the_width(limit, goal, guess):
    device = Device(limit)
    found = search(device, goal, LOW, HIGH, guess)
    real = limit / (1 - goal.loss_ratio)
    assert real / (1 + goal.width) * 0.999 <= found.rate <= real * 1.001 < found.above * 1.002
    assert found.above <= found.rate * (1 + goal.width)
    assert found.trials == len(device.rates) <= TRIALS_MAX


def test_a_good_guess_saves_trials():
    trials = [search(Device(5e5), NDR, LOW, HIGH, guess).trials for guess in (4.9e5, 2e3)]
    assert trials[0] <= 7 < trials[1]


def test_a_device_that_does_the_highest_rate_may_do_more():
    found = search(Device(3e6), NDR, LOW, HIGH)
    assert (found.rate, found.above) == (HIGH, None)
    assert search(Device(3e6), NDR, LOW, HIGH, guess=1e6).above is None


def test_a_device_that_always_loses_has_no_ndr_but_a_pdr():
    assert search(Device(1e6, base=0.003), NDR, LOW, HIGH).rate == 0
    assert search(Device(1e6, base=0.003), PDR, LOW, HIGH).rate == pytest.approx(1e6, rel=0.06)


def test_a_device_that_is_dead_has_neither():
    for goal in (NDR, PDR):
        assert search(Device(0), goal, LOW, HIGH).rate == 0
    assert search(lambda _: (0, 0), NDR, LOW, HIGH).rate == 0


def test_a_loss_now_and_then_does_not_mislead():
    """One trial in ten loses a tenth of the packets, at any rate."""
    found = [search(Device(5e5, noise=0.1, seed=seed), NDR, LOW, HIGH, 1e5).rate for seed in range(50)]
    assert sum(0.9 * 5e5 < rate <= 5e5 for rate in found) >= 48


def test_a_search_comes_to_an_end():
    device = Device(5e5, noise=0.5)
    found = search(device, Goal(0.0, width=1e-6), LOW, HIGH)
    assert found.trials <= TRIALS_MAX + 2


@pytest.mark.parametrize(("low", "high"), [(0, 1), (2, 1), (1, 1)])
def test_rates_in_the_wrong_order_are_refused(low, high):
    with pytest.raises(ValueError, match=f"rates from {low} to {high}"):
        search(Device(1), NDR, low, high)
