"""Build an ACL stage from its rules and write it into shared memory.

Spec: kernels/acl/layout.py (arrays), kernels/acl/rule.py (AclRule).
In:   rules of one stage, in configuration order; its default action.
Out:  AclStage, then the inactive half of the stage's arrays.
Not:  waiting until no worker reads the old half: the caller does that before it writes again.

    stage = build_stage(rules, ACTION_ALLOW, default_hit)
    write_stage(inactive_half(acl), stage)
    publish(acl)
"""

from dataclasses import dataclass

import numpy as np

from dpu_runtime.kernels.acl.layout import (
    ACTION_ALLOW,
    ACTION_DROP,
    BUCKET_DTYPE,
    DPORT_SHIFT,
    DST_HI,
    DST_LO,
    EXTRA_DECISION,
    EXTRA_SPANS,
    EXTRA_WORDS,
    FLAGS_SHIFT,
    HEAD_DTYPE,
    HITS_MAX,
    KEY_IPV4,
    KEY_WORDS,
    L4,
    PROTO_SHIFT,
    PRUNE_ADDRESS_SHIFT,
    PRUNE_CLASSES,
    PRUNE_DPORT,
    PRUNE_DST,
    PRUNE_FIELDS,
    PRUNE_SPORT,
    PRUNE_SRC,
    SPORT_SHIFT,
    SRC_HI,
    SRC_LO,
    TABLE_DTYPE,
    VERDICT_ACTION_SHIFT,
    Acl,
)
from dpu_runtime.kernels.acl.rule import AclRule, encode_rules
from dpu_runtime.kernels.acl.tuples import choose_tables, hash_keys

__all__ = ["AclRule", "AclStage", "build_stage", "inactive_half", "publish", "write_stage"]

_16_BITS = np.uint64(0xFFFF)
_PORT_BITS = np.uint64(0xFFFF << SPORT_SHIFT | 0xFFFF << DPORT_SHIFT)


@dataclass(slots=True)
class AclStage:
    """One version of a stage; each array is the used front of its namesake in ACL_LAYOUT."""

    head: np.ndarray  # HEAD_DTYPE[1]
    used: np.ndarray
    table_masks: np.ndarray
    tables: np.ndarray
    prune: np.ndarray
    prune_class: np.ndarray
    buckets: np.ndarray
    rows: np.ndarray
    extras: np.ndarray


def build_stage(rules, default_action, default_hit=0):
    """Build the arrays of one stage.

    rules             list of AclRule; descending priority, the earlier of equals first
    default_action    ACTION_ALLOW or ACTION_DROP, for packets no rule matches
    default_hit       their counter in hits[HITS_MAX]

    Raises ValueError when there are too many rules or a field is out of bounds.
    """
    if default_action not in (ACTION_ALLOW, ACTION_DROP):
        raise ValueError(f"default action {default_action!r} is not {ACTION_ALLOW} or {ACTION_DROP}")
    if not 0 <= default_hit < HITS_MAX:
        raise ValueError(f"default hit counter {default_hit!r} is not from 0 to {HITS_MAX - 1}")
    encoded = encode_rules(rules)
    ranks = _live_ranks(encoded)
    values, masks, ports = encoded.values[ranks], encoded.masks[ranks], encoded.ports[ranks]
    table_masks, table_of = choose_tables(values, masks)
    table_masks, table_of = _in_rank_order(table_masks, table_of)
    tables, buckets, order = _fill_tables(values, table_masks, table_of)

    head = np.zeros(1, HEAD_DTYPE)
    head["rule_count"], head["table_count"] = len(ranks), len(table_masks)
    head["default_verdict"] = default_action << VERDICT_ACTION_SHIFT | default_hit
    prune, prune_class = _prune_index(values, masks, ports, table_of)
    head["prune_fields"] = _prunes(prune, len(table_masks)) @ (1 << np.arange(PRUNE_FIELDS))
    verdicts = encoded.actions[ranks] << VERDICT_ACTION_SHIFT | encoded.hits[ranks]
    extras = np.empty((len(ranks), EXTRA_WORDS), np.uint64)
    extras[:, EXTRA_SPANS] = _port_bits(ports[order, 1::2] - ports[order, ::2])
    extras[:, EXTRA_DECISION] = order.astype(np.uint64) << np.uint64(32) | verdicts[order].astype(np.uint64)
    rows = np.concatenate([values, masks], axis=1)[order]
    rows[:, L4] = rows[:, L4] & ~_PORT_BITS | _port_bits(ports[order, ::2])
    rows[:, KEY_WORDS + L4] |= _PORT_BITS
    return AclStage(
        head, _used_bits(masks, ports), table_masks, tables, prune, prune_class, buckets, rows, extras
    )


