from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.acl_layout import ACTION_ALLOW, ACTION_DROP, HIT_SLOTS, new_acl
from kernels.acl_table import AclRule, build_stage, inactive_slot, publish, write_stage
from kernels.drops import DROP_REASON_COUNT, Drop
from kernels.filter import CACHE_RULES_MIN, filter_egress, filter_ingress
from kernels.jit import PYTHON_MODE
from kernels.layout import (
    BATCH_SIZE,
    META_DTYPE,
    PARSED_ARP,
    PARSED_FRAGMENT,
    PARSED_IPV4,
    PARSED_IPV6,
    PARSED_LATER_FRAGMENT,
    PARSED_PORTS,
    PORT_NONE,
    ROW_BYTES,
    VERDICT_DROP,
    VERDICT_MERGED,
    VERDICT_PASS,
)
from kernels.verdict_cache import (
    CACHE_SETS,
    CACHE_WAYS,
    GENERATION_BITS,
    STATE_GENERATION,
    STATE_HITS,
    STATE_MISSES,
    new_verdict_cache,
)
from tests.kernels.acl_rules import (
    MAPPED,
    TCP,
    UDP,
    classbench_rules,
    fill_packet,
    first_match,
    matches,
    packets_of,
    prefix_mask,
)

DEFAULT_SLOT = 1
HEADERS = np.full((BATCH_SIZE, ROW_BYTES), 0xA5, np.uint8)
MAC_MASK = (1 << 48) - 1


class Stage:
    """One worker's view of a stage, checked against the first-match oracle on every run."""

    def __init__(self, rules=(), default=ACTION_ALLOW):
        self.acl, self.cache = new_acl(), new_verdict_cache()
        self.hits = np.zeros((HIT_SLOTS, 2), np.uint64)
        self.drops = np.zeros(DROP_REASON_COUNT, np.uint64)
        self.set(list(rules), default)

    def set(self, rules, default=ACTION_ALLOW):
        self.rules, self.default = rules, default
        write_stage(inactive_slot(self.acl), build_stage(rules, default, DEFAULT_SLOT))
        publish(self.acl)

    def expect(self, packet, out_port=PORT_NONE):
        """(action, hit slot) by the oracle."""
        rule = first_match(self.rules, packet, out_port)
        return (rule.action, rule.hit_slot) if rule else (self.default, DEFAULT_SLOT)

    def ingress(self, meta):
        """Run the kernel over `meta` and compare everything it may change."""
        before, hits, dropped = meta.copy(), self.hits.copy(), int(self.drops[Drop.ACL_INGRESS])
        passed = filter_ingress(HEADERS, meta, len(meta), self.acl, self.cache, self.hits, self.drops)
        model = before.copy()
        for m in model:
            if m["verdict"] == VERDICT_PASS:
                action, slot = self.expect(m)
                hits[slot] += np.array([1, m["frame_len"]], np.uint64)
                if action == ACTION_DROP:
                    m["verdict"], m["drop_reason"] = VERDICT_DROP, Drop.ACL_INGRESS
                    dropped += 1
        np.testing.assert_array_equal(meta, model)
        np.testing.assert_array_equal(self.hits, hits)
        assert passed == np.count_nonzero(model["verdict"] == VERDICT_PASS)
        assert int(self.drops[Drop.ACL_INGRESS]) == dropped == int(self.drops.sum())
        return passed

    def egress(self, meta, copies):
        """Run the kernel over (packet, port) copies; compare and return those kept."""
        before, hits, dropped = meta.copy(), self.hits.copy(), int(self.drops[Drop.ACL_EGRESS])
        out_packet = np.array([packet for packet, _ in copies], np.uint16)
        out_port = np.array([port for _, port in copies], np.uint16)
        kept = filter_egress(
            meta, out_packet, out_port, len(copies), self.acl, self.cache, self.hits, self.drops
        )
        expected = []
        for packet, port in copies:
            action, slot = self.expect(meta[packet], port)
            hits[slot] += np.array([1, meta[packet]["frame_len"]], np.uint64)
            if action == ACTION_ALLOW:
                expected.append((packet, port))
        result = [(int(p), int(o)) for p, o in zip(out_packet[:kept], out_port[:kept], strict=True)]
        assert result == expected
        np.testing.assert_array_equal(meta, before)
        np.testing.assert_array_equal(self.hits, hits)
        assert int(self.drops[Drop.ACL_EGRESS]) == dropped + len(copies) - kept == int(self.drops.sum())
        return result


