import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpu_runtime.kernels.acl.layout import ACTION_DROP
from dpu_runtime.kernels.acl.table import AclRule
from dpu_runtime.kernels.compile.jit import PYTHON_MODE
from dpu_runtime.kernels.layout import (
    BATCH_SIZE,
    PARSED_ARP,
    PARSED_FRAGMENT,
    PARSED_LATER_FRAGMENT,
    PARSED_PORTS,
)
from tests.functions.acl.rules import (
    TCP,
    UDP,
    classbench_rules,
    packets_of,
    prefix_mask,
)
from tests.functions.acl.stage import MAC_MASK, Stage, drop


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
