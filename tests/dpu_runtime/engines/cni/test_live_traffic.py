"""Traffic through attachments of every kind, to a container on a tap port and back."""

import os
import socket

import pytest

from tests.clients.testpmd import BURST, Testpmd, virtio_user
from tests.live.daemon import wait_until
from tests.live.test_traffic import transfer

pytestmark = [
    pytest.mark.root,
    pytest.mark.compiled,
    pytest.mark.package("containernetworking-plugins", "iproute2", "iputils-ping"),
]

UDP_PORTS = (1000, 2000)
FRAME_BYTES = 300
PAYLOAD_BYTES = FRAME_BYTES - 14 - 20 - 8


def address_of(result):
    return result["ips"][0]["address"].partition("/")[0]


@pytest.mark.package("dpdk-dev")
@pytest.mark.parametrize("packed", [False, True])
def test_dpdk_in_a_container_by_the_socket_of_the_result(cni, packed):
    """testpmd in the namespace answers pings and sends UDP, by nothing but what the result says."""
    network = cni.network(version="1.1.0", kind="vhost_user", socketDir=str(cni.folder / "sockets"))
    kernels = cni.network(version="1.1.0")
    dpdk, tap = cni.container(), cni.container()
    result, there = network.add(dpdk), kernels.add(tap)
    own = result["interfaces"][0]
    flow = [f"--tx-ip={address_of(result)},{address_of(there)}", f"--tx-udp={UDP_PORTS[0]},{UDP_PORTS[1]}"]
    device = virtio_user(own["socketPath"], own["mac"], packed=packed)
    inside = ["nsenter", f"--net={dpdk.netns}"]
    with Testpmd(device, options=[*flow, f"--txpkts={FRAME_BYTES}"], wrap=inside) as pmd:
        pmd.ready()
        pmd.forward("icmpecho")
        pmd.start()
        ping = cni.run(tap, "ping", "-n", "-c", "20", "-i", "0.01", "-w", "5", address_of(result))
        assert " 0% packet loss" in ping.stdout
        assert own["mac"] in cni.run(tap, "ip", "neigh", "show", address_of(result)).stdout
        pmd.stop()
        with tap.socket(socket.SOCK_DGRAM, timeout_s=5) as server:
            server.bind((address_of(there), UDP_PORTS[1]))
            pmd.send_to(0, there["interfaces"][0]["mac"])
            pmd.forward("rxonly")
            pmd.start_tx_first(1)
            for _ in range(BURST):
                data, sender = server.recvfrom(2048)
                assert (len(data), sender) == (PAYLOAD_BYTES, (address_of(result), UDP_PORTS[0]))
        network.check(dpdk)
        network.delete(dpdk)  # under a driver that is still connected
        assert not os.path.exists(own["socketPath"])
        assert wait_until(lambda: not pmd.is_up())
    kernels.delete(tap)
    assert cni.is_clean()


@pytest.mark.parametrize("driver", ["af_packet", "af_xdp"])
def test_a_veth_by_either_driver(cni, driver):
    network, kernels = cni.network(kind="veth", driver=driver), cni.network()
    containers = veth, tap, other = [cni.container() for _ in range(3)]
    networks = {veth: network, tap: kernels, other: network}
    addresses = {one: address_of(networks[one].add(one)) for one in containers}
    assert sorted(port["kind"] for port in cni.ports().values()) == [driver, driver, "tap"]
    for peer in (tap, other):
        ping = cni.run(veth, "ping", "-n", "-c", "5", "-i", "0.01", "-w", "5", addresses[peer])
        assert " 0% packet loss" in ping.stdout
        assert transfer(veth, peer, 8 << 20, addresses[peer])
        assert transfer(peer, veth, 8 << 20, addresses[veth])
    for one in containers:
        networks[one].check(one)
    for one in containers:
        networks[one].delete(one)
        assert cni.links(one) == []
    assert cni.is_clean()


@pytest.mark.parametrize("kind", ["tap", "veth"])
def test_ipv6_where_the_default_is_none(cni, kind):
    """A runtime may make namespaces with `disable_ipv6`; an address that is asked for counts more."""
    network = cni.network(kind=kind, ipam=None)
    one, two = cni.container(), cni.container()
    for number, container in enumerate((one, two), 1):
        cni.run(container, "sh", "-ec", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")
        network.add(container, ips=[f"fd88::{number}/64"])
        network.check(container)
    cni.run(one, "ping", "-n", "-c", "1", "-W", "5", "fd88::2")
    assert transfer(one, two, 1 << 20, "fd88::2")
    for container in (one, two):
        network.delete(container)
