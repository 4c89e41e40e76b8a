"""ACL filter: drop what a stage's first matching rule, or its default, denies.

Spec: kernels/acl_layout.py (stages), kernels/acl_rule.py (what a rule matches).
In:   every parsed field of meta, in_port, vlan, frame_len; the egress port of each copy.
Out:  ingress: verdict, drop_reason. egress: the list of copies. Both: hits, drops.
Not:  connection state.
"""

import numpy as np

from kernels.acl_layout import (
    ACTION_DROP,
    DPORT_SHIFT,
    DST_HI,
    DST_L2,
    DST_LO,
    EGRESS,
    KEY_IP,
    KEY_IPV4,
    KEY_PORTS,
    KEY_TCP,
    L4,
    MAC_SHIFT,
    MULTIPLIERS,
    PROTO_SHIFT,
    SPORT_SHIFT,
    SRC_HI,
    SRC_L2,
    SRC_LO,
    TCP_FLAGS_SHIFT,
    VERDICT_ACTION_SHIFT,
    VLAN_SHIFT,
)
from kernels.acl_match import DECISION_NONE, find_verdicts, search_run
from kernels.drops import Drop
from kernels.jit import helper, kernel
from kernels.layout import (
    BATCH_SIZE,
    PARSED_IPV4,
    PARSED_IPV6,
    PARSED_PORTS,
    PORT_NONE,
    VERDICT_DROP,
    VERDICT_PASS,
)
from kernels.memory import address_of, load_acquire, prefetch
from kernels.repeat import same_flow
from kernels.verdict_cache import (
    CACHE_SHIFT,
    SET_WORDS,
    cache_follow,
    cache_insert,
    cache_lookup,
)

CACHE_RULES_MIN = 4  # fewer rules are compared one by one: as fast for known flows, far faster for new ones
_DROP_INGRESS = int(Drop.ACL_INGRESS)
_DROP_EGRESS = int(Drop.ACL_EGRESS)
_PROTO_TCP = 6
_32_BITS = np.uint64(0xFFFFFFFF)
_SLOT_MASK = np.uint32((1 << VERDICT_ACTION_SHIFT) - 1)
_SET_BYTES = np.uint64(8 * SET_WORDS)


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
def put_word(keys, row, word, value, used):
    """Store the used bits of one key word; returns its share of the key's hash."""
    kept = value & used[word]
    keys[row, word] = kept
    return kept * MULTIPLIERS[word]


@helper
def make_key(keys, row, rec, out_port, used):
    """Make key `row` of the packet `rec` that leaves at `out_port`, less the bits no rule uses.

    Returns its hash: acl_match.hash_key under a full mask, out of registers.
    """
    l4 = (
        (np.uint64(rec["src_port"]) << np.uint64(SPORT_SHIFT))
        | (np.uint64(rec["dst_port"]) << np.uint64(DPORT_SHIFT))
        | (np.uint64(rec["ip_proto"]) << np.uint64(PROTO_SHIFT))
        | (np.uint64(rec["tcp_flags"]) << np.uint64(TCP_FLAGS_SHIFT))
        | np.uint64(rec["in_port"])
    )
    src_l2 = (np.uint64(rec["src_mac"]) << np.uint64(MAC_SHIFT)) | np.uint64(rec["ethertype"])
    vlan = (np.uint64(rec["vlan"]) & np.uint64(0xFFF)) << np.uint64(VLAN_SHIFT)
    dst_l2 = (np.uint64(rec["dst_mac"]) << np.uint64(MAC_SHIFT)) | vlan | key_flags(rec)
    return (
        put_word(keys, row, SRC_HI, rec["src_hi"], used)
        + put_word(keys, row, SRC_LO, rec["src_lo"], used)
        + put_word(keys, row, DST_HI, rec["dst_hi"], used)
        + put_word(keys, row, DST_LO, rec["dst_lo"], used)
        + put_word(keys, row, L4, l4, used)
        + put_word(keys, row, SRC_L2, src_l2, used)
        + put_word(keys, row, DST_L2, dst_l2, used)
        + put_word(keys, row, EGRESS, np.uint64(out_port), used)
    )


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
    used, keys, hashes, sets = acl.used[slot], cache.batch_keys, cache.batch_hashes, address_of(cache.sets)
    packet_rows, verdicts = cache.batch_rows, cache.batch_verdicts
    records = address_of(meta)
    passed = 0
    denied = 0
    start = 0
    while start < count:
        end = min(count, start + BATCH_SIZE)
        rows = 0
        before = start
        for packet in range(start, end):
            rec = meta[packet]
            if rec["verdict"] == VERDICT_PASS:
                if rows == 0 or not same_flow(records, packet, before):
                    hashes[rows] = make_key(keys, np.uint64(rows), rec, PORT_NONE, used)
                    prefetch(sets + (hashes[rows] >> CACHE_SHIFT) * _SET_BYTES)
                    rows += 1
                packet_rows[packet - start] = np.uint16(rows - 1)
                before = packet
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
    used, keys, hashes, sets = acl.used[slot], cache.batch_keys, cache.batch_hashes, address_of(cache.sets)
    verdicts = cache.batch_verdicts
    kept = 0
    start = 0
    while start < count:
        rows = min(count - start, BATCH_SIZE)
        for row in range(rows):
            rec = meta[np.int64(out_packet[start + row])]
            hashes[row] = make_key(keys, np.uint64(row), rec, out_port[start + row], used)
            prefetch(sets + (hashes[row] >> CACHE_SHIFT) * _SET_BYTES)
        decide(acl, slot, cache, rows)
        for row in range(rows):
            packet, port = out_packet[start + row], out_port[start + row]
            count_hits(hits, verdicts[row], 1, meta[np.int64(packet)]["frame_len"])
            if not denies(verdicts[row]):
                out_packet[kept], out_port[kept] = packet, port
                kept += 1
        start += rows
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