def packet(**fields):
    """One TCP/IPv4 packet 10.0.0.1:1000 -> 10.0.0.2:80, SYN, changed by `fields`."""
    meta = np.zeros(1, META_DTYPE)
    values = {
        "parsed": PARSED_IPV4 | PARSED_PORTS,
        "ethertype": 0x0800,
        "src_lo": MAPPED | 0x0A000001,
        "dst_lo": MAPPED | 0x0A000002,
        "ip_proto": TCP,
        "src_port": 1000,
        "dst_port": 80,
        "tcp_flags": 2,
        "l4_offset": 162,
        "src_mac": 0x020000000001,
        "dst_mac": 0x020000000002,
        "vlan": 7,
        "in_port": 3,
        "frame_len": 60,
    }
    for name, value in (values | fields).items():
        meta[name] = value
    return meta


def drops_it(rule, meta):
    """Whether an ingress stage of this one drop rule drops the packet."""
    return Stage([rule]).ingress(meta.copy()) == 0


def drop(**fields):
    return AclRule(1, ACTION_DROP, 2, **fields)


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
    assert stage.hits[DEFAULT_SLOT].tolist() == [5, 310]
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
    assert int(stage.drops[Drop.ACL_INGRESS]) == 2
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
    write_stage(inactive_slot(stage.acl), build_stage([drop()], ACTION_DROP))
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


def random_rules(count, rng):
    """Rules with random combinations of few values each, so that they overlap; many equal priorities."""
    rules = []
    for i in range(count):
        rule = AclRule(int(rng.integers(-3, 4)), int(rng.integers(2)), i + 2)
        if rng.random() < 0.2:
            rule.in_port = int(rng.integers(4))
        if rng.random() < 0.15:
            rule.out_port = int(rng.integers(4))
        for name in ("src_mac", "dst_mac"):
            if rng.random() < 0.1:
                setattr(rule, name, int(rng.integers(4)))
                setattr(rule, name + "_mask", int(rng.choice([MAC_MASK, 1, 0xFFFFFF000000])))
        if rng.random() < 0.15:
            rule.vlan, rule.vlan_mask = int(rng.integers(3)), int(rng.choice([0xFFF, 1]))
        if rng.random() < 0.1:
            rule.ethertype = int(rng.choice([0x0800, 0x86DD, 0x0806]))
        rule.ip_version = int(rng.choice([0, 4, 6]))
        if rule.ip_version:
            width = 32 if rule.ip_version == 4 else 128
            for name in ("src", "dst"):
                if rng.random() < 0.6:
                    mask = prefix_mask(int(rng.integers(width + 1)), width)
                    if rng.random() < 0.1:
                        mask = int.from_bytes(rng.bytes(16), "big") >> (128 - width)
                    setattr(rule, name, int(rng.choice([0, 1, 255])) << int(rng.integers(width - 7)))
                    setattr(rule, name + "_mask", mask)
        if rng.random() < 0.5:
            rule.proto = int(rng.choice([TCP, UDP, 0, 1]))
        for name in ("sport", "dport"):
            if rng.random() < 0.3:
                ends = sorted(int(p) for p in rng.choice([0, 1, 79, 80, 81, 1023, 1024, 65534, 65535], 2))
                setattr(rule, name, tuple(ends))
        if rng.random() < 0.2:
            rule.tcp_flags, rule.tcp_flags_mask = int(rng.integers(64)), int(rng.choice([2, 0x12, 0x3F]))
        rules.append(rule)
    return rules


def spoil(meta, rng):
    """Turn some packets into fragments, ARP and unknown layer 4."""
    for m in meta:
        kind = rng.integers(8)
        if kind == 0:
            m["parsed"] = int(m["parsed"]) & ~PARSED_PORTS | PARSED_FRAGMENT | PARSED_LATER_FRAGMENT
            m["l4_offset"] = m["src_port"] = m["dst_port"] = m["tcp_flags"] = 0
        elif kind == 1:
            m["parsed"], m["ethertype"], m["l4_offset"] = PARSED_ARP, 0x0806, 0
        m["in_port"], m["vlan"] = rng.integers(4), rng.integers(3)
        if rng.random() < 0.5:
            m["src_mac"], m["dst_mac"] = rng.integers(4), rng.integers(4)


