"""Rules and packets for ACL tests: generators, and the slow obvious first-match oracle."""

import numpy as np

from dpu_runtime.kernels.acl.layout import ACTION_ALLOW, ACTION_DROP
from dpu_runtime.kernels.acl.table import AclRule
from dpu_runtime.kernels.layout import (
    META_DTYPE,
    PARSED_IPV4,
    PARSED_IPV6,
    PARSED_PORTS,
    PORT_NONE,
)

TCP, UDP, ICMP = 6, 17, 1
MAPPED = 0xFFFF << 32  # ::ffff:0:0/96


def prefix_mask(length, width):
    """Mask of a prefix of `length` bits in an address of `width` bits."""
    return ((1 << length) - 1) << (width - length)


def matches(rule, packet, out_port=PORT_NONE):
    """Whether `rule` takes the packet of one META_DTYPE record."""
    m = {name: int(packet[name]) for name in META_DTYPE.names}
    version = 4 if m["parsed"] & PARSED_IPV4 else 6 if m["parsed"] & PARSED_IPV6 else 0
    address_mask = 0xFFFFFFFF if version == 4 else (1 << 128) - 1
    src = (m["src_hi"] << 64 | m["src_lo"]) & address_mask
    dst = (m["dst_hi"] << 64 | m["dst_lo"]) & address_mask
    has_ports = bool(m["parsed"] & PARSED_PORTS)
    is_tcp = version != 0 and m["ip_proto"] == TCP and m["l4_offset"] != 0

    def same(value, want, mask):
        return (value ^ want) & mask == 0

    return (
        (rule.in_port is None or rule.in_port == m["in_port"])
        and (rule.out_port is None or rule.out_port == out_port)
        and same(m["src_mac"], rule.src_mac, rule.src_mac_mask)
        and same(m["dst_mac"], rule.dst_mac, rule.dst_mac_mask)
        and same(m["vlan"], rule.vlan, rule.vlan_mask)
        and (rule.ethertype is None or rule.ethertype == m["ethertype"])
        and (rule.ip_version in (0, version))
        and same(src, rule.src, rule.src_mask)
        and same(dst, rule.dst, rule.dst_mask)
        and (rule.proto is None or (version != 0 and rule.proto == m["ip_proto"]))
        and (rule.sport is None or (has_ports and rule.sport[0] <= m["src_port"] <= rule.sport[1]))
        and (rule.dport is None or (has_ports and rule.dport[0] <= m["dst_port"] <= rule.dport[1]))
        and (
            rule.tcp_flags_mask == 0 or (is_tcp and same(m["tcp_flags"], rule.tcp_flags, rule.tcp_flags_mask))
        )
    )


def first_match(rules, packet, out_port=PORT_NONE):
    """The rule that decides, or None: highest priority, then earliest in the list."""
    for rule in sorted(rules, key=lambda rule: -rule.priority):
        if matches(rule, packet, out_port):
            return rule
    return None


def classbench_rules(count, seed, ip_version=4):
    """A firewall-like set after ClassBench's shape (Taylor and Turner 2007): prefix pairs, well-known
    and ephemeral port ranges, mostly TCP; rule i has priority count - i and hit counter i + 2."""
    rng = np.random.default_rng(seed)
    width = 32 if ip_version == 4 else 128
    first, last = (8, 32) if ip_version == 4 else (20, 64)
    ranges = ((1024, 65535), (0, 1023), (5060, 5070), (8000, 8100), (6000, 6063))
    rules = []
    for i in range(count):
        rule = AclRule(count - i, ACTION_DROP if rng.random() < 0.5 else ACTION_ALLOW, i + 2)
        rule.ip_version = ip_version
        for name in ("src", "dst"):
            shape = rng.random()
            length = 0 if shape < 0.08 else last if shape < 0.35 else int(rng.integers(first, last + 1))
            setattr(rule, name, int.from_bytes(rng.bytes(width // 8), "big"))
            setattr(rule, name + "_mask", prefix_mask(length, width))
        rule.proto = (TCP, TCP, TCP, UDP, UDP, None)[rng.integers(6)]
        if rule.proto is not None:
            shape = rng.random()
            if shape < 0.5:
                port = int(rng.integers(1, 1024)) if rng.random() < 0.7 else int(rng.integers(65536))
                rule.dport = (port, port)
            elif shape < 0.75:
                rule.dport = ranges[rng.integers(len(ranges))]
            if rng.random() < 0.1:
                rule.sport = (1024, 65535)
        rules.append(rule)
    return rules


def packets_of(rules, count, seed, hit_share=0.8):
    """`count` packets as META_DTYPE records: `hit_share` of them drawn from inside random rules."""
    rng = np.random.default_rng(seed)
    meta = np.zeros(count, META_DTYPE)
    for m in meta:
        rule = rules[rng.integers(len(rules))] if rules and rng.random() < hit_share else AclRule(0, 0, 0)
        fill_packet(m, rule, rng)
    return meta


def fill_packet(m, rule, rng):
    """Make the record `m` a random packet that agrees with `rule` in most fields."""

    def pick(value, mask, width):
        return value & mask | int.from_bytes(rng.bytes(16), "big") & ~mask & ((1 << width) - 1)

    version = rule.ip_version or (4, 6)[rng.integers(2)]
    width = 32 if version == 4 else 128
    for name in ("src", "dst"):
        address = pick(getattr(rule, name), getattr(rule, name + "_mask"), width)
        if version == 4:
            address |= MAPPED
        m[name + "_hi"], m[name + "_lo"] = address >> 64, address & ((1 << 64) - 1)
    m["ip_proto"] = rule.proto if rule.proto is not None else (TCP, UDP, ICMP)[rng.integers(3)]
    if rule.tcp_flags_mask:
        m["ip_proto"] = TCP
    m["parsed"] = PARSED_IPV4 if version == 4 else PARSED_IPV6
    if m["ip_proto"] in (TCP, UDP):
        m["parsed"] |= PARSED_PORTS
        m["l4_offset"] = 162
        for field, ports in (("src_port", rule.sport), ("dst_port", rule.dport)):
            first, last = ports or (0, 65535)
            m[field] = (first, last, rng.integers(first, last + 1))[rng.integers(3)]
    if m["ip_proto"] == TCP:
        m["tcp_flags"] = pick(rule.tcp_flags, rule.tcp_flags_mask, 8)
    m["ethertype"] = rule.ethertype or (0x0800 if version == 4 else 0x86DD)
    m["in_port"] = rule.in_port if rule.in_port is not None else rng.integers(8)
    m["src_mac"] = pick(rule.src_mac, rule.src_mac_mask, 48)
    m["dst_mac"] = pick(rule.dst_mac, rule.dst_mac_mask, 48)
    m["vlan"] = pick(rule.vlan, rule.vlan_mask, 12)
    m["frame_len"] = rng.integers(60, 1515)
    m["flow_hash"] = rng.integers(1 << 32)
