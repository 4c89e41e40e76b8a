from dataclasses import replace

import numpy as np
import pytest

from dpu_runtime.kernels.acl.filter import CACHE_RULES_MIN, DROP_INGRESS
from dpu_runtime.kernels.acl.layout import ACTION_ALLOW, ACTION_DROP
from dpu_runtime.kernels.acl.match import PAIRS_A_RUN
from dpu_runtime.kernels.acl.table import AclRule, build_stage, inactive_half, write_stage
from dpu_runtime.kernels.acl.verdict_cache import STATE_MISSES
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import (
    BATCH_SIZE,
    PARSED_ARP,
    PARSED_FRAGMENT,
    PARSED_IPV4,
    PARSED_IPV6,
    PARSED_LATER_FRAGMENT,
    PARSED_PORTS,
    VERDICT_DROP,
    VERDICT_MERGED,
    VERDICT_PASS,
)
from tests.functions.acl.rules import (
    MAPPED,
    TCP,
    UDP,
    classbench_rules,
    matches,
    packets_of,
    prefix_mask,
)
from tests.functions.acl.stage import DEFAULT_HIT, MAC_MASK, Stage, drop, drops_it, packet

# field of a rule that packet() matches -> change of the packet that it then does not match
FIELDS = [
    (dict(in_port=3), dict(in_port=4)),
    (dict(in_port=0), dict(in_port=3)),
    (dict(src_mac=0x020000000001, src_mac_mask=MAC_MASK), dict(src_mac=0x020000000003)),
    (dict(dst_mac=0x020000000000, dst_mac_mask=0xFFFFFF000000), dict(dst_mac=0x030000000002)),
    (dict(vlan=7, vlan_mask=0xFFF), dict(vlan=6)),
    (dict(vlan=0, vlan_mask=0xFFF), dict(vlan=7)),
    (dict(ethertype=0x0800), dict(ethertype=0x86DD)),
    (dict(ip_version=4), dict(parsed=PARSED_IPV6 | PARSED_PORTS)),
    (dict(ip_version=4), dict(parsed=PARSED_ARP)),
    (dict(ip_version=4, src=0x0A000000, src_mask=0xFF000000), dict(src_lo=MAPPED | 0x0B000001)),
    (dict(ip_version=4, src=0x0A000001, src_mask=0xFFFFFFFF), dict(parsed=PARSED_IPV6)),
    (dict(ip_version=4, dst=0x0A0000FF, dst_mask=0xFFFFFF00), dict(dst_lo=MAPPED | 0x0A000102)),
    (dict(ip_version=4, dst=2, dst_mask=0x000000FF), dict(dst_lo=MAPPED | 0x0A000003)),  # not a prefix
    (dict(proto=TCP), dict(ip_proto=UDP)),
    (dict(proto=TCP), dict(parsed=PARSED_ARP)),
    (dict(proto=0), dict(ip_proto=0, parsed=0)),
    (dict(sport=(1000, 1000)), dict(src_port=1001)),
    (dict(sport=(999, 1001)), dict(src_port=998)),
    (dict(dport=(80, 90)), dict(dst_port=79)),
    (dict(dport=(70, 80)), dict(dst_port=81)),
    (dict(dport=(0, 65535)), dict(parsed=PARSED_IPV4, src_port=0, dst_port=0)),
    (dict(tcp_flags=2, tcp_flags_mask=0x12), dict(tcp_flags=0x12)),
    (dict(tcp_flags=2, tcp_flags_mask=2), dict(ip_proto=UDP)),
    (dict(tcp_flags=0, tcp_flags_mask=4), dict(l4_offset=0, parsed=PARSED_IPV4)),
]
MATCHING = {"in_port": {"in_port": 0}, "vlan": {"vlan": 0}, "proto": {"ip_proto": 0}}


@pytest.mark.parametrize(("fields", "other"), FIELDS)
def test_each_field_alone(fields, other):
    rule = drop(**fields)
    name = next(iter(fields))
    same = packet(**(MATCHING[name] if fields[name] == 0 and name in MATCHING else {}))
    assert matches(rule, same[0])
    assert drops_it(rule, same)
    assert not drops_it(rule, packet(**other))


def test_all_fields_together_and_each_one_off():
    fields = {}
    for more, _ in FIELDS:
        for name, value in more.items():
            fields.setdefault(name, value)
    rule = drop(**fields)
    assert drops_it(rule, packet())
    changes = (
        dict(in_port=9),
        dict(src_mac=1),
        dict(dst_mac=1),
        dict(vlan=8),
        dict(ethertype=1),
        dict(src_lo=MAPPED | 0x14000001),
        dict(dst_lo=MAPPED | 0x0A000101),
        dict(ip_proto=UDP),
        dict(src_port=1),
        dict(dst_port=65535),
        dict(tcp_flags=0x10),
        dict(parsed=PARSED_IPV4),
    )
    for change in changes:
        assert not drops_it(rule, packet(**change)), change