def check_random(seed, count, packets):
    rng = np.random.default_rng(seed)
    rules = random_rules(count, rng)
    meta = packets_of(rules, packets, seed)
    spoil(meta, rng)
    stage = Stage(rules, int(rng.integers(2)))
    for _ in range(2):  # the second time out of the verdict cache
        for start in range(0, packets, BATCH_SIZE):
            stage.ingress(meta[start : start + BATCH_SIZE].copy())
    egress = Stage(rules, int(rng.integers(2)))
    copies = [(int(rng.integers(packets)), int(rng.integers(5))) for _ in range(packets)]
    for _ in range(2):
        egress.egress(meta, copies)


@pytest.mark.parametrize("count", [1, 3, 4, 8, 9, 17, 60, 300])
@pytest.mark.parametrize("seed", range(2 if PYTHON_MODE else 3))
def test_random_rules_against_the_oracle(seed, count):
    check_random(1000 * count + seed, count, 64 if PYTHON_MODE else 128)


@settings(max_examples=5 if PYTHON_MODE else 30, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 40))
def test_hypothesis_against_the_oracle(seed, count):
    check_random(seed, count, 32)


def overlapping_sets():
    """Rule sets that defeat hashing: hardly a bit is common to many rules, or all are."""
    rng = np.random.default_rng(7)

    def ranges(count, width):
        firsts = rng.integers(0, 65535, (count, 2))
        lasts = np.minimum(firsts + rng.integers(0, width, (count, 2)), 65535)
        return [((int(a), int(c)), (int(b), int(d))) for (a, b), (c, d) in zip(firsts, lasts, strict=True)]

    yield "wide", [AclRule(0, i & 1, i + 2, sport=s, dport=d) for i, (s, d) in enumerate(ranges(400, 65536))]
    yield "narrow", [AclRule(0, i & 1, i + 2, sport=s, dport=d) for i, (s, d) in enumerate(ranges(400, 900))]
    yield (
        "one host",
        [
            drop(ip_version=4, dst=0x0A000001, dst_mask=0xFFFFFFFF, proto=TCP, dport=d)
            for _, d in ranges(400, 2000)
        ],
    )
    yield (
        "nested",
        [
            AclRule(n, n & 1, n + 2, ip_version=4, src=0x0A141E28, src_mask=prefix_mask(n, 32))
            for n in range(33)
        ],
    )
    yield (
        "macs",
        [drop(src_mac=int(m), src_mac_mask=MAC_MASK) for m in rng.integers(0, 1 << 48, 400, dtype=np.int64)],
    )
    yield (
        "holes",
        [
            drop(ip_version=6, src=int.from_bytes(rng.bytes(16), "big"), src_mask=0xF0F << (4 * i))
            for i in range(28)
        ],
    )
    yield "same", [drop(proto=TCP) for _ in range(100)]


@pytest.mark.parametrize("rules", [pytest.param(rules, id=name) for name, rules in overlapping_sets()])
def test_adversarial_rule_sets(rules):
    stage = Stage(rules)
    meta = packets_of(rules, BATCH_SIZE, 11)
    for _ in range(2):
        stage.ingress(meta.copy())


@pytest.mark.parametrize("ip_version", [4, 6])
def test_classbench_sets(ip_version):
    count = 1000 if PYTHON_MODE else 3000
    rules = classbench_rules(count, 5, ip_version)
    stage = Stage(rules, ACTION_DROP)
    meta = packets_of(rules, BATCH_SIZE, 6)
    for _ in range(2):
        stage.ingress(meta.copy())


def test_cache_answers_packets_that_differ_in_unused_bits_only():
    stage = Stage([drop(dport=(p, p)) for p in range(1, 21)])
    meta = np.concatenate([packet(src_port=p, tcp_flags=p & 63, src_lo=MAPPED | p) for p in range(40)])
    stage.ingress(meta)
    state = stage.cache.state
    assert (int(state[STATE_HITS]), int(state[STATE_MISSES])) == (0, 40)  # one batch, looked up at once
    assert np.count_nonzero(stage.cache.sets) == 2  # but one entry: its tag and its verdict
    stage.ingress(packet(src_port=9999))
    assert (int(state[STATE_HITS]), int(state[STATE_MISSES])) == (1, 40)


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
            filter_ingress(HEADERS, part, len(part), stage.acl, stage.cache, stage.hits, stage.drops)
            np.testing.assert_array_equal(
                part["verdict"] == VERDICT_DROP, expected[start : start + BATCH_SIZE]
            )


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
