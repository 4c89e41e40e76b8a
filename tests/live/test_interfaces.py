"""Ports over interfaces that exist already, when those change under traffic; no other port notices."""

import contextlib
import os
import signal
import subprocess
from types import SimpleNamespace

import pytest

from dpu_runtime.config.errors import RpcError
from tests.live.daemon import Container, wait_until
from tests.live.pings import Pings

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2", "iputils-ping")]

KINDS = ("af_packet",)


class Cable:
    """A veth: end `x` is in namespace `outer`, for a port; `eth0` with an address is in a container."""

    def __init__(self, daemon, namespaces, kind):
        self.daemon, self.kind = daemon, kind
        self.outer = namespaces.create(ipv6=False)
        self.inner = Container(daemon, namespaces, "inner", 100, ipv6=False)
        self._namespaces = namespaces
        self.plug()

    def ip(self, *words):
        self._namespaces.run(self.outer, ["ip", *words])

    def plug(self):
        peer = ("peer", "name", "eth0", "netns", self.inner.netns)
        self.ip("link", "add", "x", "type", "veth", *peer)
        self.inner.run("ip", "addr", "add", f"{self.inner.ipv4}/24", "dev", "eth0")
        self.inner.run("ip", "link", "set", "eth0", "up")
        self.ip("link", "set", "x", "up")

    def attach(self, **keys):
        keys = {"kind": self.kind, "netns": self.outer, "ifname": "x"} | keys
        self.daemon.call("port.add", name="x", **keys)
        return self

    def info(self):
        return self.daemon.call("port.show", name="x")[0]["info"]

    def comes_to(self, state):
        assert wait_until(lambda: self.info()["state"] == state), self.info()


@pytest.fixture(params=KINDS)
def net(dpu, namespaces, request):
    """A port over an interface beside two taps, which lose nothing whatever becomes of it."""
    a, b = dpu.container("a"), dpu.container("b")
    cable = Cable(dpu, namespaces, request.param).attach()
    cable.inner.ping(a.ipv4)
    a.ping(b.ipv4)
    noise = cable.inner.popen("ping", "-n", "-q", "-i", 0.005, a.ipv4, stdout=-1, stderr=-1)
    bystander = Pings(a, b.ipv4)
    yield SimpleNamespace(dpu=dpu, a=a, b=b, cable=cable)
    noise.kill()
    noise.communicate()
    assert bystander.lost == []


def test_down_and_up(net):
    net.cable.ip("link", "set", "x", "down")
    net.cable.comes_to("down: interface 'x' is administratively down")
    net.cable.ip("link", "set", "x", "up")
    net.cable.comes_to("up")
    net.cable.inner.ping(net.a.ipv4)
    net.cable.inner.run("ip", "link", "set", "eth0", "down")
    net.cable.comes_to("down: interface 'x' has no carrier")
    net.cable.inner.run("ip", "link", "set", "eth0", "up")
    net.cable.comes_to("up")
    net.cable.inner.ping(net.a.ipv4)


def test_another_mtu_and_another_name(net):
    c = net.dpu.container("c", mtu=9000)
    net.cable.inner.run("ip", "link", "set", "eth0", "mtu", 9000)
    large = ("-W", 0.5, "-M", "do", "-s", 8972)
    assert net.cable.inner.ping(c.ipv4, 1, *large, check=False).returncode != 0
    net.cable.ip("link", "set", "x", "mtu", "9000")
    assert wait_until(lambda: net.cable.inner.ping(c.ipv4, 1, *large, check=False).returncode == 0)
    net.cable.ip("link", "set", "x", "name", "y")
    net.cable.comes_to("up: interface 'x' is called 'y' now")
    assert "interface 'x' was renamed to 'y'; the port goes on with it" in net.cable.info()["notes"]
    net.cable.inner.ping(net.a.ipv4)


