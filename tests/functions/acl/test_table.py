import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpu_runtime.kernels.acl.layout import (
    ACL_LAYOUT,
    ACTION_ALLOW,
    ACTION_DROP,
    DPORT_SHIFT,
    EXTRA_DECISION,
    EXTRA_SPANS,
    HITS_MAX,
    KEY_WORDS,
    L4,
    PRUNE_DPORT,
    PRUNE_DST,
    PRUNE_FIELDS,
    PRUNE_SPORT,
    PRUNE_SRC,
    RULES_MAX,
    SPORT_SHIFT,
    TABLES_MAX,
    new_acl,
)
from dpu_runtime.kernels.acl.table import (
    AclRule,
    _tables_by_range,
    build_stage,
    inactive_half,
    publish,
    write_stage,
)
from dpu_runtime.kernels.acl.tuples import hash_keys
from tests.functions.acl.rules import classbench_rules

LAYOUT_NAMES = [name for name in ACL_LAYOUT if name != "active"]


def decisions(stage):
    """(rank, action, hit) of each row."""
    words = stage.extras[:, EXTRA_DECISION]
    verdicts = words & np.uint64(0xFFFFFFFF)
    return [
        (int(word >> np.uint64(32)), int(verdict) >> 31, int(verdict) & 0x7FFFFFFF)
        for word, verdict in zip(words, verdicts, strict=True)
    ]


def test_control_process_needs_no_numba():
    code = "import sys, dpu_runtime.kernels.acl.table; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("count", [0, 1, 2, 8, 9, 100, 2000])
def test_every_rule_is_in_the_bucket_its_hash_names(count):
    stage = build_stage(classbench_rules(count, 3), ACTION_ALLOW)
    assert stage.head["rule_count"][0] == len(stage.rows)
    assert 0.99 * count <= len(stage.rows) <= count  # short sets of fields repeat
    assert stage.head["table_count"][0] == len(stage.tables) <= TABLES_MAX
    rank_of_row = [rank for rank, _, _ in decisions(stage)]
    seen = 0
    for table, mask in zip(stage.tables, stage.table_masks, strict=True):
        first_bucket, shift = int(table["first_bucket"]), int(table["shift"])
        buckets = stage.buckets[first_bucket : first_bucket + (1 << 64 - shift)]
        ranks = []
        for number, bucket in enumerate(buckets):
            run = slice(int(bucket["first_row"]), int(bucket["first_row"] + bucket["row_count"]))
            values, masks = stage.rows[run, :KEY_WORDS], stage.rows[run, KEY_WORDS:]
            assert ((masks & mask) == mask).all()
            assert (hash_keys(values, mask) >> np.uint64(shift) == number).all()
            run_ranks = rank_of_row[run]
            assert run_ranks == sorted(run_ranks)
            ranks += run_ranks
        assert min(ranks) == table["best_rank"] and len(ranks) == table["rule_count"]
        seen += len(ranks)
    assert seen == len(stage.rows)
    assert (np.diff(stage.tables["best_rank"].astype(np.int64)) > 0).all()


def test_stage_fits_its_layout():
    stage = build_stage(classbench_rules(500, 4), ACTION_ALLOW)
    for name in LAYOUT_NAMES:
        dtype, shape = ACL_LAYOUT[name]
        array = getattr(stage, name)
        assert array.dtype == dtype
        assert len(array.shape) == len(shape) - 1
        assert all(have <= room for have, room in zip(array.shape, shape[1:], strict=True)), name


def test_full_stage_fits_and_one_more_is_refused():
    rules = [AclRule(0, ACTION_DROP, i, ip_version=4, src=i, src_mask=0xFFFFFFFF) for i in range(RULES_MAX)]
    stage = build_stage(rules, ACTION_ALLOW)
    assert len(stage.rows) == RULES_MAX
    write_stage(inactive_half(new_acl()), stage)
    with pytest.raises(ValueError, match="65537 rules in one stage, at most 65536 are possible"):
        build_stage(rules + rules[:1], ACTION_ALLOW)


def test_rank_is_descending_priority_then_list_order():
    rules = [AclRule(priority, ACTION_DROP, i, proto=i) for i, priority in enumerate([5, 7, 5, -3, 7])]
    order = [slot for _, _, slot in sorted(decisions(build_stage(rules, ACTION_ALLOW)))]
    assert order == [1, 4, 0, 2, 3]


