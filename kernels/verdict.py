"""Giving a packet up: the one way a kernel drops a packet it has judged.

Out:  verdict, drop_reason, drops.
Not:  copies at egress, which are counted without a verdict: the packet may leave elsewhere.
"""

import numpy as np

from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.layout import VERDICT_DROP


@helper
def drop_packet(record, reason, drops):
    """Drop the packet of meta `record` for `reason`, a Drop code, and count it.

    drops  uint64[DROP_REASON_COUNT]  in/out, packets
    """
    record["verdict"] = VERDICT_DROP
    record["drop_reason"] = reason
    drops[reason] += np.uint64(1)
