"""AF_PACKET port, control half: open the sockets of an interface that exists already."""

from drivers.interface import InterfaceDriver
from drivers.port import Kind, PortError


class AfPacketPort(InterfaceDriver):
    """One interface by AF_PACKET; the interface stays when the port goes."""

    kind = Kind.AF_PACKET

    def _open_queues(self):
        raise PortError(self.name, "socket", text="not there yet")
