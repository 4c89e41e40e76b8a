"""A port that runs: its row in every table, its configuration, its driver.

A new port kind is a branch of `make_driver`.
"""

from dpu_runtime.drivers.af_packet.port import AfPacketPort
from dpu_runtime.drivers.af_xdp.port import AfXdpPort
from dpu_runtime.drivers.null.port import NullPort
from dpu_runtime.drivers.tap.port import TapPort
from dpu_runtime.drivers.vhost_user import QUEUE_PAIRS_MAX
from dpu_runtime.drivers.vhost_user.port import VhostUserPort


class LivePort:
    """A port that runs: its index in every table, its configuration, its driver.

    base   what the index's counters said when the port came: an earlier port's packets
    plane  what its sessions talk to, of a port with rings
    open   whether packets may pass
    lost   whether its interface is gone: the data plane does not have it until the interface is back
    state  what `dpu port show` says of its interface, and `notes` what else there is to say
    """

    def __init__(self, index, config, driver, base, plane=None):
        self.index = index
        self.config = config
        self.driver = driver
        self.base = base
        self.plane = plane
        self.open = False
        self.lost = False
        self.state = "up"
        self.notes = []


def make_driver(config, workers, umem):
    """Driver of a port's kind.

    umem  drivers/af_xdp/umem.py, what all af_xdp ports of the device share
    """
    queues = config.queues or workers
    if config.kind == "null":
        return NullPort(config.name, queues, config.offload)
    if config.kind == "vhost_user":
        pairs = config.queues or QUEUE_PAIRS_MAX
        access = (int(config.socket_mode, 8), config.socket_group)
        return VhostUserPort(
            config.name, config.socket, config.client, pairs, config.offload, config.mtu, access
        )
    if config.kind == "af_packet":
        return AfPacketPort(config, queues)
    if config.kind == "af_xdp":
        return AfXdpPort(config, queues, umem)
    return TapPort(config.name, config.ifname, config.netns, queues, config.offload)


def has_rings(config):
    """Whether the queues of ports of this kind are rings in somebody's memory."""
    return config.kind == "vhost_user"


def makes_interface(config):
    """Whether ports of this kind make a network interface, to be wired."""
    return config.kind == "tap"


def uses_interface(config):
    """Whether ports of this kind use an interface that exists already."""
    return config.kind in ("af_packet", "af_xdp")
