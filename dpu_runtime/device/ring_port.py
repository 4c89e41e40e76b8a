"""What a vhost_user port's sessions tell the device: rings for the data plane, offloads for the kernels.

It is the `Plane` of drivers/vhost_user/session.py.
"""

import logging

from dpu_runtime.drivers.vhost_user.features import VIRTIO_F_RING_PACKED
from dpu_runtime.drivers.vhost_user.layout import FAULT_NONE, FAULT_TEXT, ring_base

log = logging.getLogger("dpu.device")


class RingPlane:
    """The rings of port `index`.

    request   coroutine function (message, fds) of the supervisor
    changed   called when the driver has other offloads than before
    """

    def __init__(self, name, index, shared, request, changed):
        self.name = name
        self.index = index
        self._shared = shared
        self._request = request
        self._changed = changed
        self._told = set()

    async def apply(self, snapshot, fds):
        """Have the data plane set up memory and rings. Raises DataPlaneError."""
        await self._request({"do": "set_rings", "index": self.index, "snapshot": snapshot}, fds)

    def ring_base(self, ring):
        """Where a stopped ring goes on, as GET_VRING_BASE gives it."""
        row = self._shared.rings[self.index, ring]
        return ring_base(row, bool(int(row["features"]) >> VIRTIO_F_RING_PACKED & 1))

    def negotiated(self, features):
        """The driver's features are others now."""
        self._changed()

    def connected(self, connected):
        """A front-end came or went."""
        self._shared.devices[self.index]["connected"] = connected
        self._told.clear()
        self._changed()

    def fatal(self):
        """Why the connection is to be closed, None: it is not."""
        return FAULT_TEXT.get(int(self._shared.devices[self.index]["fault"]))

    def faults(self):
        """Rings that were stopped for what their driver did: {ring: text}."""
        rows = self._shared.rings[self.index]
        return {
            number: FAULT_TEXT[int(rows[number]["fault"])]
            for number in (rows["fault"] != FAULT_NONE).nonzero()[0].tolist()
        }

    def new_faults(self):
        """Rings whose fault was not reported yet; each is logged, once."""
        fresh = []
        for ring, text in self.faults().items():
            if ring not in self._told:
                self._told.add(ring)
                log.warning("port %s: ring %d is stopped: %s", self.name, ring, text)
                fresh.append(ring)
        return fresh
