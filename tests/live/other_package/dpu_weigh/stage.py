"""The stage of weigh."""

import numpy as np

from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.punt import punt
from dpu_runtime.kernels.stage import drop

TOO_HEAVY, REPORT_FULL = 0, 1
_0 = np.uint64(0)
_1 = np.uint64(1)


@kernel
def weigh(burst, state, port, count):
    """Count the packets at hand; punt or drop the heavy ones."""
    heavy = np.int64(state.tables.heavy[port])
    scale = np.int64(state.tables.scale[port])
    left = 0
    for k in range(count):
        packet = np.int64(burst.packets[k])
        size = np.int64(burst.meta[packet]["frame_len"])
        state.counters.weighed[scale, 0] += _1
        state.counters.weighed[scale, 1] += np.uint64(size)
        if size > heavy and state.tables.report[port] != _0:
            punt(burst, state, packet, size, REPORT_FULL)
        elif size > heavy:
            drop(burst, state, packet, TOO_HEAVY)
        else:
            burst.packets[left] = packet
            left += 1
    return left
