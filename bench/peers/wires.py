"""Wires: two hosts on a veth pair each, whose other end is in a namespace between them, for what joins them.

    near eth0 ---- port0 switch port1 ---- eth0 far

What joins them has `wires`, `pids` of processes whose threads forward, `begin` and `rest`.
Here are those that the kernel brings: none at all (Direct), and a bridge (KernelBridge).
"""

import contextlib

from bench.peers.hosts import ANYWHERE, CLIENT_ADDRESS, PREFIX, SERVER_ADDRESS, Assembled, Host

INTERFACE = "eth0"
PORTS = ("port0", "port1")
QUIET = ("forward_delay", "0", "mcast_snooping", "0")  # a bridge that sends nothing of its own accord
OFFLOADS = ("tx", "tso", "gso", "gro")


class Wires(Assembled):
    """The hosts `near` and `far`, a pair for latency and TCP too; processes of `switch` run on `cpu`.

    gro     the ports have NAPI, which bench/peers/wire_load.c needs, and merge received TCP segments
    direct  the two hosts are on one veth pair, and `switch` has no interface
    cpus    of processes of the two hosts
    """

    address = SERVER_ADDRESS

    def __init__(self, cpu, gro=False, direct=False, cpus=ANYWHERE):
        with contextlib.ExitStack() as made:
            self.near, self.far = (made.enter_context(Host(where)) for where in cpus)
            self.client, self.server = self.near, self.far
            self.switch = made.enter_context(Host(str(cpu)))
            if direct:
                self._pair(self.near, INTERFACE, self.far, INTERFACE)
                ends = [(self.near, INTERFACE), (self.far, INTERFACE)]
            else:
                for host, port in zip((self.near, self.far), PORTS, strict=True):
                    self._pair(host, INTERFACE, self.switch, port)
                ends = [(self.switch, port) for port in PORTS]
            if gro:
                for host, interface in ends:
                    host.run("ethtool", "-K", interface, "gro", "on")
            self.near.run("ip", "address", "add", f"{CLIENT_ADDRESS}/{PREFIX}", "dev", INTERFACE)
            self.far.run("ip", "address", "add", f"{SERVER_ADDRESS}/{PREFIX}", "dev", INTERFACE)
            self._made = made.pop_all()

    @staticmethod
    def _pair(host, interface, other, other_interface):
        one_queue = ["numtxqueues", "1", "numrxqueues", "1"]
        peer = ["peer", "name", other_interface, *one_queue, "netns", other.pid]
        host.run("ip", "link", "add", interface, *one_queue, "type", "veth", *peer)
        for where, name in ((host, interface), (other, other_interface)):
            where.run("ip", "link", "set", name, "up")

    def without_offloads(self):
        """Have the hosts send and receive packets of the MTU with their checksums finished."""
        off = [word for name in OFFLOADS for word in (name, "off")]
        for host in (self.near, self.far):
            host.run("ethtool", "-K", INTERFACE, *off)
        return self


class Direct:
    """Nothing between the hosts: what sender and receiver can do at most."""

    pids = ()

    def __init__(self, cpu, gro=False):
        self.wires = Wires(cpu, gro, direct=True)

    def begin(self):
        """Nothing to do."""

    def rest(self):
        """Nothing to do."""

    def close(self):
        """Take it down; twice is allowed."""
        self.wires.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class KernelBridge(Direct):
    """A Linux bridge. It forwards in the interrupt of whoever sends, on the sender's CPU."""

    def __init__(self, cpu, gro=False, offloads=True):
        self.wires = Wires(cpu, gro)
        try:
            run = self.wires.switch.run
            run("ip", "link", "add", "br0", "type", "bridge", *QUIET)
            for port in PORTS:
                run("ip", "link", "set", port, "master", "br0")
            run("ip", "link", "set", "br0", "up")
            if not offloads:
                self.wires.without_offloads()
        except BaseException:
            self.close()
            raise
