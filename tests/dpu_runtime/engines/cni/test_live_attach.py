"""ADD, DEL and CHECK of containers on tap ports, with the real daemon and the reference plugins.

Each bug that other plugins had is a test by its name; docs/containers.md says what is promised.
"""

import json

import pytest

from tests.dpu_runtime.engines.cni.runtime import CallError, write_program

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("containernetworking-plugins")]


def refused(call, *args, **kwargs):
    """The error that a call ends with."""
    with pytest.raises(CallError) as caught:
        call(*args, **kwargs)
    return caught.value


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_a_container_comes_and_goes(cni, version):
    network = cni.network(version=version)
    container = cni.container()
    result = network.add(container)
    (port,) = cni.ports().values()
    assert port["owner"] == f"cni:net:{container.id}:eth0"
    assert result["cniVersion"] == version
    (interface,) = result["interfaces"]
    mtu = {"mtu": 1500} if version == "1.1.0" else {}
    assert interface == {"name": "eth0", "mac": port["mac"], "sandbox": container.netns} | mtu
    family = {"version": "4"} if version < "1.0.0" else {}
    (ip,) = result["ips"]
    assert ip == family | {"address": "10.88.0.2/24", "gateway": "10.88.0.1", "interface": 0}
    assert cni.links(container) == ["eth0"]
    assert cni.leases() == ["10.88.0.2"]
    if version >= "0.4.0":
        network.check(container)
    network.delete(container)
    assert cni.links(container) == []
    assert cni.is_clean()


def test_containers_of_a_network_reach_each_other(cni):
    network = cni.network(mtu=1400, vlan=7, spoofCheck=True)
    one, two = cni.container(), cni.container()
    results = [network.add(container) for container in (one, two)]
    addresses = [result["ips"][0]["address"].partition("/")[0] for result in results]
    cni.run(one, "ping", "-n", "-c", "1", "-W", "5", addresses[1])
    shown = json.loads(cni.run(two, "ip", "-j", "link", "show", "eth0").stdout)[0]
    assert shown["mtu"] == 1400
    assert shown["address"] == results[1]["interfaces"][0]["mac"]
    assert {(port["vlan"], port["spoof_check"]) for port in cni.ports().values()} == {(7, True)}
    for container in (one, two):
        network.delete(container)


def test_two_interfaces_of_one_container(cni):
    networks = [cni.network(name=name) for name in ("blue", "green")]
    container = cni.container()
    for network, ifname in zip(networks, ("eth0", "eth1"), strict=True):
        network.add(container, ifname)
    assert cni.links(container) == ["eth0", "eth1"]
    for network, ifname in zip(networks, ("eth0", "eth1"), strict=True):
        network.check(container, ifname)
        network.delete(container, ifname)


def test_routes_and_dns_of_ipam(cni):
    addresses = [
        {"address": "10.88.1.5/24", "gateway": "10.88.1.1"},
        {"address": "fd88::5/64", "gateway": "fd88::1"},
    ]
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "10.9.0.0/16", "gw": "10.88.1.9"}]
    ipam = {"type": "static", "addresses": addresses, "routes": routes, "dns": {"domain": "example.org"}}
    network = cni.network(ipam=ipam)
    container = cni.container()
    result = network.add(container)
    assert result["dns"] == {"domain": "example.org"}
    shown = [
        (route["dst"], route["gateway"])
        for family in "46"
        for route in json.loads(cni.run(container, "ip", f"-{family}", "-j", "route").stdout)
        if "gateway" in route
    ]
    assert shown == [("default", "10.88.1.1"), ("10.9.0.0/16", "10.88.1.9"), ("default", "fd88::1")]
    network.check(container)
    network.delete(container)


def test_addresses_without_ipam(cni):
    network = cni.network(
        ipam=None, addresses=[{"address": "10.88.1.5/24"}], gateway="10.88.1.1", routes=[{"dst": "0.0.0.0/0"}]
    )
    container = cni.container()
    assert network.add(container)["ips"] == [
        {"address": "10.88.1.5/24", "gateway": "10.88.1.1", "interface": 0}
    ]
    network.check(container)
    network.delete(container)
    result = network.add(container, ips=["10.88.1.7/24"])
    assert result["ips"][0]["address"] == "10.88.1.7/24"
    network.delete(container)


