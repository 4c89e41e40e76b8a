"""Open vSwitch's user-space datapath between two hosts, by packet sockets, with the offloads it can do.

With TSO it takes TCP segments of 64 KB in one piece; without, it cannot, and the hosts cut them before. UDP's
it drops: those the hosts always cut.
"""

import contextlib
import tempfile

from bench.peers.hosts import ANYWHERE, Assembled
from bench.peers.ovs_kernel import OvsKernel
from bench.peers.wires import INTERFACE, Wires

SWITCH_CPU = 1  # where the DPU's worker is


class OvsPair(Assembled):
    """A pair of hosts; see hosts.py. Its threads sleep while nothing is to forward."""

    def __init__(self, cpus=ANYWHERE, tso=True):
        self.name = "OVS" if tso else "OVS, no TSO"
        with contextlib.ExitStack() as made:
            folder = made.enter_context(tempfile.TemporaryDirectory(prefix="dpu-bench-"))
            wires = made.enter_context(Wires(SWITCH_CPU, cpus=cpus))
            if not tso:
                wires.without_offloads()
            for host in (wires.client, wires.server):
                host.run("ethtool", "-K", INTERFACE, "tx-udp-segmentation", "off")
            switch = made.enter_context(OvsKernel(wires, SWITCH_CPU, folder, tso=tso))
            switch.begin()
            self.client, self.server, self.address = wires.client, wires.server, wires.address
            self._made = made.pop_all()
