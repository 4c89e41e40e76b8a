"""Exact-match cache of ACL verdicts, private to one worker and one stage.

In:   a packet key reduced to the bits that any rule of the stage looks at, and its hash.
Out:  the verdict word that a walk over the rules gave before, under the same version of the stage.
Not:  shared: a lookup writes.

Set-associative: a set is one cache line of CACHE_WAYS tags and verdicts, and as many lines of keys.
A tag holds hash bits and a generation, which moves with the stage's version and so empties the cache.
Keys are compared in full, so a hash collision is a miss and never a wrong verdict.

When most of a batch is missed, there are more flows than entries, or all are new. Then one miss in
ADMIT_ONE_IN is remembered, in turn (BIP of Qureshi et al., "Adaptive Insertion Policies", ISCA 2007): entries
that would be overwritten before they are asked for are not written, and some stay until they are of use. New
flows of a number that fits are all there after as many batches.
"""

from collections import namedtuple

import numpy as np

from kernels.acl_layout import KEY_WORDS, aligned_zeros
from kernels.jit import helper
from kernels.key_words import KEY_BYTES, same_key
from kernels.layout import BATCH_SIZE
from kernels.memory import address_of

CACHE_SETS = 4096  # a power of two
CACHE_WAYS = 4
SET_WORDS = 2 * CACHE_WAYS
CACHE_SHIFT = np.uint64(64 - (CACHE_SETS.bit_length() - 1))  # hash >> CACHE_SHIFT is the set
ADMIT_ONE_IN = 8  # misses, when more than half of a batch are
ADMIT_ALL_MAX = 8  # misses of a batch that are remembered in any case
GENERATION_BITS = 24  # of a tag; the other 40 are the hash below the set number
_GENERATION_MASK = np.uint64((1 << GENERATION_BITS) - 1)
_SET_BITS = np.uint64(CACHE_SETS.bit_length() - 1)

# state words
STATE_VERSION = 0  # of the stage that the entries belong to
STATE_GENERATION = 1  # 1..2**GENERATION_BITS - 1; 0 marks an entry never used
STATE_HITS = 2  # lookups answered
STATE_MISSES = 3
STATE_VICTIM = 4  # way to replace next, modulo CACHE_WAYS
STATE_ROWS = 5  # keys of the latest batch
STATE_TURN = 6  # which of its misses are remembered when not all are, modulo ADMIT_ONE_IN
STATE_WORDS = 8

VerdictCache = namedtuple(
    "VerdictCache",
    [
        "state",  # uint64[STATE_WORDS]
        "sets",  # uint64[CACHE_SETS, SET_WORDS]: tags, then verdicts
        "keys",  # uint64[CACHE_SETS, CACHE_WAYS, KEY_WORDS]
        # scratch of one batch
        "batch_keys",  # uint64[BATCH_SIZE, KEY_WORDS]
        "batch_hashes",  # uint64[BATCH_SIZE]
        "batch_tables",  # uint64[BATCH_SIZE], of each miss the tables that can match
        "batch_rows",  # uint16[BATCH_SIZE], row of each packet's key
        "batch_misses",  # uint16[BATCH_SIZE], key rows to look up in the stage
        "batch_verdicts",  # uint32[BATCH_SIZE]
    ],
)


def new_verdict_cache():
    """Empty cache for one worker and stage, about 1.2 MB."""
    return VerdictCache(
        np.zeros(STATE_WORDS, np.uint64),
        aligned_zeros((CACHE_SETS, SET_WORDS), np.uint64),
        aligned_zeros((CACHE_SETS, CACHE_WAYS, KEY_WORDS), np.uint64),
        aligned_zeros((BATCH_SIZE, KEY_WORDS), np.uint64),
        np.zeros(BATCH_SIZE, np.uint64),
        np.zeros(BATCH_SIZE, np.uint64),
        np.zeros(BATCH_SIZE, np.uint16),
        np.zeros(BATCH_SIZE, np.uint16),
        np.zeros(BATCH_SIZE, np.uint32),
    )


