"""Rate limits: the same packets pass as through a token bucket in exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpu_runtime.kernels.burst import EGRESS
from dpu_runtime.kernels.compile.jit import PYTHON_MODE
from dpu_runtime.kernels.layout import (
    BATCH_SIZE,
    FRAME_BYTES_MAX,
    META_DTYPE,
    VERDICT_DROP,
    VIRTIO_NET_HDR_GSO_TCPV4,
)
from dpu_runtime.kernels.meter.bucket import charge_meter, limit
from dpu_runtime.kernels.meter.table import (
    BURST_MAX,
    BURST_MIN,
    METER_LAYOUT,
    METER_WORDS,
    RATE_MAX,
    RATE_MIN,
    RX,
    TIME_SHIFT,
    TX,
    WORD_PAID,
    clear_meters,
    write_meter,
)
from tests.functions.stages import FIRST_DROP, burst_of, run, state_of

PORT = 2
NS = 1_000_000_000
START_NS = 12_345 * NS  # of a clock that runs since boot
EXAMPLES = 15 if PYTHON_MODE else 150
MBIT = 1_000_000


def row(rate, burst):
    words = np.zeros(METER_WORDS, np.uint64)
    write_meter(words, rate, burst)
    return words


def batch(lengths, **fields):
    """Meta of packets with these frame lengths."""
    meta = np.zeros(len(lengths), META_DTYPE)
    meta["frame_len"] = lengths
    for name, value in fields.items():
        meta[name] = value
    return meta


def limited(burst, words, way):
    """Run the kernel with `words` as the row of the port; returns (rows left, drop counters)."""
    meters = np.zeros((PORT + 1, 2, METER_WORDS), np.uint64)
    meters[PORT, way] = words
    state = state_of({"meters": meters}, 2)
    left = run(limit, burst, state, PORT)
    words[:] = meters[PORT, way]
    meters[PORT, way] = 0
    assert not meters.any()
    return left, state.drops.tolist()


def received(words, lengths, now_ns, **fields):
    """Which packets of a burst pass, at ingress."""
    meta = batch(lengths, **fields)
    before = meta.copy()
    burst = burst_of(meta, now_ns=now_ns)
    left, drops = limited(burst, words, RX)
    meta = burst.meta[: len(meta)]
    dropped = meta["verdict"] == VERDICT_DROP
    assert left == np.flatnonzero(~dropped).tolist()
    assert (meta["drop_reason"] == np.where(dropped, FIRST_DROP + RX, 0)).all()
    assert drops == [len(meta) - len(left), 0]
    for name in set(META_DTYPE.names) - {"verdict", "drop_reason"}:
        assert (meta[name] == before[name]).all(), name
    return (~dropped).tolist()


def sent(words, lengths, now_ns, **fields):
    """The same at egress, over packets in another order."""
    order = np.arange(len(lengths))[::-1]
    meta = batch(lengths[::-1], **fields)
    before = meta.copy()
    burst = burst_of(meta, EGRESS, packets=order, now_ns=now_ns)
    left, drops = limited(burst, words, TX)
    assert (burst.meta[: len(meta)] == before).all()
    assert drops == [0, len(lengths) - len(left)]
    places = [len(lengths) - 1 - i for i in left]
    assert places == sorted(places)
    return [k in places for k in range(len(lengths))]


class Bucket:
    """The model: octets in exact fractions."""

    def __init__(self, rate, burst):
        self.rate, self.burst, self.tokens, self.at = Fraction(rate, 8 * NS), burst, Fraction(burst), START_NS

    def passes(self, octets, now_ns):
        self.tokens = min(Fraction(self.burst), self.tokens + (now_ns - self.at) * self.rate)
        self.at = now_ns
        passes = self.tokens > 0
        self.tokens -= octets if passes else 0
        return passes


@pytest.mark.parametrize("way", [received, sent])
@settings(max_examples=EXAMPLES, deadline=None)
@given(
    rate=st.one_of(st.sampled_from([20 * MBIT, 200 * MBIT]), st.integers(RATE_MIN, RATE_MAX)),
    burst=st.one_of(st.integers(BURST_MIN, 1 << 20), st.integers(BURST_MIN, BURST_MAX)),
    bursts=st.lists(
        st.tuples(
            st.one_of(st.integers(0, 100_000), st.integers(0, 10 * NS)),
            st.lists(st.integers(14, FRAME_BYTES_MAX), min_size=1, max_size=BATCH_SIZE),
        ),
        max_size=40,
    ),
)
def test_the_model_agrees(way, rate, burst, bursts):
    """Where tokens are within a rounding of none, either answer is right."""
    words, model, now = row(rate, burst), Bucket(rate, burst), START_NS
    slack = 2 + Fraction(rate, 8 * NS)  # octets: a rounding of time for each burst, and of the cost
    for number, (wait_ns, lengths) in enumerate(bursts):
        now += wait_ns
        for passed, octets in zip(way(words, lengths, now), lengths, strict=True):
            expected = model.passes(octets, now)
            if passed != expected:
                before = model.tokens + (octets if expected else 0)
                assert abs(before) <= slack * (number + 1) + burst * Fraction(1, 1000), (number, before)
                model.tokens = before - (octets if passed else 0)


@pytest.mark.parametrize("way", [received, sent])
@pytest.mark.parametrize("rate", [8_000, MBIT, 20 * MBIT, 200 * MBIT, 10_000 * MBIT, RATE_MAX])
@pytest.mark.parametrize("frame_len", [60, 1514, 65_000])
def test_the_rate_is_exact_over_time(way, rate, frame_len):
    """Offered twice the rate in full bursts: what passes is the rate, the burst, at most one packet more."""
    burst = max(BURST_MIN, frame_len * BATCH_SIZE)
    words = row(rate, burst)
    step_ns = frame_len * BATCH_SIZE * 8 * NS // (2 * rate) + 1
    passed = 0
    rounds = 50 if PYTHON_MODE else 1000
    for k in range(rounds):
        passed += sum(way(words, [frame_len] * BATCH_SIZE, START_NS + k * step_ns))
    allowed = rate * (rounds - 1) * step_ns / (8 * NS) + burst
    assert passed * frame_len <= 1.0001 * allowed + frame_len  # times are in 1/16 ns
    assert passed * frame_len >= 0.999 * (allowed - BATCH_SIZE * frame_len)


@pytest.mark.parametrize("way", [received, sent])
def test_a_full_bucket_passes_its_burst_and_one_packet(way):
    for burst in (BURST_MIN, 1 << 20):
        words = row(20 * MBIT, burst)
        full = -(-burst // 1514)
        lengths = [1514] * (full + 10)
        assert way(words, lengths, START_NS) == [True] * full + [False] * 10
        assert not any(way(words, lengths, START_NS))
        # a second later at most the burst is there again, and it goes as before
        assert sum(way(words, lengths * 4, START_NS + 100 * NS)) == full


@pytest.mark.parametrize("way", [received, sent])
def test_large_packets_pass_a_small_bucket_at_the_rate(way):
    """A packet that is larger than the bucket is paid for before the next one passes."""
    words = row(20 * MBIT, BURST_MIN)
    size = {"gso_type": VIRTIO_NET_HDR_GSO_TCPV4, "gso_size": 48, "l2_offset": 128, "l5_offset": 128 + 54}
    octets = 54 + 60_000 + (1250 - 1) * 54
    assert way(words, [60_054, 60_054], START_NS, **size) == [True, False]
    paid_ns = (octets - BURST_MIN) * 8 * NS // (20 * MBIT)
    assert way(words, [60_054], START_NS + paid_ns - 100, **size) == [False]
    assert way(words, [60_054], START_NS + paid_ns + 100, **size) == [True]


@pytest.mark.parametrize(
    ("fields", "octets"),
    [
        ({"gso_type": 0, "gso_size": 100}, 1514),
        ({"gso_type": 1, "gso_size": 1460}, 1514),
        ({"gso_type": 1, "gso_size": 1459}, 1514 + 54),
        ({"gso_type": 1, "gso_size": 1}, 1514 + 1459 * 54),
        ({"gso_type": 1, "gso_size": 0}, 1514),
        ({"gso_type": 5, "gso_size": 730, "l5_offset": 128 + 42}, 1514 + 2 * 42),
        ({"gso_type": 1, "gso_size": 10, "l5_offset": 128 + 1514}, 1514),
        ({"gso_type": 1, "gso_size": 10, "l5_offset": 0}, 1514),  # no layer 4: dropped before, in truth
    ],
)
def test_what_a_packet_counts(fields, octets):
    words = row(8_000, BURST_MIN)
    words[WORD_PAID] = START_NS << TIME_SHIFT
    assert received(words, [1514], START_NS + 1, **{"l2_offset": 128, "l5_offset": 182} | fields) == [True]
    assert int(words[WORD_PAID]) == START_NS + octets * 1_000_000 << TIME_SHIFT


def test_only_packets_at_hand_count():
    words = row(20 * MBIT, BURST_MIN)
    burst = burst_of(batch([60_000] * 3), packets=[1], now_ns=START_NS, received=1)
    assert limited(burst, words, RX) == ([1], [0, 0])
    once = int(words[WORD_PAID])
    assert received(row(20 * MBIT, BURST_MIN), [60_000], START_NS) == [True]
    assert once == START_NS - BURST_MIN * 8 * NS // (20 * MBIT) + 60_000 * 8 * NS // (20 * MBIT) << TIME_SHIFT
    assert received(words, [], START_NS) == sent(words, [], START_NS) == []
    assert int(words[WORD_PAID]) == once


def test_a_change_of_rate_keeps_what_was_used():
    words = row(20 * MBIT, BURST_MIN)
    assert received(words, [65_000] * 3, START_NS) == [True, True, False]
    write_meter(words, 200 * MBIT, BURST_MIN)
    assert received(words, [65_000], START_NS) == [False]
    debt_ns = (2 * 65_000 - BURST_MIN) * 8 * NS // (20 * MBIT)
    assert received(words, [1514] * 64, START_NS + debt_ns + 1_000_000).count(True) == 17  # 25,000 octets


def test_soon_after_boot_the_bucket_is_full():
    assert received(row(8_000, BURST_MIN), [65_000] * 3, 1) == [True, False, False]
    words = row(8_000, BURST_MIN)
    assert received(words, [65_000] * 3, 0) == [False] * 3  # a clock at 0 has nothing to give


def test_rows_of_a_port():
    dtype, shape = METER_LAYOUT["meters"]
    rows = np.zeros(shape, dtype)[3]
    assert rows[RX].nbytes == rows[TX].nbytes == 64
    rows[:, WORD_PAID] = 7
    write_meter(rows[TX], RATE_MAX, BURST_MAX)
    clear_meters(rows)
    assert not rows[:, WORD_PAID].any()
    assert not rows[RX].any()
    assert rows[TX].any()


@pytest.mark.compiled
def test_workers_lose_no_charge():
    """Four threads charge one row at once: all of it is there in the end."""
    import threading

    from dpu_runtime.kernels.compile.jit import kernel

    @kernel
    def many(words, now, rounds):
        for _ in range(rounds):
            charge_meter(words, now, np.uint64(1000))

    words = row(8_000, BURST_MIN)
    now = np.uint64(START_NS << TIME_SHIFT)
    many(words, now, 1)
    words[WORD_PAID] = now
    threads = [threading.Thread(target=many, args=(words, now, 20_000)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert int(words[WORD_PAID]) - int(now) == 4 * 20_000 * 1000 * 1_000_000 << TIME_SHIFT
