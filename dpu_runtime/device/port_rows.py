"""A port's row in the tables that workers read: what it is, and whether packets pass.

Out: `ports`, `active_ports` and the `xconnect` column of `devices`, in shared memory; books write what
     functions have of a port.
Not: the port's queues; the data-plane process adds and deletes those.
"""

import numpy as np

from dpu_runtime.device.live_port import uses_interface
from dpu_runtime.kernels import layout

# flags last: they say what the others are for
WORDS = (*(word for word in layout.PORT_DTYPE.names if word not in ("generation", "pad", "flags")), "flags")
NOT_UP = np.uint32(~layout.PORT_UP & 0xFFFFFFFF)


class PortRows:
    """The rows of all ports; `live_ports` are always {name: LivePort}, dpu_runtime/device/live_port.py.

    books  dpu_runtime/device/books.py
    """

    def __init__(self, shared, books):
        self.shared = shared
        self._books = books

    def write(self, index, port, driver, up=0):
        """Write the row of a port; without `up` no packet passes yet. Raises PortError, nothing changed."""
        made = np.zeros(1, layout.PORT_DTYPE)[0]
        made["mac"] = int((port.mac or "0").replace(":", ""), 16)
        made["mtu"] = port.mtu or driver.link.mtu
        made["kind"] = driver.kind
        made["flags"] = driver.capabilities.flags() | up
        if port.verify_checksum:
            made["flags"] |= layout.PORT_RX_VERIFY
        if not port.gro:
            made["flags"] &= ~np.uint32(layout.PORT_RX_GRO)
        self._books.port(index, port, made)
        row = self.shared.ports[index]
        for word in WORDS:
            row[word] = made[word]

    def known(self, live):
        """Tell books of a port whose row is there."""
        self._books.port(live.index, live.config, self.shared.ports[live.index].copy())

    def change(self, live, config):
        """Give a port another configuration. Raises PortError, nothing changed."""
        before, live.config = live.config, config
        try:
            self.rewrite(live)
        except BaseException:
            live.config = before
            raise
        if uses_interface(config):
            live.driver.config = config

    def rewrite(self, live):
        """Write the row of a port that changed; packets pass or do not as before."""
        up = int(self.shared.ports[live.index]["flags"]) & layout.PORT_UP
        self.write(live.index, live.config, live.driver, up)

    def clear(self, index):
        """Free a row; what was learned of its port is not believed any more."""
        self.shared.devices[index]["xconnect"] = 0
        row = self.shared.ports[index]
        self._books.port_gone(index, row)
        row["kind"] = row["flags"] = 0
        row["generation"] += 1

    def open(self, live_ports):
        """Let packets through to all ports."""
        closed = [live for live in live_ports.values() if not live.open]
        for live in closed:
            live.open = True
        if closed:
            self.list(live_ports)

    def close(self, live_ports, name):
        """Let no packet through to a port any more."""
        if live_ports[name].open:
            live_ports[name].open = False
            self.list(live_ports)

    def list(self, live_ports):
        """Say which ports are up, for floods too; cross-connect those that ask for it while both are."""
        up = {live.index for live in live_ports.values() if live.open and not live.lost}
        flags = self.shared.ports["flags"]
        flags[sorted(up)] |= np.uint32(layout.PORT_UP)
        flags[[live.index for live in live_ports.values() if live.index not in up]] &= NOT_UP
        for live in live_ports.values():
            if not live.plane:
                continue  # only ports with rings can be connected
            other = live_ports.get(live.config.xconnect)
            both = other is not None and live.index in up and other.index in up
            self.shared.devices[live.index]["xconnect"] = other.index + 1 if both else 0
        active_ports = self.shared.active_ports  # who reads meanwhile may miss one, or find it twice
        active_ports[1 : 1 + len(up)] = sorted(up)
        active_ports[0] = len(up)