def test_rules_no_packet_reaches_take_no_row():
    rules = [
        AclRule(9, ACTION_DROP, 1, proto=6),
        AclRule(8, ACTION_ALLOW, 2, proto=6),  # the same match
        AclRule(7, ACTION_DROP, 3, proto=6, dport=(0, 65535)),  # not the same: wants ports
        AclRule(6, ACTION_DROP, 4),  # everything
        AclRule(5, ACTION_DROP, 5, proto=17),  # behind everything
    ]
    assert [slot for _, _, slot in sorted(decisions(build_stage(rules, ACTION_ALLOW)))] == [1, 3, 4]


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("dport", (20, 10), r"rule 1: dport \(20, 10\) is not \(first, last\)"),
        ("dport", (0, 65536), "rule 1: dport"),
        ("sport", (-1, 5), "rule 1: sport"),
        ("sport", (1, 2, 3), "rule 1: sport"),
        ("proto", 256, "rule 1: proto 256 is not a number from 0 to 255"),
        ("proto", -1, "rule 1: proto -1"),
        ("proto", "tcp", "rule 1: proto 'tcp'"),
        ("ethertype", 1 << 16, "rule 1: ethertype"),
        ("vlan", 4096, "rule 1: vlan 4096 is not a number from 0 to 4095"),
        ("vlan_mask", -1, "rule 1: vlan_mask"),
        ("src_mac", 1 << 48, "rule 1: src_mac"),
        ("dst_mac_mask", 1 << 70, "rule 1: dst_mac_mask"),
        ("in_port", 1024, "rule 1: in_port 1024"),
        ("out_port", -1, "rule 1: out_port -1"),
        ("action", 2, "rule 1: action 2"),
        ("action", None, "rule 1: action None"),
        ("hit", HITS_MAX, "rule 1: hit"),
        ("tcp_flags_mask", 256, "rule 1: tcp_flags_mask"),
        ("ip_version", 5, "rule 1: ip_version 5 is not one of 0, 4, 6"),
        ("src", 1 << 32, "rule 1: src 0x100000000 does not fit 32 bits of ip_version 4"),
        ("dst_mask", -1, "rule 1: dst_mask -0x1"),
    ],
)
def test_bad_field_is_named(field, value, text):
    bad = AclRule(1, ACTION_DROP, 1, ip_version=4)
    setattr(bad, field, value)
    with pytest.raises(ValueError, match=text):
        build_stage([AclRule(1, ACTION_DROP, 0), bad], ACTION_ALLOW)


def test_bad_defaults_are_named():
    with pytest.raises(ValueError, match="default action 7 is not 0 or 1"):
        build_stage([], 7)
    with pytest.raises(ValueError, match="default hit counter -1"):
        build_stage([], ACTION_ALLOW, -1)


def test_address_without_version_is_refused():
    with pytest.raises(ValueError, match="does not fit 0 bits of ip_version 0"):
        build_stage([AclRule(1, ACTION_DROP, 0, src=1, src_mask=0xFF)], ACTION_ALLOW)


def test_publish_alternates_slots_and_leaves_the_other_alone():
    acl = new_acl()
    for version in (1, 2, 3):
        write_stage(inactive_half(acl), build_stage(classbench_rules(version, version), ACTION_ALLOW))
        assert publish(acl) == version
        assert acl.head["rule_count"][version & 1, 0] == version
    assert acl.head["rule_count"][:, 0].tolist() == [2, 3]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 65535), st.integers(0, 65535), st.integers(0, TABLES_MAX - 1)), max_size=12
    )
)
def test_tables_by_range_against_slices(ranges):
    model = np.zeros(1 << 16, np.uint64)
    for a, b, table in ranges:
        model[min(a, b) : max(a, b) + 1] |= np.uint64(1 << table)
    first = np.array([min(a, b) for a, b, _ in ranges], np.int64)
    last = np.array([max(a, b) for a, b, _ in ranges], np.int64)
    bits = np.array([1 << table for _, _, table in ranges], np.uint64)
    assert (_tables_by_range(first, last, bits) == model).all()


def test_ten_thousand_rules_build_quickly():
    rules = classbench_rules(10000, 1)
    best = 1e9
    for _ in range(3):
        start = time.thread_time()
        build_stage(rules, ACTION_ALLOW)
        best = min(best, time.thread_time() - start)
    assert best < 0.3


def test_rows_and_spans_say_which_ports_a_rule_takes():
    rules = [
        AclRule(2, ACTION_DROP, 1, sport=(0, 65535), dport=(80, 90)),
        AclRule(1, ACTION_DROP, 2, sport=(65535, 65535)),
        AclRule(0, ACTION_DROP, 3, proto=6),
    ]
    stage = build_stage(rules, ACTION_ALLOW)
    for row, (_, _, slot) in zip(range(3), decisions(stage), strict=True):
        rule, spans = rules[slot - 1], int(stage.extras[row, EXTRA_SPANS])
        assert spans >> 32 == 0
        for ports, shift in ((rule.sport, SPORT_SHIFT), (rule.dport, DPORT_SHIFT)):
            first, last = ports or (0, 65535)
            assert int(stage.rows[row, L4]) >> shift & 0xFFFF == first
            assert int(stage.rows[row, KEY_WORDS + L4]) >> shift & 0xFFFF == 0xFFFF
            assert spans >> shift & 0xFFFF == last - first


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        (dict(proto=6), ()),
        (dict(ip_version=4, src=0x0A000001, src_mask=0xFFFFFFFF), (PRUNE_SRC,)),
        (dict(ip_version=4, src=0x0A000001, src_mask=0x0000FFFF), ()),  # pruned by the other half
        (dict(ip_version=6, dst=1 << 80, dst_mask=0xFFFF << 80), (PRUNE_DST,)),
        (dict(sport=(0, 65534), dport=(0, 65535)), (PRUNE_SPORT,)),
        (dict(sport=(7, 7), dport=(1, 65535)), (PRUNE_SPORT, PRUNE_DPORT)),
    ],
)
def test_only_fields_that_leave_a_table_out_are_asked(fields, asked):
    stage = build_stage([AclRule(0, ACTION_DROP, 1, **fields)], ACTION_ALLOW)
    assert stage.head["prune_fields"][0] == sum(1 << field for field in asked)
    for field in range(PRUNE_FIELDS):
        assert (stage.prune[field] == 1).all() == (field not in asked)
