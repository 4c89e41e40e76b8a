"""Null port, control half: descriptors that never become readable.

Not: an interface. A null port swallows traffic: for tests, for measuring what the kernels alone cost, or
     as the place that copies go to.
"""

import os

from dpu_runtime.drivers.port import Capabilities, Kind, PortError


class NullPort:
    """A port without a device; each queue is an eventfd(2) that nobody writes to."""

    kind = Kind.NULL

    def __init__(self, name, queues=1, offload=True):
        self.name = name
        self.queues = queues
        self.offload = offload
        self.capabilities = Capabilities()
        self.fds = []
        self.layout = {}

    def open(self):
        """Return one descriptor a queue, which the worker polls in vain. Raises PortError."""
        try:
            for _ in range(self.queues):
                self.fds.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        except OSError as error:
            self.close()
            raise PortError(self.name, "eventfd", error.errno) from None
        self._state_capabilities()
        return self.fds

    def adopt(self, fds, _layout):
        """Take over the descriptors of a port that exists already."""
        self.fds = list(fds)
        self._state_capabilities()

    def close(self):
        """Close every queue; twice is allowed."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def _state_capabilities(self):
        """Take every offload, or none: then the kernels cut and finish as for a port without."""
        on = self.offload
        self.capabilities = Capabilities(
            tx_csum=on, tso4=on, tso6=on, ecn=on, uso=on, gro=True, queues=len(self.fds), copy="none"
        )
        if not on:
            self.capabilities.notes.append("offloads are off: the configuration says offload = false")
