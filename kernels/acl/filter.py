"""ACL filter: drop what the first matching rule of a hook, or its default, denies.

Spec: kernels/acl/layout.py (tables), kernels/acl/rule.py (what a rule matches).
In:   every parsed field of meta, in_port, vlan, frame_len; at egress the port.
Out:  the list of packets; at ingress verdict, drop_reason. Hits, drops; marks["rule"] where a stage wants it.
Not:  connection state.
"""

import numpy as np

from dpu_runtime.kernels.acl.key_words import KEY_BYTES, put_key, same_key
from dpu_runtime.kernels.acl.layout import (
    ACTION_DROP,
    DPORT_SHIFT,
    DST_HI,
    DST_LO,
    DST_MAC,
    ETHERTYPE_SHIFT,
    FLAGS_SHIFT,
    IN_PORT_SHIFT,
    KEY_IP,
    KEY_IPV4,
    KEY_PORTS,
    KEY_TCP,
    OUT_PORT_SHIFT,
    PROTO_SHIFT,
    SPORT_SHIFT,
    SRC_HI,
    SRC_LO,
    SRC_MAC,
    TCP_FLAGS_SHIFT,
    VERDICT_ACTION_SHIFT,
    VLAN_SHIFT,
)
from dpu_runtime.kernels.acl.match import DECISION_NONE, find_verdicts, search_run
from dpu_runtime.kernels.acl.verdict_cache import (
    cache_follow,
    cache_insert,
    cache_lookup,
)
from dpu_runtime.kernels.burst import EGRESS, WANTS_RULE, Word
from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.layout import (
    BATCH_SIZE,
    META_DTYPE,
    PARSED_IPV4,
    PARSED_IPV6,
    PARSED_PORTS,
    PORT_NONE,
)
from dpu_runtime.kernels.octets.memory import address_of, load_acquire, load_u64
from dpu_runtime.kernels.stage import drop

CACHE_RULES_MIN = 4  # fewer rules are compared one by one: as fast for known flows, far faster for new ones
DROP_INGRESS, DROP_EGRESS = 0, 1  # places in the function's drops
_PROTO_TCP = 6
_0 = np.uint64(0)
_1 = np.uint64(1)
_NO_PACKET = np.uint64(1 << 32)
_32_BITS = np.uint64(0xFFFFFFFF)
_HIT_MASK = np.uint32((1 << VERDICT_ACTION_SHIFT) - 1)