@pytest.mark.parametrize("ports", [(0, 0), (0, 1), (65535, 65535), (65534, 65535), (0, 65535), (1, 65534)])
@pytest.mark.parametrize("field", ["sport", "dport"])
def test_port_range_borders(field, ports):
    name = "src_port" if field == "sport" else "dst_port"
    for value in (0, 1, 2, 65533, 65534, 65535):
        expected = ports[0] <= value <= ports[1]
        assert drops_it(drop(**{field: ports}), packet(**{name: value})) == expected


def test_later_fragment_matches_no_port_and_no_flags_rule():
    later = packet(
        parsed=PARSED_IPV4 | PARSED_FRAGMENT | PARSED_LATER_FRAGMENT,
        src_port=0,
        dst_port=0,
        tcp_flags=0,
        l4_offset=0,
    )
    for fields in (
        dict(sport=(0, 65535)),
        dict(dport=(0, 0)),
        dict(proto=TCP, dport=(0, 65535)),
        dict(tcp_flags=0, tcp_flags_mask=255),
    ):
        assert not drops_it(drop(**fields), later)
    assert drops_it(drop(proto=TCP), later)
    assert drops_it(drop(ip_version=4, dst=0x0A000002, dst_mask=0xFFFFFFFF), later)


def test_ipv4_rule_leaves_mapped_ipv6_addresses_alone():
    mapped = packet(parsed=PARSED_IPV6 | PARSED_PORTS, ethertype=0x86DD)
    full = (1 << 128) - 1
    assert not drops_it(drop(ip_version=4, src=0x0A000001, src_mask=0xFFFFFFFF), mapped)
    assert not drops_it(drop(ip_version=4), mapped)
    assert drops_it(drop(ip_version=6, src=MAPPED | 0x0A000001, src_mask=full), mapped)
    assert not drops_it(drop(ip_version=6, src=MAPPED | 0x0A000001, src_mask=full), packet())
    assert not drops_it(drop(ip_version=6), packet())
    assert drops_it(drop(ip_version=6), mapped)


def test_ipv6_prefixes():
    address = 0x20010DB8_00010002_00000000_00000003
    meta = packet(
        parsed=PARSED_IPV6 | PARSED_PORTS, dst_hi=address >> 64, dst_lo=address & ((1 << 64) - 1), src_hi=1
    )
    for length in (0, 1, 32, 48, 63, 64, 65, 127, 128):
        mask = prefix_mask(length, 128)
        assert drops_it(drop(ip_version=6, dst=address, dst_mask=mask), meta)
        if length:
            flipped = address ^ (1 << (128 - length))
            assert not drops_it(drop(ip_version=6, dst=flipped, dst_mask=mask), meta)


@pytest.mark.parametrize("default", [ACTION_ALLOW, ACTION_DROP])
@pytest.mark.parametrize("count", [0, 1, CACHE_RULES_MIN, 30])
def test_default_action_and_its_counter(default, count):
    rules = [drop(in_port=100 + i) for i in range(count)]
    stage = Stage(rules, default)
    meta = np.concatenate([packet(frame_len=60 + i) for i in range(5)])
    assert stage.ingress(meta) == (5 if default == ACTION_ALLOW else 0)
    assert stage.hits[DEFAULT_HIT].tolist() == [5, 310]
    stage = Stage(rules, default)
    copies = [(0, 3), (0, 5), (1, 3)]
    assert stage.egress(np.concatenate([packet(), packet()]), copies) == (
        copies if default == ACTION_ALLOW else []
    )


@pytest.mark.parametrize("count", [0, 2, 40])
def test_packets_already_decided_are_left_alone(count):
    stage = Stage([drop(proto=TCP, dport=(80 - i, 80)) for i in range(count)], ACTION_DROP)
    meta = np.concatenate([packet() for _ in range(4)])
    meta["verdict"] = [VERDICT_DROP, VERDICT_PASS, VERDICT_MERGED, VERDICT_PASS]
    meta["drop_reason"][0] = Drop.RUNT
    assert stage.ingress(meta) == 0
    assert int(stage.drops[DROP_INGRESS]) == 2
    assert stage.ingress(meta[:0]) == 0


def test_equal_priorities_first_in_list_wins():
    allow = AclRule(5, ACTION_ALLOW, 3, proto=TCP)
    deny = AclRule(5, ACTION_DROP, 4, dport=(80, 80))
    filler = [AclRule(5, ACTION_DROP, 10 + i, in_port=200 + i) for i in range(20)]
    for others in ([], filler):
        assert Stage([allow, *others, deny]).ingress(packet()) == 1
        assert Stage([deny, *others, allow]).ingress(packet()) == 0
        assert Stage([allow, *others, replace(deny, priority=6)]).ingress(packet()) == 0


