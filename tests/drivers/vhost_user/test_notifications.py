"""Who tells whom when: a call exactly when the driver wants one, kicks asked for and no longer asked for.

The oracle is the specification's own words: virtio 1.2 2.7.7.2, 2.7.10.2 (split), 2.8.10, 2.8.14 (packed).
"""

import os
import random
import select
import threading
import time

import pytest

from dpu_runtime.drivers.vhost_user import features as f
from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.layout import BATCH_SIZE
from dpu_runtime.kernels.octets.atomic import fence
from tests.drivers.vhost_user.ring_bursts import Bench, lay
from tests.drivers.vhost_user.test_queue import HEADER, KINDS, frame_of
from tests.drivers.vhost_user.test_transmit import buffers
from tests.kernels.batches import Batch

pytestmark = pytest.mark.three_modes
EVENT_IDX = 1 << f.VIRTIO_F_EVENT_IDX
CHAINS = 3000
SLEEP_MS = 3000
FEATURES = (0, EVENT_IDX)


class Talk:
    """A transmit ring with a call descriptor, and running positions as a packed ring's model counts them."""

    def __init__(self, kind, size=8, features=0, base=None):
        self.bench = Bench()
        base = {"split": 0, "packed": 0x8000}[kind] if base is None else base
        self.driver = self.bench.ring(kind, 1, size, features, base=base)
        self.row = self.bench.rings[0, 1]
        self.call_fd = self.row["call_fd"] = os.eventfd(0, os.EFD_NONBLOCK)
        self.chain = lay(self.bench.memories[0], HEADER + frame_of(60), [72])
        self.at = base if kind == "split" else base & 0x7FFF  # where the device stands

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        os.close(self.call_fd)

    def called(self):
        try:
            return os.eventfd_read(self.call_fd)
        except BlockingIOError:
            return 0

    def burst(self, count):
        """Offer, take and give back; returns (position before, behind)."""
        for _ in range(count):
            self.driver.offer(self.chain)
        assert self.bench.receive() == (count, 0)
        self.bench.done()
        assert len(self.driver.collect()) == count
        before, self.at = self.at, self.at + count
        return before, self.at


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("features", FEATURES)
def test_flags_say_whether_calls_are_wanted(kind, features):
    with Talk(kind, 8, features) as talk:
        for turn, wanted in enumerate((True, False, False, True, True)):
            if kind == "split" and features:
                continue  # flags are not looked at
            talk.driver.want_calls(wanted)
            talk.burst(1 + turn % 3)
            assert talk.called() == wanted
        assert talk.row["calls"] == (0 if kind == "split" and features else 3)