def inactive_half(acl):
    """Acl of views of the half that no worker reads once all have passed the last publish()."""
    half = 1 - (int(acl.active[0]) & 1)
    return Acl(acl.active, *(array[half] for array in acl[1:]))


def write_stage(half, stage):
    """Copy `stage` into the views that inactive_half() gave."""
    for name in AclStage.__slots__:
        source = getattr(stage, name)
        getattr(half, name)[tuple(slice(size) for size in source.shape)] = source


def publish(acl):
    """Put the inactive half in force and return the new version; workers follow at their next burst.

    One aligned 8-octet store behind the others: stores are not reordered on x86-64.
    """
    acl.active[0] += np.uint64(1)
    return int(acl.active[0])


def _port_bits(pairs):
    """Pairs of a number a source and a destination port, int64[n, 2], as they lie in word L4."""
    return pairs.astype(np.uint64) @ (np.uint64(1) << np.array([SPORT_SHIFT, DPORT_SHIFT], np.uint64))


def _live_ranks(encoded):
    """Ranks of rules that a packet can reach: not equal to an earlier one, nor behind a match-all."""
    count = len(encoded.masks)
    everything = ~encoded.masks.any(axis=1) & (encoded.ports == (0, 65535, 0, 65535)).all(axis=1)
    if everything.any():
        count = int(np.argmax(everything)) + 1
    matches = np.concatenate(
        [encoded.values[:count], encoded.masks[:count], encoded.ports[:count].astype(np.uint64)], axis=1
    )
    _, first = np.unique(
        matches.view(np.dtype((np.void, matches.itemsize * matches.shape[1]))), return_index=True
    )
    return np.sort(first)


def _used_bits(masks, ports):
    """Key bits that decide anything; packets equal in them share a verdict."""
    used = np.bitwise_or.reduce(masks, axis=0)
    for pair, shift in ((0, SPORT_SHIFT), (2, DPORT_SHIFT)):
        if (ports[:, pair : pair + 2] != (0, 65535)).any():
            used[L4] |= _16_BITS << np.uint64(shift)
    return used


def _in_rank_order(table_masks, table_of):
    """Renumber tables in ascending order of their best rank, so that a search can stop early."""
    _, first = np.unique(table_of, return_index=True)
    order = np.argsort(first)
    new_number = np.empty(len(order), np.int64)
    new_number[order] = np.arange(len(order))
    return table_masks[order], new_number[table_of]


def _fill_tables(values, table_masks, table_of):
    """Place the rules in buckets. Returns (tables, buckets, ranks in row order)."""
    tables = np.zeros(len(table_masks), TABLE_DTYPE)
    bucket_of = np.zeros(len(values), np.int64)
    bucket_count = 0
    for number, mask in enumerate(table_masks):
        ranks = np.flatnonzero(table_of == number)
        bits = (2 * len(ranks) - 1).bit_length() if mask.any() else 1
        tables[number] = (bucket_count, ranks[0], 64 - bits, len(ranks))
        bucket_of[ranks] = bucket_count + (hash_keys(values[ranks], mask) >> np.uint64(64 - bits)).astype(
            np.int64
        )
        bucket_count += 1 << bits
    buckets = np.zeros(bucket_count, BUCKET_DTYPE)
    counts = np.bincount(bucket_of, minlength=bucket_count)
    buckets["row_count"] = counts
    buckets["first_row"] = np.cumsum(counts) - counts
    return tables, buckets, np.argsort(bucket_of, kind="stable")