@pytest.mark.parametrize("count", [1, 40])
def test_new_version_decides_the_next_burst(count):
    """Also for flows that the verdict cache knows, and with both slots used several times."""
    rules = [AclRule(0, ACTION_DROP, 2 + i, in_port=3 + i) for i in range(count)]
    stage = Stage(rules)
    for round_number in range(4):
        stage.set([replace(rule, action=round_number & 1) for rule in rules])
        for _ in range(3):
            assert stage.ingress(packet()) == 1 - (round_number & 1)
    stage.set([])
    assert stage.ingress(packet()) == 1


def test_rule_not_published_decides_nothing():
    stage = Stage([])
    write_stage(inactive_half(stage.acl), build_stage([drop()], ACTION_DROP))
    assert stage.ingress(packet()) == 1


def test_out_port_rules_match_copies_only():
    rules = [AclRule(1, ACTION_DROP, 2 + port, out_port=port) for port in (0, 5, 9)]
    meta = np.concatenate([packet(), packet(in_port=5)])
    copies = [(0, 5), (0, 0), (1, 4), (0, 6), (1, 9), (1, 0), (1, 7)]
    assert Stage(rules).egress(meta, copies) == [(1, 4), (0, 6), (1, 7)]
    assert Stage(rules).ingress(meta) == 2  # the ingress stage knows no egress port


def test_more_copies_than_a_batch():
    rules = classbench_rules(60, 8) + [AclRule(-1, ACTION_DROP, 100 + p, out_port=p) for p in range(0, 40, 3)]
    meta = packets_of(rules[:60], BATCH_SIZE, 9)
    copies = [(i % BATCH_SIZE, (i * 7) % 40) for i in range(3 * BATCH_SIZE + 5)]
    stage = Stage(rules)
    for _ in range(2):
        stage.egress(meta, copies)


def test_keys_in_a_row_that_are_the_same_but_for_unused_bits_count_each_packet():
    """And keys that differ in the highest or lowest bit of a field that is used are two."""
    rules = [drop(dport=(p, p)) for p in (1, 0x8001, 0x8000, 80)]
    ports = (80, 80, 1, 0x8001, 0x8000, 0x8000, 0, 80)
    meta = np.concatenate([packet(dst_port=port, src_port=i) for i, port in enumerate(ports)])
    meta["verdict"][1] = VERDICT_MERGED
    stage = Stage(rules)
    stage.ingress(meta)
    assert stage.cache.state[STATE_MISSES] == 6


def test_packets_that_repeat_the_one_before_share_its_key():
    meta = np.concatenate([packet(dst_port=port) for port in (80, 80, 80, 80, 81, 81)])
    meta["repeats"] = [0, 1, 1, 1, 0, 1]
    meta["verdict"][1] = VERDICT_MERGED
    stage = Stage([drop(dport=(p, p)) for p in (81, 82, 83, 84)])
    assert stage.ingress(meta) == 3
    assert stage.cache.state[STATE_MISSES] == 2


def test_a_batch_in_which_every_key_has_a_full_list_of_rules():
    """Four rules in each bucket, of which the last one decides, or none."""
    rules = [
        AclRule(0, ACTION_DROP, 2 + i, ip_version=4, dst=i // PAIRS_A_RUN, dst_mask=0xFFFFFFFF)
        for i in range(BATCH_SIZE * PAIRS_A_RUN)
    ]
    for i, rule in enumerate(rules):
        rule.sport = (i % PAIRS_A_RUN, 0x8000 + i % PAIRS_A_RUN)  # no bit in common
    stage = Stage(rules)
    runs = stage.acl.buckets[int(stage.acl.active[0]) & 1]["row_count"]
    assert set(runs[runs != 0].tolist()) <= {PAIRS_A_RUN, 2 * PAIRS_A_RUN}
    assert np.count_nonzero(runs == PAIRS_A_RUN) > BATCH_SIZE // 2
    for port, passed in ((0x8003, 0), (0x8004, BATCH_SIZE), (3, 0), (0, 0)):
        meta = np.concatenate([packet(dst_lo=MAPPED | i, src_port=port) for i in range(BATCH_SIZE)])
        assert stage.ingress(meta) == passed


@pytest.mark.parametrize("length", [1, 2, PAIRS_A_RUN, PAIRS_A_RUN + 1, 8, 40])
def test_runs_of_every_length_are_searched_in_rank_order(length):
    """Rules for one host that no table can tell apart: lists, and runs too long for them."""
    rules = [
        AclRule(0, i & 1, 2 + i, ip_version=4, dst=1, dst_mask=0xFFFFFFFF, sport=(i, 0x8000 + i))
        for i in range(length)
    ]
    rules += [
        AclRule(-1, ACTION_DROP, 100 + i, ip_version=4, dst=2 + i, dst_mask=0xFFFFFFFF) for i in range(20)
    ]
    ports = (0, 1, length, 0x7FFF, 0x8000, 0x8000 + length - 1, 0x8000 + length, 0xFFFF)
    meta = np.concatenate(
        [packet(dst_lo=MAPPED | dst, src_port=port) for port in ports for dst in (1, 2, 99)]
    )
    Stage(rules).ingress(meta)
