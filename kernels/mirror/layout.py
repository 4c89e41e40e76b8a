"""The mirror's arrays in shared memory: which packets are copied, and where to.

Not: anything of numba; the control process writes them.

All arrays but `version` have two halves; `version[0] & 1` names the one in force.
"""

import numpy as np

from dpu_runtime.kernels.layout import PORTS_MAX

MIRRORS_MAX = 64  # a bit each
IN, OUT = 0, 1  # what came in at a port, what leaves by it
NO_RULE = 0  # else the number of the rule, plus 1, as in marks

MIRROR_DTYPE = np.dtype(
    [
        ("to", "u4"),  # port
        ("octets", "u4"),  # that are copied of each packet, 0: all
        ("rule", "u4"),  # whose packets, NO_RULE: a port's
        ("pad", "u4"),
    ]
)
MIRROR_LAYOUT = {
    "version": ("u8", (8,)),  # a cache line
    "count": ("u8", (2,)),
    "mirrors": (MIRROR_DTYPE, (2, MIRRORS_MAX)),
    "of_port": ("u8", (2, PORTS_MAX, 2)),  # bits of the mirrors of a port, IN and OUT
}
