"""What arrives: whole or corrupted, lost, duplicated or reordered, and how late.

Source: RFC 4737 3 (reordered: a number below the next expected one), RFC 5560 (duplicated).
In/out: `counts`, the window of sequence numbers, the latencies.
"""

import numpy as np

from bench.generator.histogram import record
from bench.generator.layout import MAGIC, TICK_SHIFT, WINDOW, Count
from bench.generator.stamp import read_stamp
from dpu_runtime.kernels.compile.jit import helper

_0 = np.uint64(0)
_1 = np.uint64(1)
_6 = np.uint64(6)
_8 = np.uint64(8)
_63 = np.uint64(63)
_LOW8 = np.uint64(0xFF)
_LOW32 = np.uint64(0xFFFF_FFFF)
_WINDOW = np.uint64(WINDOW)
_WORDS = np.uint64(WINDOW // 64)
_SHIFT = np.uint64(TICK_SHIFT)
assert WINDOW & (WINDOW - 1) == 0


@helper
def receive_frame(frame, in_row, payload, payload_len, stream, now, counts, seen, latencies):
    """Count one received packet; arguments up to `payload_len` are read_stamp's.

    stream     uint64, of this trial
    now        uint64 cycles
    counts     uint64[len(Count)]    in/out
    seen       uint64[WINDOW // 64]  in/out, one bit a sequence number, of those below counts[NEXT]
    latencies  uint64[BUCKETS]       in/out, ticks; of packets that came for the first time
    """
    mark, sequence, ticks, whole = read_stamp(frame, in_row, payload, payload_len)
    if mark & _LOW8 != np.uint64(MAGIC) or (whole and mark >> _8 != stream):
        counts[Count.FOREIGN] += _1
        return
    if not whole or sequence >= counts[Count.SENT]:
        counts[Count.CORRUPTED] += _1
        return
    counts[Count.RECEIVED] += _1
    counts[Count.RECEIVED_OCTETS] += in_row + payload_len
    counts[Count.LAST] = now
    if _is_new(sequence, counts, seen):
        record(latencies, ((now >> _SHIFT) - ticks) & _LOW32)


@helper
def _is_new(sequence, counts, seen):
    """Note that `sequence` came; whether for the first time."""
    following = counts[Count.NEXT]
    bit = _1 << (sequence & _63)
    word = (sequence >> _6) & (_WORDS - _1)
    if sequence >= following:
        _forget(following, sequence, seen)
        counts[Count.NEXT] = sequence + _1
        seen[word] |= bit
        return True
    if following - sequence > _WINDOW:
        counts[Count.STALE] += _1
        return False
    if seen[word] & bit:
        counts[Count.DUPLICATED] += _1
        return False
    seen[word] |= bit
    counts[Count.REORDERED] += _1
    return True


@helper
def _forget(first, last, seen):
    """Clear the bits of the numbers `first` to `last`, whose places older ones had."""
    if last - first >= _WINDOW:
        first = last - _WINDOW + _1
    number = first
    while number <= last:
        word = (number >> _6) & (_WORDS - _1)
        if number & _63 == _0 and last - number >= _63:
            seen[word] = _0
            number += _63 + _1
        else:
            seen[word] &= ~(_1 << (number & _63))
            number += _1