def test_interface_that_is_deleted_and_made_again(net):
    counted = net.dpu.port("x")["rx_packets"]
    net.cable.ip("link", "del", "x")
    net.cable.comes_to("lost: interface 'x' is gone")
    assert net.dpu.port("x")["rx_packets"] >= counted
    net.cable.plug()
    net.cable.comes_to("up")
    net.cable.inner.ping(net.a.ipv4)
    assert "port x: lost: interface 'x' is gone" in net.dpu.log()
    assert "port x: up" in net.dpu.log()


def test_namespace_that_is_deleted_and_made_again(net):
    subprocess.run(["ip", "netns", "del", net.cable.outer], check=True)
    net.cable.comes_to(f"lost: network namespace {net.cable.outer!r} is gone")
    shown = ("ip", "link", "show", "eth0")  # the other end goes when the namespace does
    assert wait_until(lambda: net.cable.inner.run(*shown, check=False).returncode != 0)
    subprocess.run(["ip", "netns", "add", net.cable.outer], check=True)
    net.cable.comes_to("lost: interface 'x' is gone")
    net.cable.plug()
    net.cable.comes_to("up")
    net.cable.inner.ping(net.a.ipv4)


@pytest.mark.parametrize("kind", KINDS)
def test_restarts_while_an_interface_is_lost(new_daemon, namespaces, kind):
    daemon = new_daemon().start(standby=False)
    a = Container(daemon, namespaces, "a", 1, ipv6=False).attach()
    cable = Cable(daemon, namespaces, kind).attach()
    cable.inner.ping(a.ipv4)
    cable.ip("link", "del", "x")
    cable.comes_to("lost: interface 'x' is gone")
    os.kill(daemon.data_plane(), signal.SIGKILL)
    assert wait_until(lambda: daemon.status()["restarts"] == 1, 60)
    cable.comes_to("lost: interface 'x' is gone")
    daemon.kill_control()
    daemon.start(standby=False)
    cable.comes_to("lost: interface 'x' is gone")
    cable.plug()
    cable.comes_to("up")
    cable.inner.ping(a.ipv4)
    daemon.kill_control()
    cable.ip("link", "del", "x")  # while nobody looks
    daemon.start(standby=False)
    cable.comes_to("lost: interface 'x' is gone")
    daemon.call("port.del", name="x")


@pytest.mark.parametrize("kind", KINDS)
def test_interface_of_the_default_route(dpu, namespaces, kind):
    cable = Cable(dpu, namespaces, kind)
    cable.ip("addr", "add", "198.51.100.2/24", "dev", "x")
    cable.ip("route", "add", "default", "via", "198.51.100.1")
    text = r"port 'x': .* default route .* leaves by interface 'x'.*; accept_default_route = 'x' takes it"
    with pytest.raises(RpcError, match=text):
        cable.attach()
    assert dpu.call("port.show") == []
    with pytest.raises(RpcError, match=r"accept_default_route.*is not the port's interface, x"):
        cable.attach(accept_default_route="y")
    cable.attach(accept_default_route="x")
    cable.comes_to("up")
    assert cable.daemon.cli("port", "show", "x").returncode == 0


@contextlib.contextmanager
def churn(namespaces, cable):
    """Make the interface go and come all the time."""
    again = "ip link del x; ip link add x type veth peer name xp; ip link set x up; ip link set xp up"
    process = namespaces.popen(cable.outer, ["sh", "-c", f"while :; do {again}; done"], stdout=-3, stderr=-3)
    yield
    namespaces.stop(process)


def test_ports_come_and_go_while_interfaces_do(dpu, namespaces):
    cable = Cable(dpu, namespaces, "af_packet")
    added = 0
    with churn(namespaces, cable):
        for tries in range(600):
            with contextlib.suppress(RpcError):  # the interface is away just now
                cable.attach()
                added += 1
                dpu.call("port.del", name="x")
            if added and tries >= 30:
                break
    assert added
    assert dpu.call("port.show") == []
    assert "Traceback" not in dpu.log()
