"""Exact match and rules: the MAC table beside rte_hash and a dict, the ACL beside rte_acl and a Python loop.

The MAC table holds 65,536 entries, so that is the larger of its two sizes. It can be written while it is
read; rte_hash is as it comes, which cannot. rte_acl matches right from the headers, ours from the parsed
fields; a flow that was seen lately is found in the verdict cache. Both count each rule's hits.
"""

import contextlib
import random

import numpy as np
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from bench import packets
from bench.in_memory import InMemory
from bench.peers.memory import loops
from bench.peers.memory.compared import Compared, Rate, rows_of
from bench.peers.memory.library import library, made, pointer
from dpu_runtime.kernels.acl.layout import HITS_MAX
from dpu_runtime.kernels.layout import BATCH_SIZE, HEADROOM_BYTES, ROW_BYTES
from dpu_runtime.kernels.switch.mac_table import MAC_ENTRIES

MAC_SIZES = (1000, MAC_ENTRIES)
LOOKUPS = 1 << 16
RULES = (10, 1000, 10_000)
FLOWS = {"64": BATCH_SIZE, "100,000": 1563 * BATCH_SIZE}
LEARNED_ON = 1000  # ports
NOW, AGEING = np.uint64(4000), np.uint64(1200)  # ticks
PYTHON_PACKETS = 4
IP_AT = HEADROOM_BYTES + 14  # octets, in a row


def _mac(lib, entries, stack, ms):
    rng = random.Random(entries)
    addresses = rng.sample(range(1, 1 << 40), entries)  # no group bit
    keys = np.array([address << 16 | 1 for address in addresses], np.uint64)
    ports = np.arange(entries, dtype=np.uint64) % np.uint64(LEARNED_ON)
    shared = InMemory().shared
    mac, counters = shared.of("switch").mac, np.zeros_like(shared.of("switch").switch[0])
    loops.learn_all(mac, keys, ports, shared.ports, NOW, AGEING, counters)
    table = stack.enter_context(made("table_new", "table_free", pointer(keys), pointer(ports), entries))
    asked = np.array(rng.choices(keys.tolist(), k=LOOKUPS), np.uint64)
    at = pointer(asked)
    known, few = dict(zip(keys.tolist(), ports.tolist(), strict=True)), asked[:1000].tolist()

    def ours(rounds):
        return loops.lookup_loop(mac, asked, shared.ports, NOW, AGEING, rounds)

    def by_dict(rounds):
        for _ in range(rounds):
            sum(known[key] for key in few)

    def check():
        total = sum(known[key] for key in asked.tolist())
        assert ours(1) == total == lib.table_loop(table, at, LOOKUPS, 1)

    return Compared(
        f"MAC table, {entries:,} entries",
        "M lookups/s",
        Rate(lambda n: ours(n) and None, LOOKUPS / 1e6, ms),
        {
            "DPDK rte_hash": Rate(
                lambda n: lib.table_loop(table, at, LOOKUPS, n) and None, LOOKUPS / 1e6, ms
            ),
            "Python dict": Rate(by_dict, len(few) / 1e6, ms),
        },
        check,
    )


