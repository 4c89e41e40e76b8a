"""Which hash tables a rule set gets, and which rule goes into which.

Spec: Daly et al., "TupleMerge: Fast Software Packet Processing for Online Packet Classification"
      (IEEE/ACM ToN 27(4), 2019) for relaxed tuples and the bucket limit; tables are chosen greedily
      here, since the whole set is known.
In:   value and mask words in rank order.
Out:  table masks, and each rule's table.

A table with mask M can hold every rule whose own mask includes M. The next table is always the
one that takes most of the rules left with no bucket above the limit; the limit grows as tables
run out, and the last table, without a mask, takes what is left.
"""

import heapq

import numpy as np

from dpu_runtime.kernels.acl.layout import (
    DST_HI,
    DST_LO,
    DST_MAC,
    FLAGS_SHIFT,
    KEY_WORDS,
    L2,
    L4,
    MULTIPLIERS,
    SRC_HI,
    SRC_LO,
    SRC_MAC,
    TABLES_MAX,
)

LINEAR_RULES = 8  # so few are one run: comparing them all costs less than a second table
# (tables made so far, rules a bucket may hold): short runs first, whatever is left last
BUCKET_LIMITS = ((0, 4), (24, 8), (40, 32), (52, 256), (60, 1 << 30))
SAMPLE_BITS = 15  # buckets used to estimate how full a table gets
_FLAG_BITS = np.uint64(0xF << FLAGS_SHIFT)
_FIELD_GROUPS = (
    ((SRC_HI, ~np.uint64(0)), (SRC_LO, ~np.uint64(0))),
    ((DST_HI, ~np.uint64(0)), (DST_LO, ~np.uint64(0))),
    ((L4, ~_FLAG_BITS),),
    ((L4, _FLAG_BITS), (SRC_MAC, ~np.uint64(0)), (DST_MAC, ~np.uint64(0)), (L2, ~np.uint64(0))),
)
_CANDIDATES_A_RELAXATION = 48  # masks tried of each way to relax, the most frequent ones


def hash_keys(keys, mask):
    """Multiply-shift hash of `keys & mask`, uint64[n]; the kernels' own, see key_words.hash_words."""
    result = np.zeros(len(keys), np.uint64)
    for word in np.flatnonzero(mask):
        result += (keys[:, word] & mask[word]) * MULTIPLIERS[word]
    return result