def test_capabilities_mac_and_ips(cni):
    network = cni.network()
    container = cni.container()
    result = network.add(container, mac="02:00:00:00:00:77", ips=["10.88.0.77/24"])
    assert result["interfaces"][0]["mac"] == "02:00:00:00:00:77"
    assert result["ips"][0]["address"] == "10.88.0.77/24"
    assert cni.leases() == ["10.88.0.77"]
    network.check(container)
    network.delete(container)
    result = network.add(container, args="IgnoreUnknown=1;MAC=02:00:00:00:00:78;IP=10.88.0.78")
    assert result["interfaces"][0]["mac"] == "02:00:00:00:00:78"
    assert result["ips"][0]["address"] == "10.88.0.78/24"
    network.delete(container)


def test_an_add_once_more_leaves_the_first_alone(cni):
    network = cni.network()
    container = cni.container()
    first = network.add(container)
    again = refused(cni.runtime.call, "ADD", network.conf(network.plugins[0]), container)
    assert again.code == 101
    assert "DEL it first" in str(again)
    assert cni.leases() == ["10.88.0.2"]
    network.cache[container.id, "eth0"] = (first, "", {})
    network.check(container)
    network.delete(container)


# what other plugins got wrong


def test_del_without_a_namespace(cni):  # ovs-cni#106
    network = cni.network()
    for gone in (False, True):
        container = cni.container()
        network.add(container)
        if gone:
            cni.namespaces.run(cni.host, ["ip", "netns", "del", container.name])
        network.delete(container, netns=gone)
        assert cni.is_clean()


def test_del_twice(cni):
    network = cni.network()
    container = cni.container()
    network.add(container)
    network.delete(container)
    network.delete(container)


def test_del_of_a_container_that_was_never_added(cni):
    other = cni.container()
    network = cni.network()
    network.add(other)
    network.delete(cni.container())
    assert len(cni.ports()) == len(cni.leases()) == 1
    network.delete(other)


def test_del_after_a_mistake_in_the_configuration(cni):
    network = cni.network()
    container = cni.container()
    network.add(container)
    conf = network.conf(network.plugins[0]) | {"mtu": "big", "brigde": True}
    assert refused(cni.runtime.call, "ADD", conf, container).code in (2, 7)
    assert cni.runtime.call("DEL", conf, container) is None
    assert cni.is_clean()


@pytest.mark.parametrize(
    ("keys", "code", "text"),
    [
        ({"mtu": 70}, 7, None),  # taken by the DPU, but not with the IPv6 address
        ({"routes": [{"dst": "10.9.0.0/16", "gw": "192.0.2.1"}]}, 7, "in no network of the port's addresses"),
        ({"routes": [{"dst": "10.9.0.0/16"}]}, 7, "names no gateway"),
    ],
)
def test_an_add_that_the_daemon_refuses_leaves_nothing(cni, keys, code, text):  # ovs-cni#276
    addresses = [{"address": "fd88::5/64"}]
    error = refused(cni.network(ipam=None, addresses=addresses, **keys).add, cni.container())
    assert error.code == code
    assert text is None or text in str(error)
    assert cni.is_clean()


def test_an_add_that_fails_after_ipam_gives_the_address_back(cni):  # ovs-cni#276
    container = cni.container()
    cni.run(container, "ip", "link", "add", "eth0", "type", "bridge")
    error = refused(cni.runtime.call, "ADD", cni.network().conf(cni.plugin()), container)
    assert error.code == 100
    assert "exists already" in str(error)
    assert cni.is_clean()
    assert cni.links(container) == ["eth0"]  # somebody else's


def test_an_add_whose_ipam_fails_leaves_nothing(cni):
    ipam = cni.plugin()["ipam"] | {"ranges": [[{"subnet": "10.88.0.0/30", "rangeStart": "10.88.0.2"}]]}
    network = cni.network(ipam=ipam)
    one, two = cni.container(), cni.container()
    network.add(one)
    error = refused(cni.runtime.call, "ADD", network.conf(network.plugins[0]), two)
    assert "host-local ADD" in str(error)
    assert len(cni.ports()) == len(cni.leases()) == len(cni.records()) == 1
    network.delete(one)


def test_a_chained_add_that_fails_leaks_no_address(cni):  # containerd#12130
    write_program(
        cni.runtime.bin / "failing",
        '#!/bin/sh\n[ "$CNI_COMMAND" = ADD ] || exit 0\necho \'{"code": 999, "msg": "not today"}\'; exit 1\n',
    )
    network = cni.network({"type": "failing"})
    error = refused(network.add, cni.container())
    assert error.code == 999
    assert cni.is_clean()


