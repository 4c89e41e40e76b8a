"""Pairs of hosts (hosts.py) that containers' traffic is measured over, by the names they have in figures."""

import contextlib
from functools import partial

from bench.peers import nftables
from bench.peers.bridge import Bridge
from bench.peers.containers import Containers
from bench.peers.hosts import ANYWHERE
from bench.peers.ovs_pair import OvsPair
from bench.peers.veth import Veth

VETH, BRIDGE, OVS, OVS_PLAIN, DPU = "veth", "bridge", "OVS", "OVS, no TSO", "DPU"
NFT_LIST, NFT_SET = "nftables, list", "nftables, set"
MAKE = {
    VETH: Veth,
    BRIDGE: Bridge,
    OVS: OvsPair,
    OVS_PLAIN: partial(OvsPair, tso=False),
    NFT_LIST: partial(nftables.Nftables, form=nftables.LIST),
    NFT_SET: partial(nftables.Nftables, form=nftables.SET),
    DPU: Containers,
}
# Programs the pairs use -> Debian package
PACKAGES = {
    "ip": "iproute2",
    "ethtool": "ethtool",
    "nft": "nftables",
    "/usr/lib/openvswitch-switch/ovs-vswitchd": "openvswitch-switch-dpdk",
}
# The first host's programs have one CPU, the second's another: neither switch nor peer chooses for them.
APART = ("0", "1")
CPUS_OPTION = {"nargs": 2, "metavar": ("CLIENT", "SERVER"), "default": APART}


@contextlib.contextmanager
def made(names, cpus=ANYWHERE, **options):
    """{name: pair} of `names`, as long as the block lasts; the DPU's are at rest when it begins.

    options  name -> further keyword arguments of that pair
    """
    with contextlib.ExitStack() as stack:
        pairs = {name: stack.enter_context(MAKE[name](cpus, **options.get(name, {}))) for name in names}
        if DPU in pairs:
            pairs[DPU].wait_for_standby()  # its start takes a CPU
        yield pairs


def check_dropped(dpu, before, what):
    """Return the DPU's `stats`; fail when it dropped packets since it returned `before`."""
    after = dpu.stats()
    lost = after["balance"]["dropped"] - before["balance"]["dropped"]
    assert lost == 0, f"{what}: the DPU dropped {lost} packets: {after['drops']}"
    return after
