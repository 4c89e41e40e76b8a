"""dockerd's requests: the order it keeps, what it gets, and what a wrong one gets."""

import pytest

from tests.dpu_runtime.engines.docker.plugin import ENDPOINT, NETWORK, PORT, REFERENCE

OTHER_NETWORK = "1" * 64
OTHER_ENDPOINT = "2" * 64
IPV6 = {"AddressSpace": "LocalDefault", "Gateway": "fd99::1/64", "Pool": "fd99::/64"}


def test_handshake(plugin):
    assert plugin.post("Plugin.Activate") == (200, {"Implements": ["NetworkDriver"]})
    assert plugin.ask("GetCapabilities") == {"Scope": "local", "ConnectivityScope": "local"}


def test_life_of_a_container(device, plugin):
    assert plugin.create_network() == {}
    mac = plugin.create_endpoint()["Interface"]["MacAddress"]
    assert device.ports == {}
    assert plugin.join() == {
        "InterfaceName": {"SrcName": f"dpu{ENDPOINT[:12]}", "DstPrefix": "eth"},
        "Gateway": "10.99.66.1",
    }
    assert plugin.ask("ProgramExternalConnectivity", **REFERENCE, Options={}) == {}
    (port,) = device.ports.values()
    assert (port.name, port.owner, port.mac) == (PORT, f"docker:{ENDPOINT}", mac)
    assert (port.kind, port.netns, port.ifname, port.address) == ("tap", None, f"dpu{ENDPOINT[:12]}", [])
    assert plugin.ask("EndpointOperInfo", **REFERENCE)["Value"]["port"] == PORT
    assert plugin.leave() == [{}, {}, {}]
    assert device.ports == {}
    assert plugin.ask("DeleteNetwork", NetworkID=NETWORK) == {}
    assert plugin.state() == {"version": 1, "networks": {}, "endpoints": {}, "detach": {}}


def test_network_options_reach_the_port(device, plugin):
    assert plugin.create_network(generic={"mtu": "1400", "vlan": "7", "spoof_check": "true"}) == {}
    plugin.create_endpoint()
    plugin.join()
    port = device.ports[PORT]
    assert (port.mtu, port.vlan, port.spoof_check) == (1400, 7, True)


def test_dockers_own_name_of_the_mtu(device, plugin):
    plugin.create_network(generic={"com.docker.network.driver.mtu": "9000"})
    plugin.create_endpoint()
    plugin.join()
    assert device.ports[PORT].mtu == 9000


def test_a_port_may_be_given_a_name(device, plugin):
    plugin.create_network()
    plugin.create_endpoint(options={"port": "web"})
    plugin.join()
    assert list(device.ports) == ["web"]


def test_both_ip_versions(device, plugin):
    plugin.create_network(ipv6=[IPV6])
    plugin.create_endpoint(AddressIPv6="fd99::2/64")
    answer = plugin.join()
    assert (answer["Gateway"], answer["GatewayIPv6"]) == ("10.99.66.1", "fd99::1")


def test_an_internal_network_has_no_way_out(device, plugin):
    plugin.create_network(**{"com.docker.network.internal": True})
    plugin.create_endpoint()
    answer = plugin.join()
    assert "Gateway" not in answer
    assert answer["DisableGatewayService"] is True  # else dockerd adds an interface on a bridge


def test_a_mac_that_docker_has_chosen_is_not_said_back(device, plugin):
    plugin.create_network()
    assert plugin.create_endpoint(MacAddress="02:11:22:33:44:55") == {"Interface": {}}
    plugin.join()
    assert device.ports[PORT].mac == "02:11:22:33:44:55"


def test_an_address_that_comes_back_has_its_mac_again(plugin):
    plugin.create_network()
    first = plugin.create_endpoint()
    plugin.leave()
    assert plugin.create_endpoint(endpoint=OTHER_ENDPOINT) == first
    plugin.create_network(OTHER_NETWORK, {"vlan": "9"})
    assert plugin.create_endpoint(OTHER_NETWORK, "3" * 64) != first


