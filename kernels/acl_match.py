"""Find the first matching rule of an ACL stage for a packet key.

Spec: kernels/acl_layout.py (keys, tables).
In:   a key in the cache's batch, one slot of the stage.
Out:  a verdict word: action:1 | hit_slot:31.
Not:  a key is matched as it stands; kernels/filter.py makes keys and acts on verdicts.
"""

import numpy as np

from kernels.acl_layout import (
    DPORT_SHIFT,
    DST_HI,
    DST_L2,
    DST_LO,
    EXTRA_DECISION,
    EXTRA_PORTS,
    KEY_IPV4,
    KEY_WORDS,
    L4,
    MULTIPLIERS,
    PROTO_SHIFT,
    PRUNE_ADDRESS_SHIFT,
    PRUNE_DPORT,
    PRUNE_DST,
    PRUNE_SPORT,
    PRUNE_SRC,
    ROW_WORDS,
    SPORT_SHIFT,
    SRC_HI,
    SRC_LO,
)
from kernels.jit import PYTHON_MODE, helper, primitive
from kernels.key_words import KEY_BYTES, takes_key
from kernels.memory import address_of

if not PYTHON_MODE:
    from llvmlite import ir
    from numba import types

_16_BITS = np.uint64(0xFFFF)
_32_BITS = np.uint64(0xFFFFFFFF)
DECISION_NONE = ~np.uint64(0)  # above every decision, the default's too
_ROW_BYTES = np.uint64(8 * ROW_WORDS)
_DEFAULT_RANK = np.uint64(0xFFFFFFFF << 32)  # behind every rule's


def _py_trailing_zeros(word):
    return (int(word) & -int(word)).bit_length() - 1


@primitive(_py_trailing_zeros)
def trailing_zeros(typingctx, word):
    """Number of the lowest set bit of a uint64 that is not 0, int64."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), codegen


@helper
def hash_key(keys, row, masks, table):
    """Multiply-shift hash of key `row` under mask `table`; good in its upper bits."""
    result = np.uint64(0)
    for word in range(KEY_WORDS):
        result += (keys[row, word] & masks[table, word]) * MULTIPLIERS[word]
    return result


@helper
def possible_tables(prune, prune_class, keys, row):
    """Tables that can hold a match for key `row`, one bit each."""
    l4, l2 = keys[row, L4], keys[row, DST_L2]
    if l2 & np.uint64(KEY_IPV4):
        src, dst = keys[row, SRC_LO], keys[row, DST_LO]
    else:
        src, dst = keys[row, SRC_HI], keys[row, DST_HI]
    shift = np.uint64(PRUNE_ADDRESS_SHIFT)
    proto = (l4 >> np.uint64(PROTO_SHIFT)) & np.uint64(0xFF)
    return (
        prune[PRUNE_SRC, (src >> shift) & _16_BITS]
        & prune[PRUNE_DST, (dst >> shift) & _16_BITS]
        & prune[PRUNE_SPORT, l4 >> np.uint64(SPORT_SHIFT)]
        & prune[PRUNE_DPORT, (l4 >> np.uint64(DPORT_SHIFT)) & _16_BITS]
        & prune_class[(proto << np.uint64(4)) | (l2 & np.uint64(0xF))]
    )


@helper
def ports_match(ports, l4):
    """Whether the port ranges of a rule hold the ports of the key word `l4`."""
    sport, dport = l4 >> np.uint64(SPORT_SHIFT), (l4 >> np.uint64(DPORT_SHIFT)) & _16_BITS
    return (  # & and not `and`: one guess for the branch predictor, not four
        (ports >> np.uint64(48) <= sport)
        & (sport <= (ports >> np.uint64(32)) & _16_BITS)
        & ((ports >> np.uint64(16)) & _16_BITS <= dport)
        & (dport <= ports & _16_BITS)
    )


@helper
def search_run(rows, extras, keys, row, first, count):
    """Decision (rank:32 | verdict:32) of the first of `count` rules from `first` on that takes key `row`.

    Returns DECISION_NONE when no rule does.
    """
    key = address_of(keys) + np.uint64(row) * KEY_BYTES
    rule_row = address_of(rows) + np.uint64(first) * _ROW_BYTES
    for rule in range(first, first + count):
        if takes_key(rule_row, key) and ports_match(extras[rule, EXTRA_PORTS], keys[row, L4]):
            return extras[rule, EXTRA_DECISION]
        rule_row += _ROW_BYTES
    return DECISION_NONE


@helper
def find_verdicts(acl, slot, cache, count):
    """Set batch_verdicts of the first `count` key rows listed in batch_misses.

    The verdict is that of the best-ranked rule that takes the key, or the stage's default.
    """
    masks, tables, buckets = acl.table_masks[slot], acl.tables[slot], acl.buckets[slot]
    rows, extras = acl.rows[slot], acl.extras[slot]
    prune, prune_class = acl.prune[slot], acl.prune_class[slot]
    keys, wanted, possible = cache.batch_keys, cache.batch_misses, cache.batch_tables
    default = np.uint64(acl.head[slot, 0]["default_verdict"])
    for index in range(count):  # apart from the search: without a branch the loads overlap
        possible[index] = possible_tables(prune, prune_class, keys, np.int64(wanted[index]))
    for index in range(count):
        row = np.int64(wanted[index])
        best = _DEFAULT_RANK | default
        left = possible[index]
        while left != 0:
            table = trailing_zeros(left)
            left &= left - np.uint64(1)
            if np.uint64(tables[table]["best_rank"]) > best >> np.uint64(32):
                break
            number = hash_key(keys, row, masks, table) >> np.uint64(tables[table]["shift"])
            bucket = np.int64(tables[table]["first_bucket"]) + np.int64(number)
            run = np.int64(buckets[bucket]["row_count"])
            if run != 0:
                first = np.int64(buckets[bucket]["first_row"])
                best = min(best, search_run(rows, extras, keys, row, first, run))
        cache.batch_verdicts[row] = np.uint32(best & _32_BITS)
