"""What the data-plane process keeps of a port: its descriptors, and the rings it maps from them.

In:  the descriptors and the layout of a driver's control half, drivers/port.py.
Not: ports with rings in a guest's memory, drivers/vhost_user/backend.py.
"""

import os

from dpu_runtime.drivers.port import Kind


class PlainQueues:
    """A port whose queues are descriptors and nothing else."""

    def __init__(self, fds, layout):
        self.fds = list(fds)
        self.layout = layout
        self.queue_fds = self.fds

    def close(self):
        """Close every descriptor; no worker uses the port any more."""
        for fd in self.fds:
            os.close(fd)
        self.fds = self.queue_fds = []


def map_queues(kind, index, shared, fds, layout):
    """Map what the kind needs; returns an object with `fds`, `layout`, `queue_fds` and `close()`.

    index   of the port, its row in every table
    shared  the shared memory's arrays as attributes
    fds     this process's from now on, also when this raises OSError
    """
    if kind == Kind.AF_PACKET:
        from dpu_runtime.drivers.af_packet.mapping import PacketRings  # noqa: PLC0415

        return PacketRings(index, shared, fds, layout)
    if kind == Kind.AF_XDP:
        from dpu_runtime.drivers.af_xdp.mapping import XdpRings  # noqa: PLC0415

        return XdpRings(index, shared, fds, layout)
    return PlainQueues(fds, layout)
