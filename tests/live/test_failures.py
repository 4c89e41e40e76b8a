"""A port that fails does so alone: interface down, namespace gone, receiver that does not read."""

import socket

import pytest

from tests.live.daemon import wait_until
from tests.live.pings import Pings

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2", "iputils-ping")]

DATAGRAM_BYTES = 1000


def shower(sender, address, count=2000):
    """Send many datagrams at once to somebody who does not listen."""
    with sender.socket(socket.SOCK_DGRAM) as out:
        for _ in range(count):
            out.sendto(bytes(DATAGRAM_BYTES), (address, 7))


def test_interface_that_is_down(dpu):
    a, b, c = (dpu.container(name) for name in "abc")
    a.ping(b.ipv4)
    a.ping(c.ipv4)
    before = dpu.drops("port_down")
    ping = Pings(a, c.ipv4)
    b.run("ip", "link", "set", "eth0", "down")
    shower(a, b.ipv4, 500)
    assert wait_until(lambda: dpu.drops("port_down") >= before + 500)
    assert dpu.port("b")["tx_dropped"] == dpu.drops("port_down") - before
    assert ping.lost == []
    b.run("ip", "link", "set", "eth0", "up")
    a.ping(b.ipv4)
    assert dpu.call("port.show", name="b")[0]["info"]["state"] == "up"


def test_overload_of_one_pair_does_not_stall_another(dpu):
    a, b, c, d = (dpu.container(name) for name in "abcd")
    a.ping(b.ipv4)
    ping = Pings(c, d.ipv4)
    shower(a, b.ipv4, 50_000)
    assert dpu.settled()
    assert dpu.port("b")["tx_packets"] > 1000
    assert ping.lost == []


def test_namespace_deleted_under_traffic(dpu):
    a, b, c = (dpu.container(name) for name in "abc")
    a.ping(b.ipv4)
    a.run("ip", "neigh", "replace", b.ipv4, "lladdr", b.mac(), "dev", "eth0", "nud", "permanent")
    ping = Pings(a, c.ipv4)
    b.run("ip", "netns", "del", b.netns)
    state = wait_until(lambda: (s := dpu.call("port.show", name="b")[0]["info"]["state"]) != "up" and s)
    assert state == "lost: File descriptor in bad state"
    shower(a, b.ipv4, 100)
    assert wait_until(lambda: dpu.drops("tx_error") >= 100)
    assert ping.lost == []
    assert dpu.cli("port", "del", "b").returncode == 0
    again = dpu.container("b")
    assert dpu.call("port.show", name="b")[0]["info"]["state"] == "up"
    again.ping(a.ipv4)


def test_interface_deleted_from_inside(dpu):
    a, b = dpu.container("a"), dpu.container("b")
    b.run("ip", "link", "del", "eth0")
    assert wait_until(lambda: dpu.call("port.show", name="b")[0]["info"]["state"] != "up")
    dpu.call("port.del", name="b")
    b.attach()
    a.ping(b.ipv4)


def test_ports_come_and_go_under_traffic(dpu):
    a, b, c = (dpu.container(name) for name in "abc")
    a.ping(b.ipv4)
    a.run("ip", "neigh", "replace", c.ipv4, "lladdr", c.mac(), "dev", "eth0", "nud", "permanent")
    ping = Pings(a, b.ipv4)
    stream = a.popen("ping", "-n", "-q", "-f", "-c", 20_000, c.ipv4, stdout=-1)
    for _ in range(8):
        dpu.call("port.del", name="c")
        c.attach()
    assert ping.lost == []
    stream.kill()
    stream.communicate()


def test_many_ports(dpu):
    a, b = dpu.container("a"), dpu.container("b")
    ping = Pings(a, b.ipv4)
    for number in range(40):
        dpu.call("port.add", name=f"p{number}", kind="tap", netns=b.netns, ifname=f"p{number}")
    assert len(dpu.call("port.show")) == 42
    assert ping.lost == []
    dpu.clear()
    assert dpu.call("port.show") == []
    assert "p1:" not in b.run("ip", "-o", "link").stdout


def test_long_silence_and_then_a_packet(dpu):
    """A worker that sleeps wakes for one packet at once."""
    a, b = dpu.container("a"), dpu.container("b")
    a.ping(b.ipv4)
    sleeps = sum(worker["sleeps"] for worker in dpu.stats()["workers"])
    out = a.ping(b.ipv4, 5, "-i", 0.3, "-q").stdout
    assert float(out.rpartition("= ")[2].split("/")[1]) < 20, out  # ms, mean
    assert sum(worker["sleeps"] for worker in dpu.stats()["workers"]) > sleeps
