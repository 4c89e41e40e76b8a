"""Rate limits as the meter kernel reads them: a row of words for each port and direction.

Spec: kernels/meter/bucket.py says what the words mean.
Not:  anything of numba; the control process writes rows with this file.
"""

import numpy as np

from dpu_runtime.kernels.layout import BURST_BYTES_MAX, FRAME_BYTES_MAX, HEADER_BYTES, PORTS_MAX

RX = 0  # what comes in from the attached side
TX = 1  # what goes out to it
METER_WORDS = 8  # uint64, a cache line: workers write the rows of different ports at once
METER_LAYOUT = {"meters": ("u8", (PORTS_MAX, 2, METER_WORDS))}

WORD_PAID = 0  # time at which all that passed so far is paid for; workers move it
WORD_COST = 1  # time an octet takes at the rate
WORD_DEPTH = 2  # time the burst takes at the rate

TIME_SHIFT = 4  # words 0 and 2 are in 1/16 ns: 36 years of uptime fit
COST_SHIFT = 12  # word 1 is in 1/4096 of that
RATE_MIN = 8_000  # bits a second
RATE_MAX = 34_000_000_000  # bits a second; what Linux tbf takes without 64-bit attributes
BURST_MIN = 65_536  # octets
BURST_MAX = 1 << 30
NS_PER_SECOND = 1_000_000_000


def write_meter(words, rate, burst):
    """Set the limit of a row to `rate` bits a second with `burst` octets; what was used stays used."""
    unit = 8 * NS_PER_SECOND << TIME_SHIFT
    words[WORD_COST] = (unit << COST_SHIFT) // rate
    words[WORD_DEPTH] = unit * burst // rate


def clear_meters(rows):
    """Fill the buckets of a port that is new."""
    rows[:, WORD_PAID] = np.uint64(0)


_SLOWEST = (8 * NS_PER_SECOND << TIME_SHIFT) // RATE_MIN  # time of an octet
assert _SLOWEST * BURST_MAX < 1 << 63
# packets of one burst, cut into segments of one octet behind the longest headers
assert (_SLOWEST << COST_SHIFT) * (BURST_BYTES_MAX + FRAME_BYTES_MAX) * HEADER_BYTES < 1 << 64
