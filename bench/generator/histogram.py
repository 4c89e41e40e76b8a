"""Latencies in a log-linear array that the loop adds to, laid out as HdrHistogram lays out its counts.

Source: hdrh.histogram.HdrHistogram, `_counts_index_for`; hdrhistogram.org.
In:     ticks, 0 to 2**32 - 1.   Out: `HdrHistogram` with three significant digits.
"""

import numpy as np
from hdrh.histogram import HdrHistogram

from dpu_runtime.kernels.compile.jit import PYTHON_MODE, helper, primitive

if not PYTHON_MODE:
    from llvmlite import ir
    from numba import types

DIGITS = 3
TICKS_MAX = (1 << 32) - 1
_HALF_BITS = 10  # half of a bucket is 1024 values, for three digits
BUCKETS = HdrHistogram(1, TICKS_MAX, DIGITS).counts_len

_0 = np.uint64(0)
_64 = np.uint64(64)
_BITS = np.uint64(_HALF_BITS)
_MASK = np.uint64((2 << _HALF_BITS) - 1)


def _py_leading_zeros(word):
    return np.uint64(64 - int(word).bit_length())


@primitive(_py_leading_zeros)
def _leading_zeros(typingctx, word):
    """Leading zero bits of a 64-bit word that is not 0, uint64."""

    def codegen(context, builder, signature, args):
        return builder.ctlz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), codegen


@helper
def record(latencies, ticks):
    """Count one latency of `ticks`, uint64 below 2**32, in `latencies`: uint64[BUCKETS]."""
    value = np.uint64(ticks)
    bucket = _64 - _leading_zeros(value | _MASK) - _BITS - np.uint64(1)
    latencies[(bucket << _BITS) + (value >> bucket)] += np.uint64(1)


def histogram(latencies):
    """HdrHistogram of ticks out of `latencies: uint64[BUCKETS]`."""
    made = HdrHistogram(1, TICKS_MAX, DIGITS)
    for index in np.flatnonzero(latencies).tolist():
        bucket = max((index >> _HALF_BITS) - 1, 0)
        sub_bucket = index - (bucket << _HALF_BITS)
        made.record_value(sub_bucket << bucket, int(latencies[index]))
    return made