def acl_frames():
    """A burst of TCP and UDP packets to the ports that rules are about, and to others."""
    frames = []
    for i in range(BATCH_SIZE):
        packet = Ether(src=packets.CLIENT, dst=packets.SERVER) / IP(src="10.0.0.1", dst=f"192.168.0.{i % 8}")
        frames.append(bytes(packet / (TCP, UDP)[i % 2](sport=1024, dport=(443, 80, 22, 5000)[i // 2 % 4])))
    return frames


def flows_of(count):
    """`count` sources in 10.0.0.0/8 as address:32 | port:16, uint64[count]."""
    rng = random.Random(count)
    return np.array(
        [(0x0A000000 | rng.getrandbits(24)) << 16 | 1024 + i % 60_000 for i in range(count)], np.uint64
    )


def _prefix_bits(mask):
    return mask.bit_count()


def _theirs(ffi, rules):
    """The rules as rte_acl takes them: struct acl_rule_in[]."""
    found = ffi.new("struct acl_rule_in[]", len(rules))
    for rule, out in zip(rules, found, strict=True):
        out.priority, out.userdata = rule.priority, rule.hit
        out.src, out.src_bits = rule.src, _prefix_bits(rule.src_mask)
        out.dst, out.dst_bits = rule.dst, _prefix_bits(rule.dst_mask)
        out.sport_low, out.sport_high = rule.sport or (0, 0xFFFF)
        out.dport_low, out.dport_high = rule.dport or (0, 0xFFFF)
        out.proto, out.proto_mask = rule.proto or 0, 0xFF if rule.proto else 0
    return found


def first_match(rules, record):
    """Slot of the first rule, in order of priority, that takes a parsed IPv4 packet; 0: none."""
    src, dst, proto, dport = (int(record[name]) for name in ("src_lo", "dst_lo", "ip_proto", "dst_port"))
    for rule in rules:
        if (
            (src ^ rule.src) & rule.src_mask == 0
            and (dst ^ rule.dst) & rule.dst_mask == 0
            and proto == rule.proto
            and rule.dport[0] <= dport <= rule.dport[1]
        ):
            return rule.hit
    return 0


def _acl(count, label, stack, ms):
    ffi, lib = library()
    rules, flows = packets.rule_set(count), flows_of(FLOWS[label])
    device = InMemory()
    device.set_rules("ingress", rules)
    state, hits = device.stages.state("acl_ingress"), device.shared.of("acl").hits[0]
    headers, meta = rows_of(packets.make_pool(acl_frames()))
    loops.decode_and_parse(headers, meta, device.shared.drops[0])
    device.burst.meta[: len(meta)] = meta
    rows, scratch = headers.copy(), np.zeros(HITS_MAX, np.uint64)
    theirs = stack.enter_context(made("acl_new", "acl_free", _theirs(ffi, rules), count))

    def ours(rounds):
        return loops.acl_loop(device.burst, state, flows, rounds)

    def by_dpdk(rounds):
        args = pointer(rows), ROW_BYTES, IP_AT, pointer(flows), len(flows), rounds, pointer(scratch)
        if lib.acl_loop(theirs, *args) < 0:
            raise RuntimeError("DPDK: rte_acl_classify failed")

    def naive(rounds):
        for _ in range(rounds):
            for record in meta[:PYTHON_PACKETS]:
                first_match(rules, record)

    def check():
        hits[:], scratch[:] = 0, 0
        assert ours(1) == len(flows)
        by_dpdk(1)
        assert (hits[:, 0] == scratch).all()
        assert scratch.sum() == len(flows) and (scratch[0] < len(flows) or count < 1000)
        expected, burst = np.zeros(HITS_MAX, np.uint64), meta.copy()
        burst["src_lo"] = np.uint64(0xFFFF << 32) | flows[:BATCH_SIZE] >> np.uint64(16)
        burst["src_lo"] &= np.uint64(0xFFFFFFFF)
        burst["dst_lo"] &= np.uint64(0xFFFFFFFF)
        for record in burst:
            expected[first_match(rules, record)] += 1
        hits[:] = 0
        loops.acl_loop(device.burst, state, flows[:BATCH_SIZE], 1)
        assert (hits[:, 0] == expected).all()

    million = len(flows) / 1e6
    return Compared(
        f"ACL, {count:,} rules, {label} flows",
        "Mpps",
        Rate(lambda rounds: ours(rounds) and None, million, ms),
        {
            "DPDK rte_acl": Rate(by_dpdk, million, ms),
            "Python loop": Rate(naive, PYTHON_PACKETS / 1e6, ms),
        },
        check,
    )


@contextlib.contextmanager
def compared(ms, rule_counts=RULES):
    """Comparisons with samples of `ms`."""
    _, lib = library()
    with contextlib.ExitStack() as stack:
        found = [_mac(lib, entries, stack, ms) for entries in MAC_SIZES]
        yield found + [_acl(count, label, stack, ms) for count in rule_counts for label in FLOWS]