@helper
def cache_follow(cache, version):
    """Forget every entry unless `version` is the one they belong to."""
    if cache.state[STATE_VERSION] == version and cache.state[STATE_GENERATION] != 0:
        return
    cache.state[STATE_VERSION] = version
    generation = np.uint64(cache.state[STATE_GENERATION] + np.uint64(1)) & _GENERATION_MASK
    if generation == 0:  # wrapped: old tags would look current
        cache.sets[:] = np.uint64(0)
        generation = np.uint64(1)
    cache.state[STATE_GENERATION] = generation


@helper
def cache_tag(key_hash, generation):
    """Tag of `key_hash` in `generation`."""
    return (key_hash << _SET_BITS) & ~_GENERATION_MASK | generation


@helper
def cache_way(sets, keys, batch_keys, row, number, tag):
    """Way of set `number` that holds key `row` of the batch, or CACHE_WAYS."""
    found = CACHE_WAYS
    for way in range(CACHE_WAYS):  # no early exit: which way it is cannot be predicted
        found = way if sets[number, way] == tag else found
    if found == CACHE_WAYS:
        return CACHE_WAYS
    entry = address_of(keys) + np.uint64(number * CACHE_WAYS + found) * KEY_BYTES
    key = address_of(batch_keys) + np.uint64(row) * KEY_BYTES
    return found if same_key(entry, key) else CACHE_WAYS


@helper
def cache_lookup(cache, rows):
    """Fill batch_verdicts of the first `rows` keys from the cache; list the others in batch_misses.

    Returns how many are listed.
    """
    sets, keys, batch_keys = cache.sets, cache.keys, cache.batch_keys
    generation = cache.state[STATE_GENERATION]
    misses = 0
    for row in range(rows):
        key_hash = cache.batch_hashes[row]
        number = np.int64(key_hash >> CACHE_SHIFT)
        way = cache_way(sets, keys, batch_keys, row, number, cache_tag(key_hash, generation))
        if way < CACHE_WAYS:
            cache.batch_verdicts[row] = np.uint32(sets[number, CACHE_WAYS + way])
        else:
            cache.batch_misses[misses] = np.uint16(row)
            misses += 1
    cache.state[STATE_ROWS] = np.uint64(rows)
    cache.state[STATE_HITS] += np.uint64(rows - misses)
    cache.state[STATE_MISSES] += np.uint64(misses)
    return misses


@helper
def cache_insert(cache, misses):
    """Remember the verdicts of the first `misses` keys in batch_misses, or of some of them.

    A stale way goes first.
    """
    sets, keys, batch_keys = cache.sets, cache.keys, cache.batch_keys
    generation = cache.state[STATE_GENERATION]
    index = 0
    step = 1
    if misses > ADMIT_ALL_MAX and np.uint64(2 * misses) > cache.state[STATE_ROWS]:
        index = np.int64(cache.state[STATE_TURN] % np.uint64(ADMIT_ONE_IN))
        step = ADMIT_ONE_IN
        cache.state[STATE_TURN] += np.uint64(1)
    while index < misses:
        row = np.int64(cache.batch_misses[index])
        index += step
        key_hash = cache.batch_hashes[row]
        number = np.int64(key_hash >> CACHE_SHIFT)
        tag = cache_tag(key_hash, generation)
        if cache_way(sets, keys, batch_keys, row, number, tag) < CACHE_WAYS:
            continue  # an earlier packet of this batch had the same key
        victim = np.int64(cache.state[STATE_VICTIM] % np.uint64(CACHE_WAYS))
        for way in range(CACHE_WAYS):
            if (sets[number, way] & _GENERATION_MASK) != generation:
                victim = np.int64(way)
                break
        cache.state[STATE_VICTIM] += np.uint64(1)
        for word in range(KEY_WORDS):
            keys[number, victim, word] = batch_keys[row, word]
        sets[number, CACHE_WAYS + victim] = np.uint64(cache.batch_verdicts[row])
        sets[number, victim] = tag
