"""Attachments of the other kinds, the host's own interface, port mappings, plugins further down a chain."""

import json
import os
import socket
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from dpu_runtime.engines.cni.attachment import BURST_BYTES_MAX, BURST_BYTES_MIN, METER_DEPTH_MS
from dpu_runtime.functions.meter import limits
from dpu_runtime.kernels.meter.table import BURST_MAX, BURST_MIN
from tests.dpu_runtime.engines.cni.runtime import CallError
from tests.live.daemon import wait_until

pytestmark = [
    pytest.mark.root,
    pytest.mark.compiled,
    pytest.mark.package("containernetworking-plugins", "iptables"),
]


def refused(call, *args, **kwargs):
    """The error that a call ends with."""
    with pytest.raises(CallError) as caught:
        call(*args, **kwargs)
    return caught.value


def addresses_of(result):
    return [ip["address"].partition("/")[0] for ip in result["ips"]]


# vhost_user


def test_a_vhost_user_container_gets_a_socket(cni):
    folder = cni.folder / "sockets"
    network = cni.network(
        version="1.1.0",
        kind="vhost_user",
        socketDir=str(folder),
        socketMode="0660",
        socketGroup=str(os.getgid()),
    )
    container = cni.container()
    result = network.add(container)
    path = result["interfaces"][0]["socketPath"]
    found = os.stat(path)
    assert os.path.dirname(path) == str(folder)
    assert (stat.S_ISSOCK(found.st_mode), stat.S_IMODE(found.st_mode)) == (True, 0o660)  # app-netutil#45
    assert found.st_gid == os.getgid()
    assert result["ips"][0]["address"] == "10.88.0.2/24"
    assert cni.links(container) == []
    with socket.socket(socket.AF_UNIX) as frontend:
        frontend.connect(path)
    network.check(container)
    network.delete(container)
    assert not os.path.exists(path)


def test_a_socket_path_is_short_or_refused(cni):  # kubevirt#3208
    folder = cni.folder / ("x" * (107 - len(f"{cni.folder}//cni-0123456789ab-01234567.sock")))
    network = cni.network(kind="vhost_user", socketDir=str(folder))
    container = cni.container()
    network.add(container)
    (port,) = cni.ports().values()
    assert len(port["socket"]) == 107
    network.delete(container)
    network = cni.network(kind="vhost_user", socketDir=f"{folder}x")
    error = refused(cni.runtime.call, "ADD", network.conf(network.plugins[0]), container)
    assert error.code == 7
    assert "socketDir = " in str(error)
    assert f"at most {len(str(folder))} octets" in str(error)
    assert cni.is_clean()


def test_a_group_that_is_not_there_leaves_nothing(cni):
    keys = {"kind": "vhost_user", "socketDir": str(cni.folder / "sockets"), "socketGroup": "no-such-group"}
    error = refused(cni.network(**keys).add, cni.container())
    assert error.code == 100
    assert "no-such-group" in str(error)
    assert cni.is_clean()


# veth


def test_a_veth_container(cni):
    ipam = cni.plugin()["ipam"] | {"routes": [{"dst": "0.0.0.0/0"}]}
    network = cni.network(version="1.1.0", kind="veth", mtu=1400, ipam=ipam)
    one, two = cni.container(), cni.container()
    results = [
        network.add(container, mac=f"02:00:00:00:00:0{n}") for n, container in enumerate((one, two), 1)
    ]
    host, own = results[0]["interfaces"]
    assert (own["name"], own["mac"], own["mtu"]) == ("eth0", "02:00:00:00:00:01", 1400)
    assert results[0]["ips"][0]["interface"] == 1
    assert host["name"] in cni.links()
    assert {(port["kind"], port["qdisc"]) for port in cni.ports().values()} == {("af_packet", True)}
    cni.run(one, "ping", "-n", "-c", "1", "-W", "5", addresses_of(results[1])[0])
    network.check(one)
    for container in (one, two):
        network.delete(container)
        assert cni.links(container) == []


def test_a_veth_whose_port_is_refused_leaves_nothing(cni):
    container = cni.container()
    cni.run(container, "ip", "link", "add", "eth0", "type", "bridge")
    network = cni.network(kind="veth")
    error = refused(cni.runtime.call, "ADD", network.conf(network.plugins[0]), container)
    assert error.code == 5
    assert "File exists" in str(error)
    assert cni.is_clean()


def test_bandwidth_of_the_reference_plugins_shapes_a_veth(cni):
    network = cni.network(
        {"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 80_000}, kind="veth"
    )
    container = cni.container()
    result = network.add(container)
    (host,) = [interface["name"] for interface in result["interfaces"] if "sandbox" not in interface]
    assert "tbf" in cni.on_host("tc", "qdisc", "show", "dev", host).stdout
    network.check(container)
    network.delete(container)


# the host's own interface


def test_the_host_is_the_gateway(cni):
    network = cni.network(version="1.1.0", isGateway=True, isDefaultGateway=True)
    one, two = cni.container(), cni.container()
    result = network.add(one)
    host, own = result["interfaces"]
    assert (own["name"], own["sandbox"]) == ("eth0", one.netns)
    assert cni.links() == [host["name"]]
    assert result["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.88.0.1"}]
    cni.run(one, "ping", "-n", "-c", "1", "-W", "5", "10.88.0.1")
    cni.on_host("ping", "-n", "-c", "1", "-W", "5", addresses_of(result)[0])
    network.add(two)
    assert len(cni.ports()) == 3
    network.check(two)
    network.delete(one)
    assert cni.links() == [host["name"]]
    network.delete(two)
    assert cni.is_clean()


