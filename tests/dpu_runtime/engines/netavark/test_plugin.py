"""The netavark plugin by its published format: what podman 5 writes to it and reads from it."""

import io
import json
import subprocess
import sys

import pytest

from dpu_runtime.engines.netavark import command
from tests import conventions
from tests.live.daemon import ROOT
from tests.live.daemons import in_thread

CONTAINER = "752947ff91f961eb3cb47ffe9315016979f3ffbec09e4d96a4fae3fb03391697"
PORT = f"pod-{CONTAINER[:12]}-eth0"
NETNS = "/run/user/netns/netns-1"


def network(**changes):
    """A network as podman writes it."""
    options = changes.pop("options", {})
    return {
        "name": "example1",
        "id": "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9",
        "driver": "dpu",
        "network_interface": "enp1",
        "subnets": [{"subnet": "10.88.0.0/16", "gateway": "10.88.0.1", "lease_range": None}],
        "ipv6_enabled": False,
        "internal": False,
        "dns_enabled": True,
        "ipam_options": {"driver": "host-local"},
        "options": options,
        "network_dns_servers": None,
    } | changes


def container(net=None, options=None, **changes):
    """A container in a network as netavark writes it."""
    own = {"aliases": ["752947ff91f9"], "interface_name": "eth0", "static_ips": ["10.88.0.50"]}
    return {
        "container_id": CONTAINER,
        "container_name": "testctr",
        "port_mappings": None,
        "network": net or network(),
        "network_options": own | (options or {}),
    } | changes


@pytest.fixture
def plugin(monkeypatch, capsys):
    """Run the plugin in this process: (exit code, answer, standard error)."""

    def run(*words, data=None):
        text = data if isinstance(data, str) else json.dumps(data)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        code = command.main(words)
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else None, err

    return run


@pytest.fixture
def daemon(socket_dir):
    """A network on a daemon in memory, and its device."""
    with in_thread(socket_dir) as device:
        yield network(options={"socket": f"{socket_dir}/dpu.sock"}), device


def test_info(plugin):
    for words in (("info",), ()):
        code, answer, _ = plugin(*words)
        assert (code, answer["api_version"]) == (0, "1.0.0")
        assert answer["version"]


