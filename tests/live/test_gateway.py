"""examples/gateway.toml: a namespace plays the host, and another the network behind it."""

import re
import subprocess
from types import SimpleNamespace

import pytest

from tests.live.daemon import ROOT, Container, LiveDaemon
from tests.live.test_traffic import mean_bytes, transfer

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2", "iputils-ping")]

BEYOND = {4: "192.0.2.2", 6: "2001:db8:0:2::2"}
HOST = {4: "10.0.0.1", 6: "fd00:0:0:1::1"}
CONTAINER = {4: "10.0.0.2", 6: "fd00:0:0:1::2"}
TRANSFER_BYTES = 32 << 20


@pytest.fixture
def net(namespaces, socket_dir):
    """The example on a daemon in a `host` of its own; a cable leads from there to `beyond`."""
    daemon = LiveDaemon(socket_dir)
    web, host, beyond = (
        Container(daemon, namespaces, name, 1, ipv6=True) for name in ("web", "host", "beyond")
    )
    host.run("ip", "link", "add", "wan", "type", "veth", "peer", "name", "eth0", "netns", beyond.netns)
    for place, ifname, number in ((host, "wan", 1), (beyond, "eth0", 2)):
        for address in (f"192.0.2.{number}/24", f"2001:db8:0:2::{number}/64"):
            place.run("ip", "addr", "add", address, "dev", ifname)
        place.run("ip", "link", "set", ifname, "up")
    for network, gateway in (("10.0.0.0/24", "192.0.2.1"), ("fd00:0:0:1::/64", "2001:db8:0:2::1")):
        beyond.run("ip", "route", "add", network, "via", gateway)
    for knob in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        host.run("sh", "-c", f"echo 1 > /proc/sys/net/{knob}")
    text = (ROOT / "examples" / "gateway.toml").read_text()
    client = namespaces.create()
    for name, netns in (("web", web.netns), ("client", client)):
        text = text.replace(f'netns = "{name}"', f'netns = "{netns}"')
    config = daemon.config_file(text, standby=False)
    try:
        daemon.start(config, wrap=["nsenter", f"--net=/run/netns/{host.netns}"])
        yield SimpleNamespace(daemon=daemon, web=web, host=host, beyond=beyond)
    finally:
        daemon.close()


def test_containers_reach_the_host_and_beyond(net):
    for family in (4, 6):
        for target in (HOST[family], BEYOND[family]):
            net.web.ping(target)
        net.beyond.ping(CONTAINER[family])
        net.host.ping(CONTAINER[family])
        for place, address in ((net.host, HOST[family]), (net.beyond, BEYOND[family])):
            assert transfer(net.web, place, TRANSFER_BYTES, address)
            assert transfer(place, net.web, TRANSFER_BYTES, CONTAINER[family])
    assert net.daemon.settled()
    port = net.daemon.port("host")
    for direction in ("rx", "tx"):  # segments crossed whole, their checksums owed
        assert mean_bytes(port, direction) > 8000
    assert (port["gso_segments"], port["tx_checksums"]) == (0, 0)


def test_the_interface_goes_with_the_daemon(net):
    assert "dpu0" in net.host.run("ip", "-o", "link").stdout
    assert net.daemon.stop() == 0
    assert "dpu0" not in net.host.run("ip", "-o", "link").stdout


def test_the_page_adds_such_a_port(dpu, netns):
    """Its command lines, in the tour's own words but for the places."""
    text = (ROOT / "docs" / "ports.md").read_text()
    (line,) = re.findall(r"^    dpu (port add host .*)$", text, re.MULTILINE)
    place = netns()
    done = dpu.cli(*line.split(), "--netns", place)  # never an interface of the test machine's own
    assert done.returncode == 0, done.stderr
    web = dpu.container("web", address=["10.0.0.2/24"])
    (route,) = re.findall(r"^    nsenter --net=/run/netns/web (ip route .*)$", text, re.MULTILINE)
    web.run(*route.split())
    (ping,) = re.findall(r"^    nsenter --net=/run/netns/web (ping .* 10.0.0.1)$", text, re.MULTILINE)
    assert isinstance(web.run(*ping.split()), subprocess.CompletedProcess)
