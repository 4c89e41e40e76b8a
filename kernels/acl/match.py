"""Find the first matching rule of an ACL stage for a packet key.

Spec: kernels/acl/layout.py (keys, tables).
In:   a key in the cache's batch, one slot of the stage.
Out:  a verdict word: action:1 | hit:31.
Not:  a key is matched as it stands; kernels/acl/filter.py makes keys and acts on verdicts.
"""

import numpy as np

from dpu_runtime.kernels.acl.key_words import KEY_BYTES, hash_words, takes_key
from dpu_runtime.kernels.acl.layout import (
    DPORT_SHIFT,
    DST_HI,
    DST_LO,
    EXTRA_DECISION,
    EXTRA_SPANS,
    FLAGS_SHIFT,
    KEY_IPV4,
    L4,
    PRUNE_ADDRESS_SHIFT,
    PRUNE_CLASSES,
    PRUNE_DPORT,
    PRUNE_DST,
    PRUNE_SPORT,
    PRUNE_SRC,
    ROW_WORDS,
    SPORT_SHIFT,
    SRC_HI,
    SRC_LO,
)
from dpu_runtime.kernels.compile.jit import PYTHON_MODE, helper, primitive
from dpu_runtime.kernels.layout import BATCH_SIZE
from dpu_runtime.kernels.octets.memory import address_of

if not PYTHON_MODE:
    from llvmlite import ir
    from numba import types

_1 = np.uint64(1)
_16_BITS = np.uint64(0xFFFF)
_32_BITS = np.uint64(0xFFFFFFFF)
DECISION_NONE = ~np.uint64(0)  # above every decision, the default's too
_ROW_BYTES = np.uint64(8 * ROW_WORDS)
PAIRS_A_RUN = 4  # rules; most tables have no longer runs, acl_tuples.BUCKET_LIMITS
PAIRS_MAX = PAIRS_A_RUN * BATCH_SIZE + PAIRS_A_RUN  # entries are written before they are counted
_TOP_BIT = np.uint64(1 << 63)  # with it there is a lowest set bit
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
def possible_tables(prune, prune_class, fields, keys, row):
    """Tables that can hold a match for key `row`, one bit each; `fields` are the prune fields to ask."""
    l4 = keys[row, L4]
    found = prune_class[(l4 >> np.uint64(FLAGS_SHIFT)) & np.uint64(PRUNE_CLASSES - 1)]
    version_4 = l4 & np.uint64(KEY_IPV4 << FLAGS_SHIFT) != 0
    if fields & np.uint32(1 << PRUNE_SRC):
        found &= prune[PRUNE_SRC, prune_bits(keys, row, version_4, SRC_HI, SRC_LO)]
    if fields & np.uint32(1 << PRUNE_DST):
        found &= prune[PRUNE_DST, prune_bits(keys, row, version_4, DST_HI, DST_LO)]
    if fields & np.uint32(1 << PRUNE_SPORT):
        found &= prune[PRUNE_SPORT, (l4 >> np.uint64(SPORT_SHIFT)) & _16_BITS]
    if fields & np.uint32(1 << PRUNE_DPORT):
        found &= prune[PRUNE_DPORT, (l4 >> np.uint64(DPORT_SHIFT)) & _16_BITS]
    return found


@helper
def prune_bits(keys, row, version_4, high, low):
    """The 16 bits of an address, in words `high` and `low` of key `row`, that its prune table goes by."""
    word = keys[row, low] if version_4 else keys[row, high]
    return (word >> np.uint64(PRUNE_ADDRESS_SHIFT)) & _16_BITS


@helper
def search_run(rows, extras, keys, row, first, count):
    """Decision (rank:32 | verdict:32) of the first of `count` rules from `first` on that takes key `row`.

    Returns DECISION_NONE when no rule does.
    """
    key = address_of(keys) + np.uint64(row) * KEY_BYTES
    rule_row = address_of(rows) + np.uint64(first) * _ROW_BYTES
    for rule in range(first, first + count):
        if takes_key(rule_row, key, extras[rule, EXTRA_SPANS]):
            return extras[rule, EXTRA_DECISION]
        rule_row += _ROW_BYTES
    return DECISION_NONE


