"""Fixtures for af_packet ports: veth pairs, one end the port's, the other a wire of the test's own."""

import time
from types import SimpleNamespace

import pytest

from dpu_runtime.drivers.af_packet.if_packet import SOL_PACKET, PacketOption
from dpu_runtime.drivers.af_packet.port import AfPacketPort
from tests.drivers.af_packet.packet_bursts import Plane
from tests.wires import open_wire

UP_TIMEOUT_S = 10.0


def port_config(netns, ifname, **keys):
    """What the driver reads of a port's configuration."""
    plain = {"mtu": None, "offload": True, "promiscuous": False, "accept_default_route": None, "qdisc": False}
    plain["blocks"] = False
    return SimpleNamespace(name="p", netns=netns, ifname=ifname, **(plain | keys))


class Veth:
    """A port over one end of a veth pair, `dpu0` in namespace `netns`; `eth0` in `far` is the other.

    wire  a packet socket on the other end
    keys  of the port's configuration, besides those of `open`
    """

    def __init__(self, netns, run_in, mtu):
        self.run_in = run_in
        self.netns, self.far = netns(ipv6=False), netns(ipv6=False)
        pair = ["type", "veth", "peer", "name", "eth0", "netns", self.far]
        self.near("link", "add", "dpu0", "mtu", mtu, *pair)
        self.near("link", "set", "dpu0", "up")
        run_in(self.far, ["ip", "link", "set", "eth0", "mtu", mtu, "up"])
        self.wait_until_up()
        self.wire = open_wire(self.far, "eth0")
        # Linux opens an interface's queueing discipline in the background, after it is up.
        self.wire.setsockopt(SOL_PACKET, PacketOption.PACKET_QDISC_BYPASS, 1)
        self.keys = {}
        self.port = None
        self.plane = None

    def near(self, *words):
        """Run `ip` where the port is."""
        return self.run_in(self.netns, ["ip", *words])

    def wait_until_up(self):
        """Wait until both ends let packets out, which Linux sees to in the background."""
        end = time.monotonic() + UP_TIMEOUT_S
        for where, name in ((self.netns, "dpu0"), (self.far, "eth0")):
            while "state UP" not in self.run_in(where, ["ip", "link", "show", name]).stdout:
                assert time.monotonic() < end, f"{name} does not come up"
                time.sleep(0.005)

    def open(self, queues=1, **keys):
        """Open the port and map its rings; returns the first worker."""
        self.port = AfPacketPort(port_config(self.netns, "dpu0", **self.keys | keys), queues)
        self.port.open()
        self.plane = Plane(self.port)
        return self.plane.worker(0, queues)

    def close(self):
        """Give all of it up; twice is allowed."""
        if self.plane is not None:
            self.plane.close()
        if self.port is not None:
            self.port.close()
        self.wire.close()


@pytest.fixture
def veth(netns, run_in):
    """A veth pair: `veth(mtu=1500)`."""
    made = []

    def make(mtu=1500):
        made.append(Veth(netns, run_in, mtu))
        return made[-1]

    yield make
    for pair in made:
        pair.close()
