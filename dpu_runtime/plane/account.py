"""Where a worker's time goes: packets and cycles of each stage.

Packets are counted always. The cycle counter is read for each burst of a worker that has few, and for one
in SAMPLE_EVERY of a busy one: reading it costs more than a stage.
"""

import numpy as np

from dpu_runtime.kernels.burst import Word
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.octets.memory import cycles, load_u64, store_u64

TIMED_BURSTS = 16  # in a row that are all timed
SAMPLE_EVERY = 16  # of those behind them

_0 = np.uint64(0)
_8 = np.uint64(8)


@helper
def begin_burst(burst, bursts_in_a_row):
    """Choose whether this burst is timed, and for how many it stands; returns the time."""
    weight = _0
    if bursts_in_a_row < TIMED_BURSTS:
        weight = np.uint64(1)
    elif bursts_in_a_row % SAMPLE_EVERY == 0:
        weight = np.uint64(SAMPLE_EVERY)
    burst.words[Word.WEIGHT] = weight
    now = cycles()
    burst.words[Word.SINCE] = now
    return now


@helper
def charge(burst, counters, row, packets):
    """Book `packets`, and the time since the last charge, to `counters[row]`."""
    counters[row, 0] += np.uint64(packets)
    weight = burst.words[Word.WEIGHT]
    if weight != _0:
        now = cycles()
        counters[row, 1] += (now - burst.words[Word.SINCE]) * weight
        burst.words[Word.SINCE] = now


@helper
def charge_stage(burst, counters, packets):
    """The same for a stage, whose two counters lie at an address."""
    store_u64(counters, load_u64(counters) + np.uint64(packets))
    weight = burst.words[Word.WEIGHT]
    if weight != _0:
        now = cycles()
        spent = (now - burst.words[Word.SINCE]) * weight
        store_u64(counters + _8, load_u64(counters + _8) + spent)
        burst.words[Word.SINCE] = now