@helper
def list_open(acl, slot, cache, count):
    """List in batch_open those of the first `count` rows of batch_misses that some table can match.

    Returns how many there are; batch_best is the default for all.
    """
    prune, prune_class, fields = acl.prune[slot], acl.prune_class[slot], acl.head[slot, 0]["prune_fields"]
    keys, wanted, rows = cache.batch_keys, cache.batch_misses, cache.batch_open
    possible, best = cache.batch_tables, cache.batch_best
    default = _DEFAULT_RANK | np.uint64(acl.head[slot, 0]["default_verdict"])
    opened = np.uint64(0)
    for index in range(np.uint64(count)):
        row = np.uint64(wanted[index])
        found = possible_tables(prune, prune_class, fields, keys, row)
        possible[row], best[row] = found, default
        rows[opened] = np.uint16(row)
        opened += np.uint64(found != 0)
    return opened


@helper
def list_rules(acl, slot, cache, opened):
    """List the rules that the next table has for each of the first `opened` rows of batch_open.

    Entries of batch_pairs are row:32 | rule:32. Runs of more than PAIRS_A_RUN rules are searched at once.

    Returns how many entries there are.
    """
    tables, buckets = acl.tables[slot], acl.buckets[slot]
    rows, possible, pairs, best = cache.batch_open, cache.batch_tables, cache.batch_pairs, cache.batch_best
    keys, masks = address_of(cache.batch_keys), address_of(acl.table_masks[slot])
    count, index = np.uint64(0), np.uint64(0)
    while index < opened:  # LLVM makes more of it than of a range() with branches inside
        row = np.uint64(rows[index])
        index += _1
        table = np.uint64(trailing_zeros(possible[row]))
        possible[row] &= possible[row] - _1
        key_hash = hash_words(keys + row * KEY_BYTES, masks + table * KEY_BYTES)
        number = key_hash >> np.uint64(tables[table]["shift"])
        bucket = buckets[np.uint64(tables[table]["first_bucket"]) + number]
        first, run = np.uint64(bucket["first_row"]), np.uint64(bucket["row_count"])
        if run > np.uint64(PAIRS_A_RUN):
            found = search_run(acl.rows[slot], acl.extras[slot], cache.batch_keys, row, first, run)
            best[row] = min(best[row], found)
            continue
        pair = (row << np.uint64(32)) | first
        for rule in range(np.uint64(PAIRS_A_RUN)):  # all are written and `run` counted: nothing to guess
            pairs[count + rule] = pair + rule
        count += run
    return count


@helper
def judge_rules(acl, slot, cache, count):
    """Lower batch_best to the decision of each of the first `count` entries of batch_pairs that matches."""
    extras, rows = acl.extras[slot], address_of(acl.rows[slot])
    first_key, pairs, best = address_of(cache.batch_keys), cache.batch_pairs, cache.batch_best
    for index in range(count):
        row, rule = pairs[index] >> np.uint64(32), pairs[index] & _32_BITS
        key, rule_row = first_key + row * KEY_BYTES, rows + rule * _ROW_BYTES
        unlike = np.uint64(takes_key(rule_row, key, extras[rule, EXTRA_SPANS])) - _1  # 0, or all bits set
        best[row] = min(best[row], extras[rule, EXTRA_DECISION] | unlike)


@helper
def keep_open(acl, slot, cache, opened):
    """Keep those of the first `opened` rows of batch_open that a table left may have a better rule for.

    Returns how many stay.
    """
    tables = acl.tables[slot]
    rows, possible, best = cache.batch_open, cache.batch_tables, cache.batch_best
    stay = np.uint64(0)
    for index in range(opened):
        row = np.uint64(rows[index])
        left = possible[row]
        table = np.uint64(trailing_zeros(left | _TOP_BIT))
        better = np.uint64(tables[table]["best_rank"]) <= best[row] >> np.uint64(32)
        rows[stay] = np.uint16(row)
        stay += np.uint64((left != 0) & better)
    return stay


@helper
def find_verdicts(acl, slot, cache, count):
    """Set batch_verdicts of the first `count` key rows listed in batch_misses.

    The verdict is that of the best-ranked rule that takes the key, or the stage's default. All keys take
    each step together. Which table or rule a key ends at cannot be predicted, so a search key by key waits
    for memory and for wrong guesses; here what differs between keys is how far a list grows.
    """
    opened = list_open(acl, slot, cache, count)
    while opened != 0:
        judge_rules(acl, slot, cache, list_rules(acl, slot, cache, opened))
        opened = keep_open(acl, slot, cache, opened)
    wanted, best, verdicts = cache.batch_misses, cache.batch_best, cache.batch_verdicts
    for index in range(np.uint64(count)):
        row = np.uint64(wanted[index])
        verdicts[row] = np.uint32(best[row] & _32_BITS)
