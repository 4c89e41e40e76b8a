"""Ports over veth interfaces by AF_PACKET, in a real daemon: all kinds of traffic, processes that die."""

import os
import re
import signal

import pytest

from tests.drivers.af_packet.frames import frame, tagged
from tests.live.daemon import wait_until
from tests.live.test_traffic import checksum_errors, mean_bytes, transfer
from tests.live.veths import plug
from tests.wires import next_frame

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2", "iputils-ping")]

KIND = "af_packet"


@pytest.fixture(params=[False, True], ids=["slots", "blocks"])
def pair(dpu, namespaces, request):
    """Two containers, behind ports `a` and `b`, that receive in one way or the other."""
    return [plug(dpu, namespaces, name, KIND, blocks=request.param) for name in "ab"]


@pytest.mark.parametrize("size", [56, 1472, 9000, 65507])
def test_ping_in_fragments_too(pair, size):
    a, b = pair
    a.ping(b.ipv4, 3, "-s", size)


def test_large_tcp_packets_cross_in_one_piece(dpu, pair):
    a, b = pair
    assert transfer(a, b, 64 << 20)
    assert dpu.settled()
    ports = dpu.stats()["ports"]
    assert mean_bytes(ports["a"], "rx") > 8000
    assert mean_bytes(ports["b"], "tx") > 8000
    for port in ports.values():
        assert (port["gso_segments"], port["tx_checksums"], port["gro_merged"]) == (0, 0, 0)
    assert checksum_errors(a) + checksum_errors(b) == 0


def test_with_a_tap_port_and_without_offload(dpu, namespaces):
    a = plug(dpu, namespaces, "a", KIND, offload=False)
    b = plug(dpu, namespaces, "b", KIND)
    c = dpu.container("c")
    c.run("ip", "addr", "add", "10.7.0.200/24", "dev", "eth0")
    assert transfer(b, a, 8 << 20)
    assert transfer(a, b, 8 << 20)
    assert transfer(b, c, 8 << 20, "10.7.0.200")
    assert dpu.settled()
    assert dpu.port("a")["gso_segments"] > 1000
    assert mean_bytes(dpu.port("c"), "tx") > 8000
    assert sum(checksum_errors(one) for one in (a, b, c)) == 0


@pytest.mark.package("iperf3")
def test_iperf3_both_ways(dpu, namespaces, pair):
    a, b = pair
    server = b.popen("iperf3", "-s", stdout=-3)
    for extra in ([], ["-R"]):
        command = ["iperf3", "-c", b.ipv4, "-t", 1, "-f", "m", "--connect-timeout", 2000, *extra]
        wait_until(lambda command=command: a.run(*command, check=False).returncode == 0)
    namespaces.stop(server)
    assert dpu.port("a")["rx_bytes"] > 50 << 20
    assert dpu.port("b")["rx_bytes"] > 50 << 20


def test_tags_pass(pair):
    """The kernel takes a tag off what the port receives; it is there again on the other side."""
    a, b = pair
    sent = tagged(frame(300), 0x2064)
    with a.wire() as out, b.wire() as into:
        out.send(sent)
        assert next_frame(into) == sent


@pytest.mark.parametrize(
    ("blocks", "note"), [(False, "each packet comes at once"), (True, "packets come in blocks")]
)
def test_the_port_says_what_it_is(dpu, namespaces, blocks, note):
    plug(dpu, namespaces, "a", KIND, mtu=9000, blocks=blocks)
    config, info = dpu.call("port.show", name="a")[0].values()
    assert (config["kind"], config["ifname"], info["state"], info["copy"]) == (KIND, "a", "up", "copy")
    assert info["offloads"]["tso4"]
    assert info["notes"][0].startswith(note)
    shown = dpu.cli("port", "show", "a").stdout
    assert re.search(rf"got.notes +{note}", shown)


def test_the_mtu_of_the_configuration_is_set(dpu, namespaces):
    a = plug(dpu, namespaces, "a", KIND, mtu=4000)
    b = plug(dpu, namespaces, "b", KIND, mtu=4000)
    a.ping(b.ipv4, 1, "-M", "do", "-s", 3900)
    dpu.call("port.del", name="b")
    dpu.call("port.add", name="b", kind=KIND, netns=b.links, ifname="b", mtu=3000)
    assert "mtu 3000 " in namespaces.run(b.links, ["ip", "link", "show", "dev", "b"]).stdout


def test_no_such_interface_leaves_nothing(dpu, namespaces):
    where = namespaces.create()
    done = dpu.cli("port", "add", "x", "--kind", KIND, "--netns", where, "--ifname", "nope")
    assert done.returncode == 1
    assert f"no interface 'nope' in netns '{where}'" in done.stderr
    assert dpu.call("port.show") == []


def test_an_interface_that_goes_down_comes_back(dpu, namespaces, pair):
    a, b = pair
    a.ping(b.ipv4)
    before = dpu.drops("port_down")
    namespaces.run(b.links, ["ip", "link", "set", "dev", "b", "down"])
    a.run("ip", "neigh", "replace", b.ipv4, "lladdr", b.mac(), "dev", "eth0", "nud", "permanent")
    a.run("ping", "-c", "3", "-i", "0.01", "-W", "1", b.ipv4, check=False)
    assert wait_until(lambda: dpu.drops("port_down") >= before + 3)
    namespaces.run(b.links, ["ip", "link", "set", "dev", "b", "up"])
    assert wait_until(lambda: a.ping(b.ipv4, check=False).returncode == 0)


@pytest.mark.parametrize("blocks", [False, True], ids=["slots", "blocks"])
def test_processes_that_are_killed(new_daemon, namespaces, blocks):
    """The data plane, then both: sockets, rings and flows are there for the next one."""
    daemon = new_daemon().start()
    a, b = (plug(daemon, namespaces, name, KIND, blocks=blocks) for name in "ab")
    a.ping(b.ipv4, 3)
    standby = daemon.wait_for_standby()
    ping = a.popen("ping", "-n", "-q", "-i", 0.01, "-c", 300, b.ipv4, stdout=-1, text=True)
    assert wait_until(lambda: daemon.port("a")["rx_packets"] > 30)
    os.kill(daemon.data_plane(), signal.SIGKILL)
    assert wait_until(lambda: daemon.data_plane() == standby), daemon.log()
    lost = 300 - int(re.search(r"(\d+) received", ping.communicate(timeout=60)[0])[1])
    assert lost < 60
    assert transfer(a, b, 8 << 20)
    daemon.kill_control()
    a.ping(b.ipv4, 3)
    daemon.start(daemon.folder / "dpu.toml")
    assert transfer(b, a, 8 << 20)
    assert daemon.settled()
