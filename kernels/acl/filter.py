"""ACL filter: drop what a stage's first matching rule, or its default, denies.

Spec: kernels/acl/layout.py (stages), kernels/acl/rule.py (what a rule matches).
In:   every parsed field of meta, in_port, vlan, frame_len; the egress port of each copy.
Out:  ingress: verdict, drop_reason. egress: the list of copies. Both: hits, drops.
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
from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import (
    BATCH_SIZE,
    META_DTYPE,
    PARSED_IPV4,
    PARSED_IPV6,
    PARSED_PORTS,
    PORT_NONE,
    VERDICT_DROP,
    VERDICT_PASS,
)
from dpu_runtime.kernels.octets.memory import address_of, load_acquire, load_u64

CACHE_RULES_MIN = 4  # fewer rules are compared one by one: as fast for known flows, far faster for new ones
_DROP_INGRESS = int(Drop.ACL_INGRESS)
_DROP_EGRESS = int(Drop.ACL_EGRESS)
_PROTO_TCP = 6
_1 = np.uint64(1)
_32_BITS = np.uint64(0xFFFFFFFF)
_SLOT_MASK = np.uint32((1 << VERDICT_ACTION_SHIFT) - 1)

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
def decide(acl, slot, cache, rows):
    """Fill batch_verdicts for the first `rows` keys of the batch."""
    rule_count = acl.head[slot, 0]["rule_count"]
    if rule_count < CACHE_RULES_MIN:
        default = np.uint32(acl.head[slot, 0]["default_verdict"])
        rules, extras, keys = acl.rows[slot], acl.extras[slot], cache.batch_keys
        for row in range(rows):
            decision = search_run(rules, extras, keys, row, 0, np.int64(rule_count))
            found = decision != DECISION_NONE
            cache.batch_verdicts[row] = np.uint32(decision & _32_BITS) if found else default
        return
    misses = cache_lookup(cache, rows)
    if misses != 0:
        find_verdicts(acl, slot, cache, misses)
        cache_insert(cache, misses)


@helper
def denies(verdict):
    """Whether a verdict word is a DROP."""
    return np.uint32(verdict) >> np.uint32(VERDICT_ACTION_SHIFT) == ACTION_DROP


@helper
def count_hits(hits, verdict, packets, octets):
    """Add `packets` of `octets` together to the counter that `verdict` names."""
    slot = np.int64(np.uint32(verdict) & _SLOT_MASK)
    hits[slot, 0] += np.uint64(packets)
    hits[slot, 1] += np.uint64(octets)


@helper
def make_rows(meta, start, end, used, cache):
    """Make the keys of the packets `start` to `end` that pass, one for those in a row that have the same.

    used  address of the bits that rules use

    Returns how many; batch_rows has each packet's.
    """
    records, first_key = address_of(meta), address_of(cache.batch_keys)
    hashes, packet_rows = cache.batch_hashes, cache.batch_rows
    rows = np.uint64(0)
    before = start - 2
    for packet in range(start, end):
        rec = meta[packet]
        if rec["verdict"] != VERDICT_PASS:
            continue
        if rec["repeats"] == 0 or before != packet - 1:
            key = first_key + rows * KEY_BYTES
            record = records + np.uint64(packet) * _RECORD_BYTES
            key_hash = make_key(key, record, rec, PORT_NONE, used)
            # the hash first: it is in a register, and where the next key goes then waits for no memory
            if rows == 0 or key_hash != hashes[rows - _1] or not same_key(key, key - KEY_BYTES):
                hashes[rows] = key_hash
                rows += _1
        packet_rows[packet - start] = np.uint16(rows - _1)
        before = packet
    return rows


@kernel
def filter_ingress(headers, meta, count, acl, cache, hits, drops):
    """Drop the packets that the ingress stage denies.

    headers  uint8[n, ROW_BYTES]        not read
    meta     META_DTYPE[n]              in parsed fields, in/out verdict, out drop_reason
    count    int, 0 <= count <= n       packets in the batch
    acl      Acl                        the stage, both slots
    cache    VerdictCache               in/out, this worker's for this stage
    hits     uint64[HIT_SLOTS, 2]       in/out, packets and octets of each rule, added to
    drops    uint64[DROP_REASON_COUNT]  in/out, packets, added to

    Returns packets whose verdict is still PASS. Never raises: a bad packet is a verdict.
    """
    version = load_acquire(acl.active, 0)
    slot = np.int64(version & np.uint64(1))
    head = acl.head[slot, 0]
    if head["rule_count"] == 0:
        return _default_ingress(meta, count, np.uint32(head["default_verdict"]), hits, drops)
    cache_follow(cache, version)
    packet_rows, verdicts = cache.batch_rows, cache.batch_verdicts
    passed = 0
    denied = 0
    start = 0
    while start < count:
        end = min(count, start + BATCH_SIZE)
        rows = make_rows(meta, start, end, address_of(acl.used[slot]), cache)
        decide(acl, slot, cache, rows)
        row, packets, octets = 0, 0, np.uint64(0)
        for packet in range(start, end):
            rec = meta[packet]
            if rec["verdict"] != VERDICT_PASS:
                continue
            if packet_rows[packet - start] != row:  # rows come in order, a run of packets each
                count_hits(hits, verdicts[row], packets, octets)
                row, packets, octets = row + 1, 0, np.uint64(0)
            packets += 1
            octets += np.uint64(rec["frame_len"])
            if denies(verdicts[row]):
                rec["verdict"] = VERDICT_DROP
                rec["drop_reason"] = _DROP_INGRESS
                denied += 1
            else:
                passed += 1
        if packets != 0:
            count_hits(hits, verdicts[row], packets, octets)
        start = end
    drops[_DROP_INGRESS] += np.uint64(denied)
    return passed


@helper
def _default_ingress(meta, count, verdict, hits, drops):
    """A stage without rules: the default for every packet."""
    packets = 0
    octets = np.uint64(0)
    for packet in range(count):
        if meta[packet]["verdict"] == VERDICT_PASS:
            packets += 1
            octets += np.uint64(meta[packet]["frame_len"])
            if denies(verdict):
                meta[packet]["verdict"] = VERDICT_DROP
                meta[packet]["drop_reason"] = _DROP_INGRESS
    count_hits(hits, verdict, packets, octets)
    if denies(verdict):
        drops[_DROP_INGRESS] += np.uint64(packets)
        return 0
    return packets


@kernel
def filter_egress(meta, out_packet, out_port, count, acl, cache, hits, drops):
    """Remove the copies that the egress stage denies; order is kept.

    meta        META_DTYPE[n]              in parsed fields; verdicts stay, another copy may pass
    out_packet  uint16[m]                  in/out, index into meta
    out_port    uint16[m]                  in/out, port that this copy leaves at
    count       int, 0 <= count <= m       copies
    acl, cache, hits, drops                as in filter_ingress, for the egress stage

    Returns copies left.
    """
    version = load_acquire(acl.active, 0)
    slot = np.int64(version & np.uint64(1))
    head = acl.head[slot, 0]
    if head["rule_count"] == 0:
        return _default_egress(meta, out_packet, count, np.uint32(head["default_verdict"]), hits, drops)
    cache_follow(cache, version)
    hashes, verdicts = cache.batch_hashes, cache.batch_verdicts
    records, used, keys = address_of(meta), address_of(acl.used[slot]), address_of(cache.batch_keys)
    kept = 0
    start = 0
    while start < count:
        copies = min(count - start, BATCH_SIZE)
        for row in range(copies):
            packet, port = np.int64(out_packet[start + row]), out_port[start + row]
            key, record = keys + np.uint64(row) * KEY_BYTES, records + np.uint64(packet) * _RECORD_BYTES
            hashes[row] = make_key(key, record, meta[packet], port, used)
        decide(acl, slot, cache, np.uint64(copies))
        for row in range(copies):
            packet, port = out_packet[start + row], out_port[start + row]
            count_hits(hits, verdicts[row], 1, meta[np.int64(packet)]["frame_len"])
            if not denies(verdicts[row]):
                out_packet[kept], out_port[kept] = packet, port
                kept += 1
        start += copies
    drops[_DROP_EGRESS] += np.uint64(count - kept)
    return kept


@helper
def _default_egress(meta, out_packet, count, verdict, hits, drops):
    """A stage without rules: the default for every copy."""
    octets = np.uint64(0)
    for copy in range(count):
        octets += np.uint64(meta[np.int64(out_packet[copy])]["frame_len"])
    count_hits(hits, verdict, count, octets)
    if denies(verdict):
        drops[_DROP_EGRESS] += np.uint64(count)
        return 0
    return count
