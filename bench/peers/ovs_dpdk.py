"""Open vSwitch with DPDK: a bridge whose ports are of the type dpdkvhostuserclient.

Spec: Open vSwitch 3.1, "DPDK vHost User Ports".
"""

from bench.peers.hosts import Host
from bench.peers.ovs import OpenVSwitch

SWITCH = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"
MEMORY_MB = 768  # huge pages; a pool of buffers takes most of it


class OvsDpdk(OpenVSwitch):
    """A switch with a port for each of `sockets`, where the clients listen; its poll-mode thread on `cpu`.

    rules  flows beside the NORMAL action of the variant SWITCHED
    tso    take TCP segments of up to 64 KB
    """

    client_listens = True

    def __init__(self, sockets, cpu, folder, rules=0, tso=False):
        self.sockets = sockets
        other_config = {
            "dpdk-init": "true",
            "dpdk-extra": f'"-m {MEMORY_MB} --no-pci --no-telemetry --in-memory"',
            "pmd-cpu-mask": hex(1 << cpu),
            "dpdk-lcore-mask": hex(1 << cpu),
            "userspace-tso-enable": str(tso).lower(),
        }
        ports = {
            f"vhost{n}": ["type=dpdkvhostuserclient", f"options:vhost-server-path={path}"]
            for n, path in enumerate(sockets)
        }
        # In a namespace of its own: the bridge has an interface of the kernel, which goes with it.
        super().__init__(Host(str(cpu)), SWITCH, folder, other_config, ports, rules)