def test_an_add_that_was_killed_is_cleaned_up(cni):
    """Addresses of a call that died half way, or of a host that did, go with the next ADD or with DEL."""
    network = cni.network()
    container = cni.container()
    network.add(container)
    cni.daemon.call("port.detach", owner=f"cni:net:{container.id}:eth0")  # what a reboot does
    assert cni.leases() == ["10.88.0.2"]
    assert network.add(container)["ips"][0]["address"] == "10.88.0.3/24"
    assert cni.leases() == ["10.88.0.3"]
    network.delete(container)


def test_del_without_a_daemon_gives_the_address_back_and_is_tried_again(cni):
    network = cni.network()
    container = cni.container()
    network.add(container)
    network.plugins = [cni.plugin(socket="/nowhere/dpu.sock")]
    error = refused(network.delete, container)
    assert error.code == 11
    assert (cni.leases(), len(cni.records()), len(cni.ports())) == ([], 1, 1)
    network.plugins = [cni.plugin()]
    network.delete(container)
    assert cni.is_clean()


def test_nothing_is_kept_in_tmp(cni):  # ovs-cni#304
    conf = cni.plugin()
    assert not conf.pop("dataDir").startswith("/var")
    from dpu_runtime.engines.cni.config import parse

    assert parse(conf | {"name": "net"}, "1.0.0").data_dir == "/var/lib/cni/dpu"


# CHECK, GC, STATUS


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (["ip", "link", "set", "eth0", "address", "02:00:00:00:00:99"], "mac of eth0"),
        (["ip", "link", "set", "eth0", "mtu", "1300"], "mtu of eth0"),
        (["ip", "link", "set", "eth0", "down"], "state of eth0: down, it was up"),
        (["ip", "address", "flush", "dev", "eth0"], "addresses of eth0: 10.88.0.2/24 is missing"),
        (["ip", "route", "del", "default"], "routes of eth0: 0.0.0.0/0 via 10.88.0.1 is missing"),
        (["ip", "link", "set", "eth0", "name", "eth9"], "no interface eth0"),
    ],
)
def test_check_finds_what_was_changed(cni, damage, text):
    ipam = cni.plugin()["ipam"] | {"routes": [{"dst": "0.0.0.0/0"}]}
    network = cni.network(version="1.1.0", ipam=ipam)
    container = cni.container()
    network.add(container)
    network.check(container)
    if "name" in damage:
        cni.run(container, "ip", "link", "set", "eth0", "down")
    cni.run(container, *damage)
    error = refused(network.check, container)
    assert error.code == 103
    assert text in str(error)
    network.delete(container)


def test_check_finds_a_port_and_a_lease_that_are_gone(cni):
    network = cni.network()
    container = cni.container()
    network.add(container)
    lease = next(cni.leases_dir.glob("*/10.88.0.2"))
    text = lease.read_bytes()
    lease.unlink()
    assert "host-local CHECK" in str(refused(network.check, container))
    lease.write_bytes(text)
    network.check(container)
    (name,) = cni.ports()
    cni.daemon.call("port.detach", name=name)
    assert f"no port {name}" in str(refused(network.check, container))
    network.delete(container)


@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "cni.dev/attachments"])
def test_gc_takes_away_what_is_not_listed(cni, key):
    network = cni.network(version="1.1.0")
    other = cni.network(version="1.1.0", name="other")
    kept, forgotten, killed, foreign = (cni.container() for _ in range(4))
    for container in (kept, forgotten, killed):
        network.add(container)
    other.add(foreign)
    cni.daemon.call("port.detach", owner=f"cni:net:{killed.id}:eth0")  # its lease is still there
    for container in (forgotten, killed):
        network.cache.pop((container.id, "eth0"))
    network.collect(key)
    assert {port["owner"] for port in cni.ports().values()} == {
        f"cni:net:{kept.id}:eth0",
        f"cni:other:{foreign.id}:eth0",
    }
    assert len(cni.leases()) == len(cni.records()) == 2
    network.check(kept)
    network.delete(kept)
    other.delete(foreign)


def test_status_and_gc_go_to_an_ipam_that_knows_them(cni):
    versions = '{"cniVersion": "1.1.0", "supportedVersions": ["1.1.0"]}'
    calls = cni.folder / "calls"
    write_program(
        cni.runtime.bin / "ipam",
        f"#!/bin/sh\necho $CNI_COMMAND >> {calls}\ncase $CNI_COMMAND in\nVERSION) echo '{versions}';;\n"
        'STATUS) echo \'{"code": 51, "msg": "half of it"}\'; exit 1;;\nesac\n',
    )
    network = cni.network(version="1.1.0", ipam={"type": "ipam"})
    assert refused(network.status).code == 51
    network.collect()
    assert calls.read_text().split() == ["VERSION", "STATUS", "VERSION", "GC"]
    cni.network(version="1.1.0").status()
