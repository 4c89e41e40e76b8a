"""Open vSwitch's user-space datapath on kernel interfaces: by packet sockets, or by AF_XDP.

Spec: Open vSwitch 3.1, "Open vSwitch with AF_XDP".
"""

from bench.peers.ovs import SWITCHED, OpenVSwitch
from bench.peers.wires import PORTS

SWITCH = "/usr/lib/openvswitch-switch/ovs-vswitchd"  # the build without DPDK


class OvsKernel(OpenVSwitch):
    """A learning switch that joins `wires`, its threads on `cpu`.

    afxdp  ports of the type afxdp, polled by a thread of their own; else the main thread reads packet sockets
    tso    take TCP segments of up to 64 KB; not with afxdp
    """

    def __init__(self, wires, cpu, folder, afxdp=False, tso=False):
        self.wires = wires
        kind = ["type=afxdp", "options:xdp-mode=native"] if afxdp else ["type=system"]
        other_config = {"pmd-cpu-mask": hex(1 << cpu), "userspace-tso-enable": str(tso).lower()}
        super().__init__(wires.switch, SWITCH, folder, other_config, dict.fromkeys(PORTS, kind))

    def begin(self):
        """Forward."""
        super().begin(SWITCHED)

    def close(self):
        """End it, and take the wires down; twice is allowed."""
        super().close()
        self.wires.close()