def test_containers_that_come_and_go_at_once_share_a_gateway(cni):
    network = cni.network(isGateway=True)
    containers = [cni.container() for _ in range(5)]
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(network.add, containers))
        assert len({addresses_of(result)[0] for result in results}) == 5
        assert len(cni.ports()) == 6
        list(pool.map(network.delete, containers))
    assert cni.is_clean()


def test_a_gateway_gets_the_addresses_of_every_subnet(cni):
    network = cni.network(ipam=None, isGateway=True, addresses=[{"address": "10.88.1.2/24"}])
    other = cni.network(
        ipam=None, isGateway=True, addresses=[{"address": "10.88.2.2/24", "gateway": "10.88.2.9"}]
    )
    one, two = cni.container(), cni.container()
    network.add(one)
    other.add(two)
    shown = json.loads(cni.on_host("ip", "-j", "-4", "address", "show", "up").stdout)
    found = {info["local"] for link in shown if link["ifname"] != "lo" for info in link["addr_info"]}
    assert found == {"10.88.1.1", "10.88.2.9"}
    network.delete(one)
    other.delete(two)


def test_a_gateway_needs_addresses(cni):
    error = refused(cni.network(ipam=None, isGateway=True).add, cni.container())
    assert error.code == 7
    assert "isGateway = true: needs addresses" in str(error)
    assert cni.is_clean()


# port mappings


def mapped(cni):
    """Rules of the host that portmap made for containers."""
    return [line for line in cni.on_host("iptables-save", "-t", "nat").stdout.splitlines() if "8080" in line]


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0"])
def test_port_mappings_are_made_by_portmap(cni, version):
    network = cni.network(version=version, isGateway=True, isDefaultGateway=True)
    container = cni.container()
    mappings = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    result = network.add(container, portMappings=mappings)
    rules = mapped(cni)
    assert any(f"--to-destination {addresses_of(result)[0]}:80" in rule for rule in rules), rules
    network.check(container)
    network.cache[container.id, "eth0"] = (None, "", {})  # a runtime that lost its cache
    network.delete(container)
    assert mapped(cni) == []


def test_a_port_mapping_that_fails_leaves_nothing(cni):
    network = cni.network(isGateway=True)
    mappings = [{"hostPort": 80, "containerPort": 80, "protocol": "carrier-pigeon"}]
    error = refused(
        cni.runtime.call, "ADD", network.conf(cni.plugin(), None, {"portMappings": mappings}), cni.container()
    )
    assert "portmap ADD" in str(error)
    assert cni.is_clean()


def test_bandwidth_is_the_ports(cni):
    network = cni.network()
    container = cni.container()
    asked = {
        "ingressRate": 8_000_000,
        "ingressBurst": 1_048_576,
        "egressRate": 4_000_000,
        "egressBurst": 8_000,
    }
    network.add(container, bandwidth=asked)
    (port,) = cni.ports().values()
    assert (port["tx_rate"], port["tx_burst"]) == (8_000_000, 250_000)  # what TCP needs where it is policed
    assert (port["rx_rate"], port["rx_burst"]) == (4_000_000, BURST_MIN)  # what a large segment needs
    network.check(container)
    network.delete(container)


@pytest.mark.parametrize(("kind", "shaped"), [("tap", True), ("veth", False)])
def test_bursts_are_made_useful_and_otherwise_kept(cni, kind, shaped):
    network = cni.network(kind=kind)
    container = cni.container()
    rate, burst = 80_000_000, 800_000  # 100,000 octets
    asked = {"ingressRate": rate, "ingressBurst": 2**31 - 1, "egressRate": rate, "egressBurst": burst}
    network.add(container, bandwidth=asked)
    (port,) = cni.ports().values()
    assert port["tx_burst"] == 2**31 // 8 - 1  # what the kubelet asks for
    assert port["rx_burst"] == (burst // 8 if shaped else rate // 8 // 4)
    network.delete(container)


def test_bursts_of_a_port_are_those_of_its_meter():
    assert (BURST_BYTES_MIN, BURST_BYTES_MAX) == (BURST_MIN, BURST_MAX)
    assert METER_DEPTH_MS == limits.METER_DEPTH_MS


def test_port_mappings_need_the_plugin(cni):
    network = cni.network()
    cni.runtime.path = [str(cni.runtime.bin)]
    for name in ("host-local",):
        os.symlink(f"/usr/lib/cni/{name}", cni.runtime.bin / name)
    mappings = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    error = refused(network.add, cni.container(), portMappings=mappings)
    assert error.code == 7
    assert "portmap" in str(error)
    assert cni.is_clean()


def test_gc_takes_port_mappings_away(cni):
    network = cni.network(version="1.1.0", isGateway=True)
    container = cni.container()
    network.add(container, portMappings=[{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}])
    assert mapped(cni)
    network.cache.clear()
    network.collect()
    assert mapped(cni) == []
    assert wait_until(cni.is_clean)


def test_portmap_further_down_the_chain(cni):
    network = cni.network({"type": "portmap", "capabilities": {"portMappings": True}}, isGateway=True)
    network.plugins[0]["capabilities"].pop("portMappings")
    container = cni.container()
    network.add(container, portMappings=[{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}])
    assert mapped(cni)
    network.delete(container)
    assert mapped(cni) == []