_RECORD_BYTES = np.uint64(META_DTYPE.itemsize)
_FIELD_AT = {name: offset for name, (_, offset) in META_DTYPE.fields.items()}
_PORTS_AT, _ETHERTYPE_AT = np.uint64(_FIELD_AT["src_port"]), np.uint64(_FIELD_AT["ethertype"])
_PARSED_BITS = np.uint64(0xFFFF << 8 * (_FIELD_AT["parsed"] - _FIELD_AT["src_port"]))
_ETHERTYPE_AND_VLAN = np.uint64(0xFFFF << ETHERTYPE_SHIFT | 0xFFF << VLAN_SHIFT)
_LINE_AT = np.uint64(_FIELD_AT["src_hi"] - 8 * SRC_HI)
for _name, _at in (
    ("dst_port", int(_PORTS_AT) + (DPORT_SHIFT - SPORT_SHIFT) // 8),
    ("ip_proto", int(_PORTS_AT) + PROTO_SHIFT // 8),
    ("tcp_flags", int(_PORTS_AT) + TCP_FLAGS_SHIFT // 8),
    ("vlan", int(_ETHERTYPE_AT) + (VLAN_SHIFT - ETHERTYPE_SHIFT) // 8),
    ("src_lo", int(_LINE_AT) + 8 * SRC_LO),
    ("dst_hi", int(_LINE_AT) + 8 * DST_HI),
    ("dst_lo", int(_LINE_AT) + 8 * DST_LO),
    ("src_mac", int(_LINE_AT) + 8 * SRC_MAC),
    ("dst_mac", int(_LINE_AT) + 8 * DST_MAC),
):
    assert _FIELD_AT[_name] == _at, _name


@helper
def key_flags(rec):
    """KEY_* of the packet `rec`: which kinds of rule can match it at all."""
    # without a branch: traffic is mixed, so the predictor could only guess
    parsed = np.uint64(rec["parsed"])
    version_4 = np.uint64(parsed & np.uint64(PARSED_IPV4) != 0)
    ip = np.uint64(parsed & np.uint64(PARSED_IPV4 | PARSED_IPV6) != 0)
    ports = np.uint64(parsed & np.uint64(PARSED_PORTS) != 0)
    tcp = ip & np.uint64(rec["ip_proto"] == _PROTO_TCP) & np.uint64(rec["l4_offset"] != 0)
    return (
        ip * np.uint64(KEY_IP)
        | version_4 * np.uint64(KEY_IPV4)
        | ports * np.uint64(KEY_PORTS)
        | tcp * np.uint64(KEY_TCP)
    )


@helper
def make_key(key, record, rec, out_port, used):
    """Make the key of the packet `rec` that leaves at `out_port`, less the bits no rule uses.

    key, record, used  addresses: of the key, of `rec`, of the bits that rules use

    Returns its hash: key_words.hash_words under a full mask.
    """
    # The record has most fields together as the key has them, see the assertions above.
    l4 = load_u64(record + _PORTS_AT) & ~_PARSED_BITS | (key_flags(rec) << np.uint64(FLAGS_SHIFT))
    l2 = (
        load_u64(record + _ETHERTYPE_AT) & _ETHERTYPE_AND_VLAN
        | (np.uint64(rec["in_port"]) << np.uint64(IN_PORT_SHIFT))
        | (np.uint64(out_port) << np.uint64(OUT_PORT_SHIFT))
    )
    return put_key(key, record + _LINE_AT, l4, l2, used)


@helper
def decide(acl, half, cache, rows):
    """Fill batch_verdicts for the first `rows` keys of the batch."""
    rule_count = acl.head[half, 0]["rule_count"]
    if rule_count < CACHE_RULES_MIN:
        default = np.uint32(acl.head[half, 0]["default_verdict"])
        rules, extras, keys = acl.rows[half], acl.extras[half], cache.batch_keys
        for row in range(rows):
            decision = search_run(rules, extras, keys, row, 0, np.int64(rule_count))
            found = decision != DECISION_NONE
            cache.batch_verdicts[row] = np.uint32(decision & _32_BITS) if found else default
        return
    misses = cache_lookup(cache, rows)
    if misses != 0:
        find_verdicts(acl, half, cache, misses)
        cache_insert(cache, misses)


@helper
def denies(verdict):
    """Whether a verdict word is a DROP."""
    return np.uint32(verdict) >> np.uint32(VERDICT_ACTION_SHIFT) == ACTION_DROP


@helper
def count_hits(hits, verdict, packets, octets):
    """Add `packets` of `octets` together to the counter that `verdict` names."""
    hit = np.int64(np.uint32(verdict) & _HIT_MASK)
    hits[hit, 0] += np.uint64(packets)
    hits[hit, 1] += np.uint64(octets)


@helper
def make_rows(burst, start, end, out_port, used, cache):
    """Make the keys of `packets[start:end]`, one for those in a row that have the same.

    out_port  that they leave by, PORT_NONE at ingress
    used      address of the bits that rules use

    Returns how many; batch_rows has each packet's.
    """
    records, first_key = address_of(burst.meta), address_of(cache.batch_keys)
    hashes, packet_rows = cache.batch_hashes, cache.batch_rows
    rows = np.uint64(0)
    before = _NO_PACKET
    for k in range(start, end):
        packet = np.uint64(burst.packets[k])
        rec = burst.meta[packet]
        if rec["repeats"] == 0 or before + _1 != packet:
            key = first_key + rows * KEY_BYTES
            record = records + packet * _RECORD_BYTES
            key_hash = make_key(key, record, rec, out_port, used)
            # the hash first: it is in a register, and where the next key goes then waits for no memory
            if rows == 0 or key_hash != hashes[rows - _1] or not same_key(key, key - KEY_BYTES):
                hashes[rows] = key_hash
                rows += _1
        packet_rows[k - start] = np.uint16(rows - _1)
        before = packet
    return rows


@kernel
def judge(burst, state, port, count):
    """Drop the packets that this hook's first matching rule, or its default, denies.

    burst  Burst              in parsed fields of meta; in/out packets; out verdict, drop_reason, marks
    state  State, ACL_LAYOUT  tables: this hook's, both halves; private: this worker's VerdictCache
    port   int                 at egress the port they leave by
    count  int                 packets at hand

    Returns packets left. Never raises: a bad packet is a verdict.
    """
    acl, cache, hits = state.tables, state.private, state.counters.hits
    version = load_acquire(acl.active, 0)
    half = np.int64(version & np.uint64(1))
    egress = burst.words[Word.HOOK] == EGRESS
    head = acl.head[half, 0]
    if head["rule_count"] == 0:
        return _default(burst, state, count, np.uint32(head["default_verdict"]))
    cache_follow(cache, version)
    packet_rows, verdicts = cache.batch_rows, cache.batch_verdicts
    marked = burst.words[Word.WANTED] & np.uint64(WANTS_RULE) != 0
    kept = _0
    start = _0
    while start < np.uint64(count):
        end = min(np.uint64(count), start + np.uint64(BATCH_SIZE))
        rows = make_rows(burst, start, end, port if egress else PORT_NONE, address_of(acl.used[half]), cache)
        decide(acl, half, cache, rows)
        if marked:
            mark_rules(burst, start, end, cache)
        row, packets, octets = _0, _0, _0
        for k in range(start, end):
            packet = np.uint64(burst.packets[k])
            if packet_rows[k - start] != row:  # rows come in order, a run of packets each
                count_hits(hits, verdicts[row], packets, octets)
                row, packets, octets = row + _1, _0, _0
            packets += _1
            octets += np.uint64(burst.meta[packet]["frame_len"])
            if denies(verdicts[row]):
                drop(burst, state, packet, DROP_EGRESS if egress else DROP_INGRESS)
            else:
                burst.packets[kept] = packet
                kept += _1
        count_hits(hits, verdicts[row], packets, octets)
        start = end
    return np.int64(kept)


@helper
def mark_rules(burst, start, end, cache):
    """Note which rule decided on `packets[start:end]`: its hit counter, plus 1."""
    for k in range(start, end):
        verdict = np.uint32(cache.batch_verdicts[np.int64(cache.batch_rows[k - start])])
        burst.marks[np.int64(burst.packets[k])]["rule"] = (verdict & _HIT_MASK) + np.uint32(1)


@helper
def _default(burst, state, count, verdict):
    """A hook without rules: the default for every packet."""
    octets = np.uint64(0)
    for k in range(count):
        octets += np.uint64(burst.meta[np.int64(burst.packets[k])]["frame_len"])
    count_hits(state.counters.hits, verdict, count, octets)
    if not denies(verdict):
        return count
    reason = DROP_EGRESS if burst.words[Word.HOOK] == EGRESS else DROP_INGRESS
    for k in range(count):
        drop(burst, state, np.int64(burst.packets[k]), reason)
    return np.int64(0)
