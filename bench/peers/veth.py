"""A veth pair from one host to the other, with nothing between: the limit of what a switch can reach."""

import contextlib

from bench.peers.hosts import ANYWHERE, CLIENT_ADDRESS, PREFIX, SERVER_ADDRESS, Assembled, Host

INTERFACE = "eth0"


class Veth(Assembled):
    """A pair of hosts; see hosts.py."""

    name = "veth"
    address = SERVER_ADDRESS

    def __init__(self, cpus=ANYWHERE):
        with contextlib.ExitStack() as made:
            self.client, self.server = (made.enter_context(Host(cpu)) for cpu in cpus)
            peer = ["peer", "name", INTERFACE, "netns", self.server.pid]
            self.client.run("ip", "link", "add", INTERFACE, "type", "veth", *peer)
            for host, address in ((self.client, CLIENT_ADDRESS), (self.server, SERVER_ADDRESS)):
                host.run("ip", "address", "add", f"{address}/{PREFIX}", "dev", INTERFACE)
                host.run("ip", "link", "set", INTERFACE, "up")
            self._made = made.pop_all()