def event_at(driver, position):
    """How a driver names a running position of its ring."""
    if driver.packed:
        return position % driver.size | (1 - position // driver.size % 2) << 15
    return position & 0xFFFF


@pytest.mark.parametrize(
    "kind, size, base",
    [
        ("split", 8, 0),
        ("split", 8, 0xFFF0),
        ("split", 256, 0xFFF0),
        ("packed", 7, 0x8000),
        ("packed", 8, 0x8005),
        ("packed", 100, 0x8000),
    ],
)
def test_event_idx_is_exact(kind, size, base):
    """Any event around any burst, over wrap-arounds: called if and only if it was passed."""
    rng = random.Random(size)
    with Talk(kind, size, EVENT_IDX, base) as talk:
        talk.driver.want_calls(True, event_at(talk.driver, talk.at))
        talk.burst(1)
        assert talk.called(), "the first one is always told"
        for _ in range(400):
            # a driver names an event no further than a lap ahead of, or behind, what it has seen
            event = event_at(talk.driver, max(0, talk.at + rng.randint(-size + 1, size - 1)))
            talk.driver.want_calls(True, event)
            old, new = talk.burst(rng.randint(1, min(size, 12)))
            assert talk.called() == talk.driver.wants_call(old, new), (event, old, new)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_call_descriptor_the_driver_polls(kind):
    with Talk(kind) as talk:
        talk.row["call_fd"] = -1
        talk.burst(3)
        assert talk.row["calls"] == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("features", FEATURES)
def test_kicks_are_asked_for_and_no_longer(kind, features):
    with Talk(kind, 8, features) as talk:
        for _ in range(30):
            assert talk.bench.ask_kicks() is False
            assert talk.row["quiet"] == 0
            assert talk.driver.would_kick(talk.at, talk.at + 1), "the next chain is news"
            talk.burst(1)
            assert talk.row["quiet"] == 1
            assert not talk.driver.would_kick(talk.at, talk.at + 1), "while it is polled, it is not"
            talk.burst(2)
            assert not talk.driver.would_kick(talk.at, talk.at + 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("features", FEATURES)
def test_a_chain_that_came_before_the_question_is_not_slept_over(kind, features):
    """The question is written before the ring is looked at: a driver that did not see it is seen."""
    with Talk(kind, 8, features) as talk:
        talk.burst(3)
        talk.driver.offer(talk.chain)
        assert talk.bench.ask_kicks() is True
        assert talk.bench.receive() == (1, 0)
        talk.bench.done()
        assert talk.bench.ask_kicks() is False


@kernel
def fence_now():
    fence()


class Sleeper:
    """A worker in a thread of its own, that sleeps whenever it may; counts the sleeps that nobody ended."""

    def __init__(self, bench, kick_fd):
        self.bench, self.kick_fd = bench, kick_fd
        self.sleeps = self.overslept = 0
        self.stop = False
        self.thread = threading.Thread(target=self._work)
        self.thread.start()

    def _work(self):
        poll = select.poll()
        poll.register(self.kick_fd, select.POLLIN)
        while not self.stop:
            count, _ = self.bench.receive()
            self.bench.done()
            if count == 0 and not self.bench.ask_kicks():
                self.sleeps += 1
                if poll.poll(SLEEP_MS):
                    os.eventfd_read(self.kick_fd)
                else:
                    self.overslept += 1

    def end(self):
        self.stop = True
        os.eventfd_write(self.kick_fd, 1)
        self.thread.join()


def state(talk, sleeper):
    """What a failure is understood by."""
    return talk.row, talk.driver.chains, sleeper.sleeps, sleeper.overslept, sleeper.thread.is_alive()


@pytest.mark.compiled
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("features", FEATURES)
def test_no_wake_up_is_lost(kind, features):
    """A driver that kicks only when asked, beside a worker that asks and sleeps."""
    fence_now()
    with Talk(kind, 8, features) as talk:
        talk.burst(1)
        talk.bench.ask_kicks()  # all is compiled
        driver, kicks, used, at = talk.driver, 0, 0, talk.at
        kick_fd = os.eventfd(0)
        sleeper = Sleeper(talk.bench, kick_fd)
        try:
            for turn in range(CHAINS):
                limit = time.monotonic() + 10 * SLEEP_MS / 1000
                # sometimes all have to come back first, so that the worker falls asleep
                while not driver.free or (turn % 5 == 0 and driver.chains):
                    used += len(driver.collect())
                    assert time.monotonic() < limit, ("chains do not come back", *state(talk, sleeper))
                driver.offer(talk.chain)
                fence_now()
                if driver.would_kick(at, at + 1):
                    os.eventfd_write(kick_fd, 1)
                    kicks += 1
                at += 1
            while used < CHAINS and time.monotonic() < limit + 1:
                used += len(driver.collect())
        finally:
            sleeper.end()
            os.close(kick_fd)
        assert used == CHAINS
        assert sleeper.overslept == 0
        assert min(sleeper.sleeps, kicks) > CHAINS // 20, "it slept, and was woken"


@pytest.mark.parametrize("state", ["configured", "started"])
def test_a_ring_that_does_not_run_is_not_asked(state):
    with Talk("split") as talk:
        talk.row[state] = 0
        talk.driver.offer(talk.chain)
        assert talk.bench.ask_kicks() is False


@pytest.mark.parametrize("kind", KINDS)
def test_a_receive_ring_wants_no_kicks(kind):
    """Buffers for packets to come are no news."""
    bench = Bench()
    driver = bench.ring(kind, 0)
    bench.rings[0, 0]["started"] = 0
    bench.kicked(0)
    assert bench.rings[0, 0]["started"] == 1
    assert bench.rings[0, 0]["kicks"] == 1
    assert not driver.would_kick(0, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_one_call_a_transmitted_burst(kind):
    bench = Bench()
    driver = bench.ring(kind, 0, 128)
    buffers(bench, driver, [100] * BATCH_SIZE)
    call_fd = bench.rings[0, 0]["call_fd"] = os.eventfd(0, os.EFD_NONBLOCK)
    bench.transmit(Batch([frame_of(60)] * BATCH_SIZE))
    assert os.eventfd_read(call_fd) == 1
    bench.transmit(Batch([frame_of(60)]))
    with pytest.raises(BlockingIOError):
        os.eventfd_read(call_fd)
    os.close(call_fd)
