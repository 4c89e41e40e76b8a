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

Then lookups cost more than they spare, too: the next PASS_BATCHES batches go past the cache, and count as
missed.
"""

from collections import namedtuple

import numpy as np

from dpu_runtime.kernels.acl.key_words import KEY_BYTES, same_key
from dpu_runtime.kernels.acl.layout import KEY_WORDS, aligned_zeros
from dpu_runtime.kernels.acl.match import PAIRS_MAX
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.layout import BATCH_SIZE
from dpu_runtime.kernels.octets.memory import address_of, copy_memory, load_u64, prefetch

CACHE_SETS = 4096  # a power of two
CACHE_WAYS = 4
SET_WORDS = 2 * CACHE_WAYS
_SET_BYTES = np.uint64(8 * SET_WORDS)
CACHE_SHIFT = np.uint64(64 - (CACHE_SETS.bit_length() - 1))  # hash >> CACHE_SHIFT is the set
ADMIT_ONE_IN = 8  # misses, when more than half of a batch are
PASS_BATCHES = 7  # behind such a batch
ADMIT_ALL_MAX = 8  # misses of a batch that are remembered in any case
GENERATION_BITS = 24  # of a tag; the other 40 are the hash below the set number
_GENERATION_MASK = np.uint64((1 << GENERATION_BITS) - 1)
_1 = np.uint64(1)
_WAY_MASK = np.uint64(CACHE_WAYS - 1)
_SET_BITS = np.uint64(CACHE_SETS.bit_length() - 1)

# state words
STATE_VERSION = 0  # of the stage that the entries belong to
STATE_GENERATION = 1  # 1..2**GENERATION_BITS - 1; 0 marks an entry never used
STATE_HITS = 2  # lookups answered
STATE_MISSES = 3  # and keys that went past
STATE_VICTIM = 4  # way to replace next, modulo CACHE_WAYS
STATE_ROWS = 5  # keys of the latest batch
STATE_TURN = 6  # which of its misses are remembered when not all are, modulo ADMIT_ONE_IN
STATE_PASSING = 7  # batches still to go past
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
        "batch_rows",  # uint16[BATCH_SIZE], row of each packet's key
        "batch_misses",  # uint16[BATCH_SIZE], key rows to look up in the stage
        "batch_verdicts",  # uint32[BATCH_SIZE]
        # scratch of acl_match.find_verdicts
        "batch_tables",  # uint64[BATCH_SIZE], of each row the tables left that can match
        "batch_best",  # uint64[BATCH_SIZE], decision of each row
        "batch_open",  # uint16[BATCH_SIZE + 1], rows not decided yet
        "batch_pairs",  # uint64[PAIRS_MAX], row and rule
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
        np.zeros(BATCH_SIZE, np.uint16),
        np.zeros(BATCH_SIZE, np.uint16),
        np.zeros(BATCH_SIZE, np.uint32),
        np.zeros(BATCH_SIZE, np.uint64),
        np.zeros(BATCH_SIZE, np.uint64),
        np.zeros(BATCH_SIZE + 1, np.uint16),
        np.zeros(PAIRS_MAX, np.uint64),
    )


@helper
def cache_follow(cache, version):
    """Forget every entry unless `version` is the one they belong to."""
    if cache.state[STATE_VERSION] == version and cache.state[STATE_GENERATION] != 0:
        return
    cache.state[STATE_VERSION] = version
    cache.state[STATE_PASSING] = np.uint64(0)
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
def cache_way(sets, keys, number, tag, key):
    """Way of set `number` that holds the key at address `key`, or CACHE_WAYS.

    sets, keys  addresses of the cache's
    """
    tags = sets + number * _SET_BYTES
    found = np.uint64(CACHE_WAYS)
    for way in range(np.uint64(CACHE_WAYS)):  # no early exit: which way it is cannot be predicted
        found = way if load_u64(tags + np.uint64(8) * way) == tag else found
    entry = keys + (number * np.uint64(CACHE_WAYS) + (found & _WAY_MASK)) * KEY_BYTES
    if found == np.uint64(CACHE_WAYS) or not same_key(entry, key):
        return np.uint64(CACHE_WAYS)
    return found


@helper
def mostly_missed(misses, rows):
    """Whether `misses` of a batch of `rows` keys are too many to remember them all."""
    return misses > np.uint64(ADMIT_ALL_MAX) and np.uint64(2) * misses > rows


@helper
def cache_lookup(cache, rows):
    """Fill batch_verdicts of the first `rows` keys from the cache; list the others in batch_misses.

    Returns how many are listed: all, of a batch that goes past.
    """
    cache.state[STATE_ROWS] = rows
    if cache.state[STATE_PASSING] != 0:
        cache.state[STATE_PASSING] -= _1
        cache.state[STATE_MISSES] += rows
        for row in range(rows):
            cache.batch_misses[row] = np.uint16(row)
        return rows
    sets, keys, key = address_of(cache.sets), address_of(cache.keys), address_of(cache.batch_keys)
    generation = cache.state[STATE_GENERATION]
    for row in range(rows):
        prefetch(sets + (cache.batch_hashes[row] >> CACHE_SHIFT) * _SET_BYTES)
    misses, row = np.uint64(0), np.uint64(0)
    while row < rows:  # LLVM makes more of it than of a range() with branches inside
        key_hash = cache.batch_hashes[row]
        number = key_hash >> CACHE_SHIFT
        way = cache_way(sets, keys, number, cache_tag(key_hash, generation), key)
        if way < np.uint64(CACHE_WAYS):
            cache.batch_verdicts[row] = np.uint32(cache.sets[number, np.uint64(CACHE_WAYS) + way])
        else:
            cache.batch_misses[misses] = np.uint16(row)
            misses += _1
        key += KEY_BYTES
        row += _1
    cache.state[STATE_HITS] += rows - misses
    cache.state[STATE_MISSES] += misses
    if mostly_missed(misses, rows):
        cache.state[STATE_PASSING] = np.uint64(PASS_BATCHES)
    return misses


@helper
def cache_insert(cache, misses):
    """Remember the verdicts of the first `misses` keys in batch_misses, or of some of them."""
    index, step = np.uint64(0), np.uint64(1)
    if mostly_missed(misses, cache.state[STATE_ROWS]):
        index, step = cache.state[STATE_TURN] % np.uint64(ADMIT_ONE_IN), np.uint64(ADMIT_ONE_IN)
        cache.state[STATE_TURN] += _1
    while index < misses:
        remember(cache, np.uint64(cache.batch_misses[index]))
        index += step


@helper
def remember(cache, row):
    """Remember the verdict of key `row`. A stale way goes first."""
    sets, keys = cache.sets, cache.keys
    generation = cache.state[STATE_GENERATION]
    key_hash = cache.batch_hashes[row]
    number = key_hash >> CACHE_SHIFT
    tag = cache_tag(key_hash, generation)
    key = address_of(cache.batch_keys) + row * KEY_BYTES
    if cache_way(address_of(sets), address_of(keys), number, tag, key) < np.uint64(CACHE_WAYS):
        return  # an earlier packet of this batch had the same key
    victim = cache.state[STATE_VICTIM] % np.uint64(CACHE_WAYS)
    for way in range(np.uint64(CACHE_WAYS)):
        if (sets[number, way] & _GENERATION_MASK) != generation:
            victim = way
            break
    cache.state[STATE_VICTIM] += _1
    entry = address_of(keys) + (number * np.uint64(CACHE_WAYS) + victim) * KEY_BYTES
    copy_memory(entry, key, KEY_BYTES)
    sets[number, np.uint64(CACHE_WAYS) + victim] = np.uint64(cache.batch_verdicts[row])
    sets[number, victim] = tag
