"""bench/generator's loops: what happens to packets on their way is counted, in the three modes."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from bench.generator import histogram
from bench.generator.layout import BURST, TICK_SHIFT, WINDOW, Count
from bench.generator.loop import SCHEDULE_RATE
from bench.generator.patterns import Pattern, from_pattern
from bench.results import ROOT
from dpu_runtime.kernels.compile.jit import kernel
from tests.bench.generator_frames import Frames

pytestmark = pytest.mark.in_memory

NAMES = ("RECEIVED", "DUPLICATED", "REORDERED", "CORRUPTED", "FOREIGN", "STALE")


@pytest.fixture(params=[64, 300, "imix"])
def frames(request):
    """Sender and receiver of packets of these sizes."""
    return Frames(from_pattern(Pattern(size=request.param, flows=3)), stream=9)


def test_what_arrives_as_it_was_sent_is_received(frames):
    frames.receive(frames.send(200))
    assert frames.counted(*NAMES) == (200, 0, 0, 0, 0, 0)
    assert frames.counted("SENT", "NEXT") == (200, 200)


def test_a_dropped_packet_is_missing_and_nothing_else(frames):
    sent = frames.send(100)
    frames.receive(sent[:10] + sent[13:])
    assert frames.counted(*NAMES) == (97, 0, 0, 0, 0, 0)


def test_duplicated_packets_are_counted(frames):
    sent = frames.send(100)
    frames.receive(sent + [sent[5], sent[99], sent[5]])
    assert frames.counted(*NAMES) == (103, 3, 0, 0, 0, 0)


def test_packets_behind_later_ones_are_reordered(frames):
    sent = frames.send(100)
    frames.receive([sent[1], sent[0], *sent[3:90], sent[2], *sent[90:]])
    assert frames.counted(*NAMES) == (100, 0, 2, 0, 0, 0)


def test_any_flipped_bit_of_the_payload_is_noticed(frames):
    sent = frames.send(60)
    random = np.random.default_rng(1)
    broken = []
    for frame in sent:
        octets = bytearray(frame)
        octets[random.integers(42, len(octets))] ^= 1 << random.integers(8)
        broken.append(bytes(octets))
    frames.receive(broken)
    assert frames.counted("RECEIVED") == (0,)
    assert sum(frames.counted("CORRUPTED", "FOREIGN")) == 60
    assert frames.counted("CORRUPTED")[0] >= 50  # the others lost their magic


def test_a_frame_cut_short_or_lengthened_is_corrupted(frames):
    sent = frames.send(2)
    frames.receive([sent[0][:-1], sent[1] + b"\0"])
    assert frames.counted("RECEIVED") == (0,)
    assert sum(frames.counted("CORRUPTED", "FOREIGN")) == 2


def test_every_truncated_length_is_nothing_of_ours():
    frames = Frames(from_pattern(Pattern(size=84, src="fd00::1", dst="fd00::2", vlan=None)))
    [whole] = frames.send(1)
    frames.receive([whole[:size] for size in range(1, len(whole))])
    assert frames.counted("RECEIVED") == (0,)
    assert sum(frames.counted("CORRUPTED", "FOREIGN")) == len(whole) - 1


def test_packets_of_somebody_else_and_of_an_earlier_trial_are_foreign(frames):
    earlier = Frames(frames.pool, stream=8).send(5)
    frames.send(5)
    frames.receive([*earlier, b"\xff" * 60, bytes(60)])
    assert frames.counted(*NAMES) == (0, 0, 0, 0, 7, 0)


def test_a_number_that_was_not_sent_is_no_delivery(frames):
    ahead = Frames(frames.pool, stream=9).send(10)
    frames.send(5)
    frames.receive(ahead)
    assert frames.counted("RECEIVED", "CORRUPTED") == (5, 5)


def test_beyond_the_window_nobody_knows(frames):
    sent = frames.send(2)
    frames.receive(sent[:1])
    for first in (WINDOW - 70, WINDOW + 1, 3 * WINDOW):
        frames.arrays.counts[Count.SENT] = first
        frames.receive(frames.send(1))
    frames.receive(sent)
    assert frames.counted(*NAMES) == (6, 0, 0, 0, 0, 2)


def test_the_window_forgets_what_is_behind_it(frames):
    """Numbers that share their places in it with old ones are new."""
    frames.receive(frames.send(3))
    frames.arrays.counts[Count.SENT] = first = WINDOW - 100
    assert first % 64
    frames.receive(frames.send(200))
    assert frames.counted(*NAMES) == (203, 0, 0, 0, 0, 0)


def test_latencies_are_those_between_sending_and_receiving(frames):
    for ticks in (0, 7, 1000, 5000, 1 << 31):
        now = (1 << 36) - (3 << TICK_SHIFT)
        frames.receive(frames.send(1, now), now + (ticks << TICK_SHIFT))
    made = histogram.histogram(frames.arrays.latencies)
    assert made.total_count == 5
    assert [made.get_value_at_percentile(p) for p in (20, 40, 60)] == [0, 7, 1000]
    assert made.get_value_at_percentile(80) == pytest.approx(5000, rel=1e-3)
    assert made.get_max_value() == pytest.approx(1 << 31, rel=1e-3)


@kernel
def _record(latencies, values):
    for k in range(len(values)):
        histogram.record(latencies, values[k])


def test_the_array_is_laid_out_as_the_histogram_of_the_library():
    random = np.random.default_rng(2)
    values = (1 << random.integers(0, 33, 300)) - random.integers(0, 2, 300)
    values = np.clip(values, 0, histogram.TICKS_MAX).astype(np.uint64)
    latencies, theirs = np.zeros(histogram.BUCKETS, np.uint64), HdrHistogram(1, histogram.TICKS_MAX, 3)
    _record(latencies, values)
    for value in values.tolist():
        theirs.record_value(value)
    assert latencies.tolist() == list(theirs.counts)
    again = histogram.histogram(latencies)
    assert list(again.counts) == list(theirs.counts)


def test_packets_are_due_by_the_clock_and_a_late_sender_does_not_make_up(frames):
    assert frames.due(0) == BURST  # no rate: as many as go
    frames.arrays.schedule[SCHEDULE_RATE] = 0.01
    assert [frames.due(cycles) for cycles in (0, 99, 100, 1050)] == [0, 0, 1, 10]
    frames.send(10)
    assert frames.due(1050) == 0
    assert frames.due(1100) == 1
    assert frames.due(100_000) == BURST
    assert frames.counted("SLIPPED") == (100_000 - (BURST + 10) * 100,)
    assert frames.due(100_000) == BURST
    frames.send(BURST)
    assert frames.due(100_100) == 1


@pytest.mark.compiled
@pytest.mark.parametrize("mode", ["NUMBA_DISABLE_JIT", "NUMBA_BOUNDSCHECK"])
def test_the_same_holds_in_the_other_modes(mode):
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not other_modes", __file__]
    env = os.environ | {mode: "1"}
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