@pytest.mark.parametrize(("asked", "code"), [({}, 1), (None, 0)])
def test_as_a_process(asked, code):
    words = [sys.executable, "-m", "dpu_runtime.engines.netavark.command", "create"]
    text = json.dumps(network() if asked is None else asked)
    done = subprocess.run(
        words, input=text, capture_output=True, text=True, cwd=ROOT, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (code, "")
    assert ("error" in json.loads(done.stdout)) == bool(code)


def test_create_changes_nothing_but_dns(plugin):
    asked = network(options={"mtu": "1400", "vlan": "7", "spoof_check": "true"})
    assert plugin("create", data=asked) == (0, asked | {"dns_enabled": False}, "")


def test_a_container_comes_and_goes(plugin, daemon):
    net, device = daemon
    net["options"] |= {"mtu": "1400", "vlan": "7"}
    code, answer, _ = plugin("setup", NETNS, data=container(net, {"static_mac": "02:bb:cc:dd:aa:00"}))
    assert (code, answer) == (
        0,
        {
            "dns_search_domains": [],
            "dns_server_ips": [],
            "interfaces": {
                "eth0": {
                    "mac_address": "02:bb:cc:dd:aa:00",
                    "subnets": [{"gateway": "10.88.0.1", "ipnet": "10.88.0.50/16"}],
                }
            },
        },
    )
    port = device.ports[PORT]
    assert (port.netns, port.ifname, port.address) == (NETNS, "eth0", ["10.88.0.50/16"])
    assert (port.mtu, port.vlan, port.owner) == (1400, 7, f"netavark:{CONTAINER}:eth0")
    assert [(route.to, route.via) for route in port.route] == [("default", "10.88.0.1")]
    for _ in range(2):
        assert plugin("teardown", NETNS, data=container(net)) == (0, None, "")
        assert device.ports == {}


def test_a_port_may_be_given_a_name(plugin, daemon):
    net, device = daemon
    assert plugin("setup", NETNS, data=container(net, {"options": {"port": "web"}}))[0] == 0
    assert list(device.ports) == ["web"]


def test_routes(plugin, daemon):
    net, device = daemon
    net["routes"] = [{"destination": "10.9.0.0/16", "gateway": "10.88.0.7"}]
    net["options"]["no_default_route"] = "true"
    assert plugin("setup", NETNS, data=container(net))[0] == 0
    assert [(route.to, route.via) for route in device.ports[PORT].route] == [("10.9.0.0/16", "10.88.0.7")]


def test_a_network_without_addresses(plugin, daemon):
    net, device = daemon
    net |= {"subnets": None, "ipam_options": {"driver": "none"}}
    code, answer, _ = plugin("setup", NETNS, data=container(net, {"static_ips": None}))
    assert (code, answer["interfaces"]["eth0"]["subnets"]) == (0, [])
    assert answer["interfaces"]["eth0"]["mac_address"] == device.ports[PORT].mac


def test_what_the_daemon_refuses_is_said(plugin, daemon):
    net, device = daemon
    device.fail[f"add {PORT}"] = 1
    code, answer, _ = plugin("setup", NETNS, data=container(net))
    assert (code, list(answer)) == (1, ["error"])
    assert PORT in answer["error"]
    assert device.ports == {}
    assert plugin("setup", NETNS, data=container(net))[0] == 0


def test_no_daemon(plugin, tmp_path):
    net = network(options={"socket": f"{tmp_path}/dpu.sock"})
    code, answer, _ = plugin("setup", NETNS, data=container(net))
    assert (code, answer) == (1, {"error": f"no daemon on {tmp_path}/dpu.sock: No such file or directory"})
    code, answer, text = plugin("teardown", NETNS, data=container(net))
    assert (code, answer) == (0, None)
    assert f"port {PORT} goes with its namespace" in text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"options": {"mtu": "12"}}, 'options.mtu = "12": allowed: 68..65521 octets'),
        ({"options": {"vlan": "x"}}, 'options.vlan = "x": allowed: 1..4094'),
        ({"options": {"spoof_check": "1"}}, 'options.spoof_check = "1": allowed: true, false'),
        ({"options": {"socket": "x"}}, 'options.socket = "x": allowed: an absolute path'),
        ({"options": {"isolate": "true"}}, 'options.isolate = "true": unknown key; allowed: mtu, vlan, spo'),
        ({"options": {"mtu": 1400}}, "options.mtu = 1400: allowed: text"),
        ({"options": []}, "options = []: allowed: an object"),
        ({"subnets": None}, "subnets = []: allowed: at least one (`--subnet`), or `--ipam-driver none`"),
        ({"subnets": ["x"]}, 'subnets[0] = "x": allowed: an object'),
        ({"subnets": [{"subnet": "10.0.0.1/8"}]}, 'subnets[0].subnet = "10.0.0.1/8": allowed: a prefix'),
        ({"subnets": [{"subnet": "10.0.0.0/8", "gateway": "11.0.0.1"}]}, "allowed: an address in 10.0.0.0/8"),
        ({"subnets": [{"subnet": "10.0.0.0/8"}, {"subnet": "10.1.0.0/16"}]}, "overlaps 10.0.0.0/8"),
        ({"ipam_options": {"driver": "dhcp"}}, 'driver = "dhcp": allowed: host-local, none'),
        ({"ipam_options": {"driver": "none"}}, "the network has subnets"),
        ({"routes": [{"destination": "10.9.0.0/16", "route_type": "blackhole"}]}, "allowed: unicast"),
        ({"routes": [{"destination": "x", "gateway": "10.88.0.7"}]}, 'routes[0].destination = "x"'),
        ({"internal": "yes"}, 'internal = "yes": allowed: true, false'),
        ({"id": None}, "id = null: allowed: text"),
    ],
)
def test_wrong_networks(plugin, changes, text):
    code, answer, _ = plugin("create", data=network(**changes))
    assert (code, list(answer)) == (1, ["error"])
    assert text in answer["error"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"container_id": None}, "container_id = null: allowed: text"),
        ({"container_id": "a b"}, 'container_id = "a b"'),
        ({"network": []}, "network = []: allowed: an object"),
        ({"options": {"interface_name": "../x"}}, 'interface_name = "../x"'),
        (
            {"options": {"static_ips": ["10.1.0.1"]}},
            'static_ips[0] = "10.1.0.1": allowed: an address in 10.88',
        ),
        ({"options": {"static_ips": ["x"]}}, 'static_ips[0] = "x": allowed: an address'),
        ({"options": {"static_ips": []}}, "static_ips = []: allowed: an address in 10.88.0.0/16"),
        ({"options": {"options": {"speed": "1"}}}, 'options.speed = "1": unknown key; allowed: port'),
        ({"port_mappings": [{"container_port": 80}]}, "ports cannot be published"),
    ],
)
def test_wrong_containers(plugin, changes, text):
    code, answer, _ = plugin("setup", NETNS, data=container(**changes))
    assert (code, list(answer)) == (1, ["error"])
    assert text in answer["error"]


@pytest.mark.parametrize(
    ("words", "data", "text"),
    [
        (("create",), "", "not JSON"),
        (("create",), "[]", "not a JSON object"),
        (("create",), "[" * 100_000, "not JSON"),
        (("create",), " " * (1 << 20) + "{}", "longer than 1048576 octets"),
        (("setup",), "{}", "allowed: setup PATH"),
        (("teardown", "web"), "{}", "allowed: teardown PATH"),
        (("update",), "{}", "unknown subcommand 'update'; allowed: create, setup, teardown, info"),
    ],
)
def test_what_is_no_request(plugin, words, data, text):
    code, answer, _ = plugin(*words, data=data)
    assert (code, list(answer)) == (1, ["error"])
    assert text in answer["error"]


def test_it_imports_the_standard_library_only():
    heavy = {"pydantic", "numpy", "pyroute2", "aiohttp", "numba"}
    assert not heavy & conventions.imports_of("dpu_runtime.engines.netavark.command")