def test_go_writes_null_for_nothing(device, plugin):
    assert plugin.ask("CreateNetwork", NetworkID=NETWORK, Options=None, IPv4Data=None, IPv6Data=None) == {}
    created = plugin.ask("CreateEndpoint", **REFERENCE, Interface=None, Options=None)
    assert created["Interface"]["MacAddress"]
    assert plugin.join()["InterfaceName"]["DstPrefix"] == "eth"


def test_keys_of_later_versions_are_ignored(plugin):
    assert (
        plugin.ask("CreateNetwork", NetworkID=NETWORK, IPv4Data=[{"Pool": "0.0.0.0/0", "New": 1}], New=1)
        == {}
    )


def test_a_swarm_keeps_nothing(plugin):
    options = {"mtu": "1400"}
    assert plugin.ask("AllocateNetwork", NetworkID=NETWORK, Options=options) == {"Options": options}
    assert "mtu" in plugin.ask("AllocateNetwork", NetworkID=NETWORK, Options={"mtu": "x"})["Err"]
    assert plugin.ask("FreeNetwork", NetworkID=NETWORK) == {}
    found = {"DiscoveryType": 1, "DiscoveryData": {"Address": "10.0.0.1", "self": True}}
    assert plugin.ask("DiscoverNew", **found) == {}
    assert plugin.ask("DiscoverDelete", **found) == {}


@pytest.mark.parametrize(
    ("generic", "text"),
    [
        ({"mtu": "12"}, 'mtu = "12": allowed: 68..65521 octets'),
        ({"mtu": "big"}, 'mtu = "big": allowed: 68..65521 octets'),
        ({"vlan": "4095"}, 'vlan = "4095": allowed: 1..4094'),
        ({"spoof_check": "maybe"}, 'spoof_check = "maybe": allowed: true, false'),
        ({"socket": "dpu.sock"}, "allowed: an absolute path"),
        ({"colour": "red"}, 'colour = "red": unknown key; allowed: mtu, vlan, spoof_check, socket'),
        ({"mtu": "1400", "com.docker.network.driver.mtu": "1400"}, "are the same option"),
        ("mtu=1400", "allowed:"),
    ],
)
def test_wrong_network_options_are_named(plugin, generic, text):
    assert text in plugin.create_network(generic=generic)["Err"]
    assert not (plugin.state_dir / "docker.json").exists()


def test_a_small_mtu_does_not_go_with_ipv6(plugin):
    assert (
        "mtu = 1000: too small for IPv6" in plugin.create_network(generic={"mtu": "1000"}, ipv6=[IPV6])["Err"]
    )


def test_networks_do_not_mix(plugin):
    plugin.create_network()
    error = plugin.create_network(OTHER_NETWORK)["Err"]
    assert error.startswith(f"vlan = none: network {NETWORK} has it")
    assert "-o vlan=N" in error
    assert plugin.create_network(OTHER_NETWORK, {"vlan": "2"}) == {}
    assert plugin.create_network("3" * 64, {"socket": "/run/other.sock"}) == {}


def test_the_same_network_again(plugin):
    assert plugin.create_network() == {}
    assert plugin.create_network() == {}
    assert "exists, with other options" in plugin.create_network(generic={"mtu": "1400"})["Err"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"colour": "red"}, 'endpoint option colour = "red": unknown key; allowed: port'),
        ({"port": "no such name"}, "allowed: 1 to 32 of A-Z a-z 0-9 _ . -"),
        ({"com.docker.network.portmap": [{"Proto": 6, "Port": 80, "HostPort": 8080}]}, "cannot be published"),
    ],
)
def test_wrong_endpoint_options_are_named(plugin, options, text):
    plugin.create_network()
    assert text in plugin.create_endpoint(options=options)["Err"]
    assert plugin.state()["endpoints"] == {}