def _prune_index(values, masks, ports, table_of):
    """prune and prune_class of acl_layout: a table's bit is set wherever one of its rules can match."""
    bits = np.uint64(1) << table_of.astype(np.uint64)
    prune = np.zeros((PRUNE_FIELDS, 1 << 16), np.uint64)
    version_4 = masks[:, L4] & values[:, L4] & np.uint64(KEY_IPV4 << FLAGS_SHIFT) != 0
    for field, high, low in ((PRUNE_SRC, SRC_HI, SRC_LO), (PRUNE_DST, DST_HI, DST_LO)):
        value, mask = (
            (np.where(version_4, words[:, low], words[:, high]) >> np.uint64(PRUNE_ADDRESS_SHIFT) & _16_BITS)
            for words in (values, masks)
        )
        free = (~mask & _16_BITS).astype(np.int64)  # all bits from the first free one down count as free
        for shift in (1, 2, 4, 8):
            free |= free >> shift
        first = value.astype(np.int64) & ~free
        prune[field] = _tables_by_range(first, first | free, bits)
    prune[PRUNE_SPORT] = _tables_by_range(ports[:, 0], ports[:, 1], bits)
    prune[PRUNE_DPORT] = _tables_by_range(ports[:, 2], ports[:, 3], bits)
    return prune, _tables_by_class(values, masks, bits)


def _prunes(prune, table_count):
    """Whether each field of `prune` leaves any table out for any value, bool[PRUNE_FIELDS]."""
    everything = np.uint64((1 << table_count) - 1)
    return (prune != everything).any(axis=1)


def _tables_by_range(first, last, bits):
    """OR of `bits` of all ranges that hold a number, for each 16-bit number.

    Each range is cut into aligned powers of two, those are collected a level a size, and each level is
    handed down to the next.
    """
    levels = [np.zeros(1 << depth, np.uint64) for depth in range(17)]
    for level in reversed(levels):
        odd = first & 1 == 1
        np.bitwise_or.at(level, first[odd], bits[odd])
        first = first + odd
        even = (first <= last) & (last & 1 == 0)
        np.bitwise_or.at(level, last[even], bits[even])
        last = last - even
        going = first <= last
        first, last, bits = first[going] >> 1, last[going] >> 1, bits[going]
    result = levels[0]
    for level in levels[1:]:
        result = np.repeat(result, 2) | level
    return result


def _tables_by_class(values, masks, bits):
    """OR of `bits` of all rules that take a class, for each proto:8 | flags:4."""
    any_proto = 256
    proto_shift = np.uint64(PROTO_SHIFT)
    proto = np.where(
        masks[:, L4] >> proto_shift & np.uint64(0xFF),
        values[:, L4] >> proto_shift & np.uint64(0xFF),
        any_proto,
    ).astype(np.int64)
    flags, flag_mask = (
        (words[:, L4] >> np.uint64(FLAGS_SHIFT) & np.uint64(0xF)).astype(np.int64)
        for words in (values, masks)
    )
    collected = np.zeros((16, 16, any_proto + 1), np.uint64)
    np.bitwise_or.at(collected, (flag_mask, flags, proto), bits)
    result = np.zeros((256, 16), np.uint64)
    for mask, value in np.argwhere(collected.any(axis=2)):
        by_proto = collected[mask, value, :any_proto] | collected[mask, value, any_proto]
        result[:, np.arange(16) & mask == value] |= by_proto[:, None]
    return result.reshape(PRUNE_CLASSES)
