"""Linux bridge: two hosts on veth pairs, the bridge in a namespace of its own, default offloads."""

import contextlib

from bench.peers.hosts import ANYWHERE, CLIENT_ADDRESS, PREFIX, SERVER_ADDRESS, Assembled, Host

INTERFACE = "eth0"


class Bridge(Assembled):
    """A pair of hosts; see hosts.py."""

    name = "bridge"
    address = SERVER_ADDRESS

    def __init__(self, cpus=ANYWHERE):
        with contextlib.ExitStack() as made:
            self.client, self.server = (made.enter_context(Host(cpu)) for cpu in cpus)
            self._switch = made.enter_context(Host())
            self._switch.run("ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0")
            self._switch.run("ip", "link", "set", "br0", "up")
            self._attach(self.client, "port0", CLIENT_ADDRESS)
            self._attach(self.server, "port1", SERVER_ADDRESS)
            self._made = made.pop_all()

    def _attach(self, host, port, address):
        peer = ["peer", "name", INTERFACE, "netns", host.pid]
        self._switch.run("ip", "link", "add", port, "type", "veth", *map(str, peer))
        self._switch.run("ip", "link", "set", port, "master", "br0", "up")
        host.run("ip", "address", "add", f"{address}/{PREFIX}", "dev", INTERFACE)
        host.run("ip", "link", "set", INTERFACE, "up")
