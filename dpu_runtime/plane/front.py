"""The front of the pipeline, fused: from a received burst to the list of its good packets.

Virtio-net header, parser, owed checksums, what the other side says of its packets, verification where a port
asks for it. It has the form of a stage; its state is the worker's Frame.
"""

import numpy as np

from dpu_runtime.kernels.checksum.owed import mark_owed
from dpu_runtime.kernels.checksum.verify import verify_checksums
from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.layout import VERDICT_PASS
from dpu_runtime.kernels.offload.virtio_net import check_vnet, decode_vnet
from dpu_runtime.kernels.parse.parse import parse
from dpu_runtime.plane.account import charge
from dpu_runtime.plane.words import FrameStage


@kernel
def front(burst, frame, port, count):
    """Parse and judge the first `count` rows, received at `port`; list those that pass.

    burst  Burst  in/out headers, meta; out packets, verdict, drop_reason
    frame  Frame  counters; a port with a cross-connect has no checksums verified

    Returns packets in the list.
    """
    decode_vnet(burst.headers, burst.meta, count)
    parse(burst.headers, burst.meta, count, burst.drops)
    mark_owed(burst.headers, burst.meta, count, burst.ports)
    check_vnet(burst.headers, burst.meta, count, burst.drops)
    charge(burst, frame.kernel_counters, FrameStage.PARSE, count)
    if frame.io.devices[port]["xconnect"] == 0:
        verify_checksums(burst.headers, burst.meta, count, burst.ports, burst.drops)
        charge(burst, frame.kernel_counters, FrameStage.VERIFY, count)
    kept = np.uint64(0)
    for packet in range(np.uint64(count)):
        burst.packets[kept] = packet
        kept += np.uint64(burst.meta[packet]["verdict"] == VERDICT_PASS)
    return np.int64(kept)
