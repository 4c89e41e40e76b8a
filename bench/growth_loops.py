"""The compiled sender of bench/growth.py."""

import numpy as np

from dpu_runtime.drivers.linux.libc import MSG_DONTWAIT, send
from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.octets.memory import address_of, cycles


@kernel
def spray_loop(fds, frames, ticks):
    """Send frames[i] on packet socket fds[i], one after the other and round again, for `ticks`.

    Returns (frames that the kernel took, frames that it did not: a queue was full).
    """
    sent, refused = np.int64(0), np.int64(0)
    size = np.uint64(frames.shape[1])
    end = cycles() + ticks
    while cycles() < end:
        for i in range(len(fds)):
            if send(fds[i], address_of(frames[i]), size, np.int32(MSG_DONTWAIT)) == np.int64(size):
                sent += 1
            else:
                refused += 1
    return sent, refused
