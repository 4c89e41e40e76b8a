"""af_xdp ports of a running daemon, over veths: what passes, what is said of them, what a crash leaves."""

import json
import os
import signal
import subprocess

import pytest

from dpu_runtime.config.errors import RpcError
from tests.live.daemon import Container, wait_until

pytestmark = [
    pytest.mark.root,
    pytest.mark.compiled,
    pytest.mark.package("iproute2", "iputils-ping", "iperf3"),
]


class Wired(Container):
    """A namespace with one end of a veth; the other, in a namespace like the host's, is for a port."""

    def __init__(self, daemon, namespaces, name, number, *, mtu=1500):
        super().__init__(daemon, namespaces, name, number, ipv6=False)
        self.host = namespaces.create(ipv6=False)
        self.end = f"v{name}"
        peer = ["peer", "name", self.end, "mtu", mtu, "netns", self.host]
        self.run("ip", "link", "add", "eth0", "mtu", mtu, "type", "veth", *peer)
        self.run("ip", "address", "add", f"{self.ipv4}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.on_host("ip", "link", "set", self.end, "up")

    def attach(self, **keys):
        keys = {"kind": "af_xdp", "netns": self.host, "ifname": self.end} | keys
        self.daemon.call("port.add", name=self.name, **keys)
        return self

    def on_host(self, *argv):
        """Run a command beside the port's interface."""
        return self._namespaces.run(self.host, argv).stdout

    def has_program(self):
        """Whether an XDP program is attached to the port's interface."""
        return "xdp" in json.loads(self.on_host("ip", "-j", "-d", "link", "show", self.end))[0]


@pytest.fixture
def wired(dpu, namespaces):
    """Make a container behind an af_xdp port of the shared daemon: `wired("a")`."""

    def make(name, *, mtu=1500, **keys):
        container = Wired(dpu.daemon, namespaces, name, len(dpu.containers) + 1, mtu=mtu)
        dpu.containers.append(container)
        return container.attach(**keys)

    return make


@pytest.fixture
def pair(new_daemon, namespaces):
    """Start a daemon with containers `a` and `b`: `daemon, a, b = pair()`."""

    def make(**runtime):
        daemon = new_daemon().start(**runtime)
        return daemon, *(Wired(daemon, namespaces, name, n).attach() for n, name in enumerate("ab", 1))

    return make


def tcp_passes(client, server, *options):
    """Whether iperf3 moves octets for a second."""
    listener = server.popen("iperf3", "-s", "-1", stdout=subprocess.DEVNULL)
    words = ("iperf3", "-c", server.ipv4, "-t", 1, "-J", *options)

    def moved():
        done = client.run(*words, check=False)
        return json.loads(done.stdout)["end"].get("sum_received", {}).get("bytes", 0)  # 0: refused yet

    octets = wait_until(moved, 10)
    listener.wait(10)
    return octets > 1 << 20


def bad_checksums(*containers):
    return sum(
        box.snmp(protocol, "InCsumErrors") for box in containers for protocol in ("Tcp", "Udp", "Icmp")
    )


def test_ping_and_what_is_said(dpu, wired):
    a, b = wired("a"), wired("b")
    a.ping(b.ipv4, 3)
    (shown,) = dpu.call("port.show", name="a")
    assert (shown["info"]["state"], shown["info"]["queues"], shown["info"]["copy"]) == ("up", 1, "copy")
    assert shown["info"]["notes"] == [
        "zerocopy mode is refused: Operation not supported",
        "the native program turns TSO off at the peer of veth 'va'",
    ]
    assert dpu.port("b")["tx_packets"] >= 3


@pytest.mark.parametrize("mode", ["auto", "generic"])
def test_tcp_both_ways(dpu, wired, mode):
    a, b = wired("a", xdp_mode=mode), wired("b")
    if mode == "generic":
        a.run("ethtool", "-K", "eth0", "tso", "off", "gso", "off")
    received = b.snmp("Ip", "InReceives")
    assert tcp_passes(a, b)
    assert tcp_passes(a, b, "-R")
    assert b.snmp("Ip", "InReceives") > received + 1000
    assert bad_checksums(a, b) == 0


def test_to_a_tap(dpu, wired):
    a, b = wired("a"), dpu.container("b")
    a.ping(b.ipv4)
    assert tcp_passes(a, b)
    assert tcp_passes(a, b, "-R")
    assert bad_checksums(a, b) == 0


def test_large_packets(dpu, wired):
    a, b = wired("a", mtu=9000), wired("b", mtu=9000)
    a.ping(b.ipv4, 3, "-s", 8972, "-M", "do")
    assert tcp_passes(a, b)
    assert bad_checksums(a, b) == 0


def test_a_port_that_goes_leaves_the_interface(dpu, wired):
    a = wired("a")
    assert a.has_program()
    dpu.call("port.del", name="a")
    assert not a.has_program()
    a.attach()
    a.ping(wired("b").ipv4)


def test_what_is_refused(dpu, wired, namespaces):
    box = Wired(dpu.daemon, namespaces, "c", 9)
    box.on_host("ip", "route", "add", "default", "dev", box.end)
    with pytest.raises(RpcError, match="accept_default_route = 'vc' takes it all the same"):
        box.attach()
    box.attach(accept_default_route="vc")
    with pytest.raises(RpcError, match="mode is refused: Operation not supported"):
        wired("d", xdp_mode="zerocopy")


def test_killed_data_plane(pair):
    daemon, a, b = pair()
    a.ping(b.ipv4)
    for _ in range(2):
        standby = daemon.wait_for_standby()
        flood = a.popen("ping", "-n", "-q", "-f", "-c", 1_000_000, b.ipv4, stdout=-1)
        assert wait_until(lambda: daemon.port("b")["rx_packets"] > 100)
        os.kill(daemon.data_plane(), signal.SIGKILL)
        assert wait_until(lambda standby=standby: daemon.data_plane() == standby, 20)
        assert a.has_program()
        flood.send_signal(signal.SIGINT)
        flood.wait(10)
        assert wait_until(lambda: a.ping(b.ipv4, check=False).returncode == 0, 20), daemon.log()
        assert daemon.settled()
    assert tcp_passes(a, b)
    assert daemon.stop() == 0
    assert not a.has_program()


def test_killed_control_process(pair):
    daemon, a, b = pair()
    a.ping(b.ipv4)
    daemon.kill_control()
    a.ping(b.ipv4)
    daemon.start()
    assert daemon.status()["adopted"]
    a.ping(b.ipv4)
    os.kill(daemon.data_plane(), signal.SIGKILL)  # what was adopted is handed on too
    assert wait_until(lambda: a.ping(b.ipv4, check=False).returncode == 0, 60), daemon.log()
    daemon.call("port.del", name="a")
    assert not a.has_program()
    a.attach()
    a.ping(b.ipv4)


def test_both_killed(pair):
    daemon, a, b = pair()
    plane = daemon.data_plane()
    daemon.kill_control()
    assert a.has_program()
    os.kill(plane, signal.SIGKILL)
    assert wait_until(lambda: not a.has_program() and not b.has_program())
    assert wait_until(lambda: not daemon.processes())
    daemon.start()
    a.ping(b.ipv4)
