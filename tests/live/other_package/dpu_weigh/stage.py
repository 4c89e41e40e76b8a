"""The stage of weigh."""

import numpy as np

from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.stage import drop

TOO_HEAVY = 0
_1 = np.uint64(1)


@kernel
def weigh(burst, state, port, count):
    """Count the packets at hand, and drop the heavy ones."""
    heavy = np.int64(state.tables.heavy[port])
    scale = np.int64(state.tables.scale[port])
    left = 0
    for k in range(count):
        packet = np.int64(burst.packets[k])
        size = np.int64(burst.meta[packet]["frame_len"])
        state.counters.weighed[scale, 0] += _1
        state.counters.weighed[scale, 1] += np.uint64(size)
        if size > heavy:
            drop(burst, state, packet, TOO_HEAVY)
        else:
            burst.packets[left] = packet
            left += 1
    return left