BAD = [
    ("CreateNetwork", {}, "NetworkID: missing"),
    ("CreateNetwork", {"NetworkID": 7}, "NetworkID = 7"),
    ("CreateNetwork", {"NetworkID": "../../x"}, "allowed: 12 to 128 letters and digits"),
    ("CreateNetwork", {"NetworkID": NETWORK, "Options": []}, "Options = []: allowed: an object"),
    ("CreateNetwork", {"NetworkID": NETWORK, "IPv4Data": {}}, "IPv4Data = {}: allowed: a list of objects"),
    ("CreateNetwork", {"NetworkID": NETWORK, "IPv4Data": [{"Gateway": "x"}]}, 'IPv4Data[0].Gateway = "x"'),
    ("DeleteNetwork", {"NetworkID": None}, "NetworkID = null"),
    ("CreateEndpoint", {"NetworkID": NETWORK}, "EndpointID: missing"),
    ("CreateEndpoint", REFERENCE | {"Interface": {"Address": "10.0.0.2"}}, 'Interface.Address = "10.0.0.2"'),
    (
        "CreateEndpoint",
        REFERENCE | {"Interface": {"MacAddress": "ff:ff:ff:ff:ff:ff"}},
        "a unicast MAC address",
    ),
    ("Join", REFERENCE, "SandboxKey: missing"),
    ("Join", REFERENCE | {"SandboxKey": "here"}, "allowed: an absolute path"),
    ("Leave", {"EndpointID": ENDPOINT}, "NetworkID: missing"),
    ("DiscoverNew", {"DiscoveryType": "node"}, 'DiscoveryType = "node"'),
    ("CreateNetwork", [], "a request is a JSON object"),
    ("CreateNetwork", b"{", "not JSON"),
    ("CreateNetwork", b"\xff\xfe{}", "not JSON"),
    ("CreateNetwork", b"[" * 100_000, "not JSON"),
]


@pytest.mark.parametrize(("method", "body", "text"), BAD)
def test_malformed_requests(plugin, method, body, text):
    status, answer = plugin.post(f"NetworkDriver.{method}", body)
    assert (status, list(answer)) == (400, ["Err"])
    assert text in answer["Err"]
    assert not (plugin.state_dir / "docker.json").exists()


def test_what_is_no_request(plugin):
    status, answer = plugin.post("NetworkDriver.Join", b" " * (1 << 20) + b"{}")
    assert (status, answer["Err"]) == (413, "NetworkDriver.Join: body too long; allowed: 1048576 octets")
    status, answer = plugin.post("NetworkDriver.Fly", {})
    assert status == 404
    assert "no method 'NetworkDriver.Fly'; allowed: Plugin.Activate, " in answer["Err"]
    assert plugin.post("NetworkDriver.Join", verb="GET")[0] == 405
    assert plugin.post("Plugin.Activate")[0] == 200


def test_out_of_order(device, plugin):
    assert "no such network, there are: none" in plugin.create_endpoint()["Err"]
    plugin.create_network()
    assert "no such endpoint" in plugin.join()["Err"]
    assert "no such endpoint" in plugin.ask("EndpointOperInfo", **REFERENCE)["Err"]
    assert "no such endpoint" in plugin.ask("ProgramExternalConnectivity", **REFERENCE)["Err"]
    plugin.create_endpoint()
    assert "exists already" in plugin.create_endpoint()["Err"]
    plugin.join()
    assert "has joined /nowhere/netns/f3c1f88085bf already" in plugin.join()["Err"]
    plugin.create_network(OTHER_NETWORK, {"vlan": "2"})
    assert (
        f"is in network {NETWORK}" in plugin.ask("Leave", **REFERENCE | {"NetworkID": OTHER_NETWORK})["Err"]
    )
    assert list(device.ports) == [PORT]


def test_the_end_may_come_twice_or_without_a_beginning(device, plugin):
    assert plugin.ask("DeleteNetwork", NetworkID=NETWORK) == {}
    assert plugin.ask("DeleteEndpoint", **REFERENCE) == {}
    assert plugin.ask("Leave", **REFERENCE) == {}
    plugin.create_network()
    plugin.create_endpoint()
    assert plugin.ask("Leave", **REFERENCE) == {}
    plugin.join()
    assert [plugin.ask("Leave", **REFERENCE) for _ in range(2)] == [{}, {}]
    assert [plugin.ask("DeleteEndpoint", **REFERENCE) for _ in range(2)] == [{}, {}]
    assert device.ports == {}


def test_delete_endpoint_without_leave(device, plugin):
    plugin.create_network()
    plugin.create_endpoint()
    plugin.join()
    assert plugin.ask("DeleteEndpoint", **REFERENCE) == {}
    assert device.ports == {}
