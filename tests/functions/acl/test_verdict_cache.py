from dataclasses import replace

import numpy as np

from dpu_runtime.kernels.acl.filter import CACHE_RULES_MIN, judge
from dpu_runtime.kernels.acl.layout import ACTION_ALLOW, ACTION_DROP
from dpu_runtime.kernels.acl.table import AclRule
from dpu_runtime.kernels.acl.verdict_cache import (
    ADMIT_ALL_MAX,
    ADMIT_ONE_IN,
    CACHE_SETS,
    CACHE_WAYS,
    GENERATION_BITS,
    PASS_BATCHES,
    STATE_GENERATION,
    STATE_HITS,
    STATE_MISSES,
    STATE_PASSING,
)
from dpu_runtime.kernels.compile.jit import PYTHON_MODE
from dpu_runtime.kernels.layout import (
    BATCH_SIZE,
    META_DTYPE,
)
from tests.functions.acl.rules import (
    MAPPED,
    TCP,
    fill_packet,
)
from tests.functions.acl.stage import Stage, drop, packet
from tests.functions.stages import burst_of, run


def test_cache_answers_packets_that_differ_in_unused_bits_only():
    stage = Stage([drop(dport=(p, p)) for p in range(1, 21)])
    meta = np.concatenate([packet(src_port=p, tcp_flags=p & 63, src_lo=MAPPED | p) for p in range(40)])
    stage.ingress(meta)
    state = stage.cache.state
    assert (int(state[STATE_HITS]), int(state[STATE_MISSES])) == (0, 1)  # in a row, so one key
    assert np.count_nonzero(stage.cache.sets) == 2  # but one entry: its tag and its verdict
    stage.ingress(packet(src_port=9999))
    assert (int(state[STATE_HITS]), int(state[STATE_MISSES])) == (1, 1)


def _flows(first, count):
    """Packets of flows first, first + 1, ... under rules that look at the source port."""
    return np.concatenate([packet(src_port=p) for p in range(first, first + count)])


def test_new_flows_that_fit_are_all_remembered_after_a_few_batches():
    stage = Stage([drop(sport=(p, p)) for p in range(10)])
    state, known = stage.cache.state, []
    for _ in range(ADMIT_ONE_IN + 1):
        before = int(state[STATE_HITS])
        stage.ingress(_flows(1000, BATCH_SIZE))
        known.append(int(state[STATE_HITS]) - before)
    assert known == sorted(known) and known[0] == 0 and known[-1] == BATCH_SIZE


def test_of_flows_that_come_once_few_are_remembered():
    stage = Stage([drop(sport=(p, p)) for p in range(10)])
    batches = 4 if PYTHON_MODE else 100
    for batch in range(batches):
        stage.ingress(_flows(1000 + batch * BATCH_SIZE, BATCH_SIZE))
    assert stage.cache.state[STATE_MISSES] == batches * BATCH_SIZE
    assert np.count_nonzero(stage.cache.sets) == 2 * batches * BATCH_SIZE // ADMIT_ONE_IN  # tag and verdict


def test_batches_go_past_after_one_of_new_flows():
    rules = [AclRule(0, p & 1, 2 + p, sport=(1000 + p, 1000 + p)) for p in range(16)]
    stage = Stage(rules)
    state, known = stage.cache.state, _flows(1000, ADMIT_ALL_MAX)
    stage.ingress(known.copy())
    stage.ingress(_flows(2000, BATCH_SIZE))
    assert state[STATE_HITS] == 0
    for _ in range(PASS_BATCHES):
        stage.ingress(known.copy())  # right all the same
        assert state[STATE_HITS] == 0
    stage.ingress(known.copy())
    assert state[STATE_HITS] == ADMIT_ALL_MAX


def test_a_batch_of_which_half_is_known_lets_none_go_past():
    stage = Stage([drop(sport=(p, p)) for p in range(10)])
    half = BATCH_SIZE // 2
    for first in range(0, half, ADMIT_ALL_MAX):
        stage.ingress(_flows(1000 + first, ADMIT_ALL_MAX))
    for known, passing in ((half, 0), (half - 1, PASS_BATCHES)):
        before = int(stage.cache.state[STATE_HITS])
        stage.ingress(np.concatenate([_flows(1000, known), _flows(100 * known, BATCH_SIZE - known)]))
        assert stage.cache.state[STATE_HITS] == before + known
        assert stage.cache.state[STATE_PASSING] == passing


def test_new_rules_are_looked_up_at_once():
    stage = Stage([drop(sport=(p, p)) for p in range(10)])
    stage.ingress(_flows(1000, BATCH_SIZE))
    assert stage.cache.state[STATE_PASSING] == PASS_BATCHES
    stage.set(stage.rules[1:])
    stage.ingress(packet())
    stage.ingress(packet())
    assert stage.cache.state[STATE_HITS] == 1


def test_a_few_misses_are_all_remembered():
    stage = Stage([drop(sport=(p, p)) for p in range(10)])
    for hits in (0, ADMIT_ALL_MAX):
        stage.ingress(_flows(1000, ADMIT_ALL_MAX))
        assert int(stage.cache.state[STATE_HITS]) == hits


def test_cache_keeps_right_when_far_too_small():
    """Fill every set over its ways through one set's share of keys."""
    rules = [AclRule(0, p & 1, 2 + p, sport=(p, p), in_port=p) for p in range(8)]
    stage = Stage(rules)
    rng = np.random.default_rng(3)
    count = BATCH_SIZE * 4 if PYTHON_MODE else CACHE_SETS * CACHE_WAYS * 2
    meta = np.zeros(count, META_DTYPE)
    fill_packet(meta[0], drop(ip_version=4, proto=TCP), rng)
    meta[:] = meta[0]
    meta["src_port"], meta["in_port"] = rng.integers(0, 65536, count), rng.integers(0, 8, count)
    meta["src_port"][::2] = meta["in_port"][::2]
    expected = (meta["src_port"] == meta["in_port"]) & (meta["in_port"] & 1 == 1)
    for _ in range(2):
        for start in range(0, count, BATCH_SIZE):
            part = meta[start : start + BATCH_SIZE].copy()
            left = run(judge, burst_of(part), stage.state)
            np.testing.assert_array_equal(left, np.flatnonzero(~expected[start : start + BATCH_SIZE]))


def test_cache_generation_wraps_to_an_empty_cache():
    rules = [AclRule(0, ACTION_DROP, 2 + p, in_port=p) for p in range(10)]
    stage = Stage(rules)
    stage.ingress(packet())  # generation 1
    stage.set([replace(rule, action=ACTION_ALLOW) for rule in rules])
    stage.cache.state[STATE_GENERATION] = (1 << GENERATION_BITS) - 1
    assert stage.ingress(packet()) == 1
    assert int(stage.cache.state[STATE_GENERATION]) == 1
    assert stage.ingress(packet()) == 1


def test_few_rules_leave_the_cache_alone():
    stage = Stage([drop(in_port=p) for p in range(CACHE_RULES_MIN - 1)])
    stage.ingress(packet())
    assert not stage.cache.sets.any()
