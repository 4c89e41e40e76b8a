"""The DPU on wires: a daemon with a port over each of the two interfaces, as the switch it is."""

from bench.peers.dpu import Dpu
from bench.peers.wires import PORTS

_PORT = """
[[port]]
name = "{name}"
kind = "{kind}"
netns = "pid:{pid}"
ifname = "{name}"
{keys}
"""


class WiresDpu(Dpu):
    """A daemon that joins `wires` by ports of `kind`, its worker on `cpu`.

    keys  further ones of both ports, in TOML
    """

    def __init__(self, wires, cpu, folder, kind, keys="", env=None):
        self.wires = wires
        where = {"kind": kind, "pid": wires.switch.pid, "keys": keys}
        super().__init__(folder, cpu, "".join(_PORT.format(name=name, **where) for name in PORTS), env=env)

    @property
    def pids(self):
        """Processes whose threads forward."""
        return [self.data_plane_pid]

    def notes(self):
        """What the first port says about the mode it got."""
        return self.call("port.show", name=PORTS[0])[0]["info"]["notes"]

    def begin(self):
        """Nothing to do: with packets its worker is awake."""

    def rest(self):
        """Nothing to do: without packets its worker sleeps."""

    def close(self):
        """End it, and take the wires down; twice is allowed."""
        super().close()
        self.wires.close()