def _whole_groups(words, bits):
    """Mask `words` reduced to their aligned groups of `bits` set bits; bits is 4, 8 or 16."""
    kept = words.copy()
    shift = 1
    while shift < bits:
        kept &= kept >> np.uint64(shift)
        shift *= 2
    ones = np.uint64((1 << bits) - 1)
    return (kept & (~np.uint64(0) // ones)) * ones


def _distinct_rows(rows):
    """Distinct rows of a uint64 matrix, and how often each occurs, the most frequent first."""
    tags = hash_keys(rows, np.full(rows.shape[1], ~np.uint64(0)))
    _, first, counts = np.unique(tags, return_index=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return rows[first[order]], counts[order]


def candidate_masks(masks):
    """Masks worth trying, uint64[m, KEY_WORDS]: the rules' own, relaxed.

    To whole nibbles, octets or pairs of octets, in every choice of field groups (source,
    destination, layer 4, layer 2).
    """
    distinct, counts = _distinct_rows(masks)
    found = []
    for bits in (4, 8, 16):
        relaxed = _whole_groups(distinct, bits)
        for choice in range(1, 1 << len(_FIELD_GROUPS)):
            keep = np.zeros(KEY_WORDS, np.uint64)
            for group, words in enumerate(_FIELD_GROUPS):
                if choice >> group & 1:
                    for word, part in words:
                        keep[word] |= part
            rows, inverse = np.unique(hash_keys(relaxed, keep), return_inverse=True)
            weight = np.bincount(inverse, counts, len(rows))
            best = np.argsort(-weight, kind="stable")[:_CANDIDATES_A_RELAXATION]
            sample = np.zeros(len(rows), np.int64)
            sample[inverse] = np.arange(len(inverse))
            found.append(relaxed[sample[best]] & keep)
    rows, _ = _distinct_rows(np.concatenate(found))
    return rows[rows.any(axis=1)]


def _compatible(masks, mask):
    """Indices of the rules a table with `mask` can hold."""
    fits = np.ones(len(masks), bool)
    for word in np.flatnonzero(mask):
        fits &= (masks[:, word] & mask[word]) == mask[word]
    return np.flatnonzero(fits)


class _Chooser:
    """Greedy choice over the rules that are left, with lazily updated scores.

    A mask's score, the rules its table would take, only falls while rules leave, so a stale score
    is an upper bound and only the best few need counting again.
    """

    def __init__(self, values, masks):
        self.values, self.masks = values, masks
        self.left = np.arange(len(values))
        self.candidates = candidate_masks(masks)
        self.bits = np.bitwise_count(self.candidates).sum(axis=1)
        self.limit = 0
        self.heap = []

    def _bins(self, mask, shift):
        fits = _compatible(self.masks, mask)
        return fits, (hash_keys(self.values[fits], mask) >> np.uint64(shift)).astype(np.int64)

    def _score(self, candidate):
        _, bins = self._bins(self.candidates[candidate], 64 - SAMPLE_BITS)
        return int(np.minimum(np.bincount(bins), self.limit).sum())

    def set_limit(self, limit):
        """Count all scores anew for buckets of `limit` rules."""
        if limit != self.limit:
            self.limit = limit
            # finer masks first among equals: fewer packets meet a bucket that is not theirs
            self.heap = [(-self._score(c), -int(self.bits[c]), c) for c in range(len(self.candidates))]
            heapq.heapify(self.heap)

    def best(self):
        """Candidate that takes most of the rules left, or None."""
        while self.heap:
            _, bits, candidate = self.heap[0]
            entry = (-self._score(candidate), bits, candidate)
            if entry[0] == 0:
                heapq.heappop(self.heap)
                continue
            heapq.heapreplace(self.heap, entry)
            if self.heap[0] == entry:
                return candidate
        return None

    def take(self, candidate):
        """Remove and return the rules that this table takes: of each bucket, the first in rank."""
        fits, bins = self._bins(self.candidates[candidate], 64 - SAMPLE_BITS)
        order = np.argsort(bins, kind="stable")
        ordered = bins[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        position = np.arange(len(ordered)) - np.repeat(starts, np.diff(np.r_[starts, len(ordered)]))
        taken = fits[order[position < self.limit]]
        rules = self.left[taken]
        stay = np.ones(len(self.left), bool)
        stay[taken] = False
        self.left, self.values, self.masks = self.left[stay], self.values[stay], self.masks[stay]
        return rules


def choose_tables(values, masks):
    """Distribute rules over tables.

    Returns (table masks uint64[t, KEY_WORDS], table of each rule int64[n]), t <= TABLES_MAX.
    """
    chosen = []
    table_of = np.zeros(len(values), np.int64)
    if len(values) > LINEAR_RULES:
        chooser = _Chooser(values, masks)
        while len(chooser.left) > LINEAR_RULES and len(chosen) < TABLES_MAX - 1:
            chooser.set_limit(max(limit for made, limit in BUCKET_LIMITS if made <= len(chosen)))
            candidate = chooser.best()
            if candidate is None:
                break
            table_of[chooser.take(candidate)] = len(chosen)
            chosen.append(chooser.candidates[candidate])
        left = chooser.left
    else:
        left = np.arange(len(values))
    if len(left):
        table_of[left] = len(chosen)
        chosen.append(np.zeros(KEY_WORDS, np.uint64))
    return np.array(chosen, np.uint64).reshape(-1, KEY_WORDS), table_of
