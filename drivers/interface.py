"""What drivers of interfaces that exist already have in common: find the interface, refuse the wrong one.

Not: how packets get in and out; a kind says that in `_open_queues`.
"""

import os
from dataclasses import asdict

from dpu_runtime.drivers.linux.link import Link, need_link
from dpu_runtime.drivers.port import Capabilities, PortError


class InterfaceDriver:
    """Control half of a port over an existing interface.

    config  name, netns, ifname, mtu, offload, promiscuous, accept_default_route, and what the kind adds
    queues  how many are wanted
    link    drivers/linux/link.py, the interface when the port was opened or last looked at
    fds     a socket in the interface's namespace comes first
    layout  its "link" is the interface as it was opened
    """

    def __init__(self, config, queues):
        self.name = config.name
        self.config = config
        self.queues = queues
        self.link = None
        self.capabilities = Capabilities()
        self.fds = []
        self.layout = {}

    def open(self):
        """Open every queue of the interface; returns `fds`. Raises PortError, nothing left.

        May be called again after `close`: the interface is looked up by its name anew.
        """
        self.link = need_link(self.config.netns, self.config.ifname, port=self.name)
        if self.link.default_route and self.config.accept_default_route is None:
            text = (
                f"the default route of its namespace leaves by interface {self.link.name!r}, whose packets"
                f" the DPU would get; accept_default_route = {self.link.name!r} takes it all the same"
            )
            raise PortError(self.name, "link", text=text)
        try:
            self._open_queues()
        except BaseException:
            self.close()
            raise
        self.layout["link"] = asdict(self.link)
        return self.fds

    def close(self):
        """Close every socket; the interface stays. Twice is allowed."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def adopt(self, fds, layout):
        """Take over what an earlier control process opened; the interface is taken to be as it was then."""
        self.fds = list(fds)
        self.layout = layout
        self.link = Link(**layout["link"])
        self._state_capabilities()

    def renew(self):
        """Make what a fresh data plane cannot take over from one that died anew. Raises PortError."""

    def fits(self, _link):
        """Whether the open queues can do with what the interface is now; if not, they are to be others."""
        return True

    def _open_queues(self):
        """Fill `fds` and `layout`, and state the capabilities."""
        raise NotImplementedError

    def _state_capabilities(self):
        """Fill `capabilities` from `layout`."""
        raise NotImplementedError
