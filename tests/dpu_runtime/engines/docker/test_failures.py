"""What goes wrong around the plugin: the daemon, the state file, the plugin itself."""

import json
import shutil
import socket
import time

import pytest

from dpu_runtime.config.errors import DaemonError
from dpu_runtime.engines.docker import command, detaching, endpoints, placement
from tests.dpu_runtime.engines.docker.plugin import ENDPOINT, NETWORK, PORT, REFERENCE
from tests.live.daemon import wait_until
from tests.live.daemons import in_thread

OWNER = f"docker:{ENDPOINT}"


def joined(plugin):
    """Have an endpoint in a sandbox."""
    plugin.create_network()
    plugin.create_endpoint()
    assert "InterfaceName" in plugin.join()


def test_a_port_that_the_daemon_refuses(device, plugin):
    plugin.create_network()
    plugin.create_endpoint()
    device.fail[f"add {PORT}"] = 1
    assert PORT in plugin.join()["Err"]
    assert device.ports == {}
    assert plugin.state()["detach"] == {}
    assert plugin.state()["endpoints"][ENDPOINT]["sandbox"] is None
    assert "InterfaceName" in plugin.join()


def test_a_port_name_that_is_taken(device, plugin):
    joined(plugin)
    second = "e" * 64
    plugin.create_endpoint(endpoint=second, options={"port": PORT}, Address="10.99.66.3/24")
    assert "another port has this name" in plugin.join(EndpointID=second)["Err"]
    plugin.leave(EndpointID=second)
    assert list(device.ports) == [PORT]


def test_no_daemon(plugin, socket_dir):
    plugin.create_network()
    plugin.create_endpoint()
    began = time.monotonic()
    assert f"no daemon on {socket_dir}/dpu.sock" in plugin.join()["Err"]
    assert plugin.ask("Leave", **REFERENCE) == {}
    assert plugin.ask("DeleteEndpoint", **REFERENCE) == {}
    assert time.monotonic() - began < 1


def test_a_daemon_that_does_not_answer(plugin, socket_dir, monkeypatch):
    monkeypatch.setattr(endpoints, "ADD_TIMEOUT_S", 0.3)
    monkeypatch.setattr(detaching, "DETACH_TIMEOUT_S", 0.3)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(f"{socket_dir}/dpu.sock")
        deaf.listen()
        plugin.create_network()
        plugin.create_endpoint()
        assert "does not answer within 0.3 s" in plugin.join()["Err"]
        assert plugin.state()["detach"] == {OWNER: f"{socket_dir}/dpu.sock"}  # it may do it yet
        assert plugin.leave()[1:] == [{}, {}]


def test_a_container_that_goes_while_the_daemon_is_away(plugin, socket_dir, monkeypatch):
    monkeypatch.setattr(detaching, "RETRY_S_MAX", 0.1)
    with in_thread(socket_dir) as device:
        joined(plugin)
    assert plugin.leave() == [{}, {}, {}]
    assert plugin.ask("DeleteNetwork", NetworkID=NETWORK) == {}
    assert plugin.state()["detach"] == {OWNER: f"{socket_dir}/dpu.sock"}
    plugin.restart()
    device.ports.clear()
    with in_thread(socket_dir, device=device):  # which makes the port again that it kept
        assert wait_until(lambda: plugin.state()["detach"] == {})
        assert device.ports == {}


def test_a_port_that_must_go_does_before_its_endpoint_joins_again(plugin, socket_dir, monkeypatch):
    monkeypatch.setattr(detaching, "RETRY_S_MIN", 60.0)
    plugin.create_network()
    plugin.create_endpoint()
    assert "no daemon" in plugin.join()["Err"]
    assert "no daemon" in plugin.join()["Err"]
    with in_thread(socket_dir) as device:
        assert "InterfaceName" in plugin.join()
        assert plugin.state()["detach"] == {}
        assert list(device.ports) == [PORT]


def test_deleting_a_network_takes_what_is_left_in_it(device, plugin):
    joined(plugin)
    assert plugin.ask("DeleteNetwork", NetworkID=NETWORK) == {}
    assert wait_until(lambda: device.ports == {})
    assert plugin.state()["endpoints"] == {}


def test_a_plugin_that_starts_again_knows_its_networks_and_endpoints(device, plugin):
    joined(plugin)
    plugin.restart()
    assert list(device.ports) == [PORT]
    assert "has joined" in plugin.join()["Err"]
    assert plugin.ask("EndpointOperInfo", **REFERENCE)["Value"]["port"] == PORT
    assert plugin.leave() == [{}, {}, {}]
    assert device.ports == {}


def test_the_daemon_is_told_where_the_interface_went(device, plugin, monkeypatch):
    found = {}
    monkeypatch.setattr(endpoints, "is_gone", lambda _: False)
    monkeypatch.setattr(placement, "find_inside", lambda sandbox, mac: found.get((sandbox, mac)))
    joined(plugin)
    plugin.ask("ProgramExternalConnectivity", **REFERENCE, Options={})
    plugin.restart()  # between Join and the container's start
    state = plugin.state()["endpoints"][ENDPOINT]
    found[state["sandbox"], state["mac"]] = "eth0"
    assert wait_until(lambda: device.ports[PORT].ifname == "eth0")
    port = device.ports[PORT]
    assert (port.netns, port.address) == (state["sandbox"], ["10.99.66.2/24"])
    assert [(route.to, route.via) for route in port.route] == [("default", "10.99.66.1")]
    assert wait_until(lambda: plugin.state()["endpoints"][ENDPOINT]["inside"] == "eth0")


def test_a_sandbox_that_goes_without_a_word(device, stopped_plugin, monkeypatch):
    """dockerd, killed and started again, removes sandboxes before it has loaded any driver."""
    gone = set()
    monkeypatch.setattr(endpoints, "REAP_S", 0.05)  # it has begun to wait when it has started
    plugin = stopped_plugin.start()
    monkeypatch.setattr(endpoints, "is_gone", gone.__contains__)
    monkeypatch.setattr(placement, "find_inside", lambda *_: "eth0")
    joined(plugin)
    assert wait_until(lambda: plugin.state()["endpoints"][ENDPOINT]["inside"])
    assert list(device.ports) == [PORT]
    gone.add(plugin.state()["endpoints"][ENDPOINT]["sandbox"])
    assert wait_until(lambda: device.ports == {})
    assert wait_until(lambda: plugin.state()["endpoints"] == {})


def test_the_default_route_follows_docker(device, plugin, monkeypatch):
    """A container in several networks has one default route; dockerd says whose it is."""
    monkeypatch.setattr(endpoints, "is_gone", lambda _: False)
    monkeypatch.setattr(placement, "find_inside", lambda *_: "eth0")
    joined(plugin)
    assert wait_until(lambda: device.ports[PORT].ifname == "eth0")
    assert device.ports[PORT].route == []
    plugin.ask("ProgramExternalConnectivity", **REFERENCE, Options={})
    assert wait_until(lambda: device.ports[PORT].route != [])
    plugin.ask("RevokeExternalConnectivity", **REFERENCE)
    assert wait_until(lambda: device.ports[PORT].route == [])


def test_a_state_that_cannot_be_written_changes_nothing(device, plugin):
    plugin.create_network()
    plugin.create_endpoint()
    shutil.rmtree(plugin.state_dir)
    error = f"state file {plugin.state_dir}/docker.json: No such file or directory"
    assert plugin.join()["Err"] == error
    assert plugin.create_network("1" * 64, {"vlan": "2"})["Err"] == error
    assert device.ports == {}
    plugin.state_dir.mkdir()
    assert "no such network" in plugin.create_endpoint("1" * 64, "e" * 64)["Err"]
    assert "InterfaceName" in plugin.join()


@pytest.mark.parametrize("text", ['{"version": 2}', "{", "[]", '{"version": 1, "networks": {"a": {}}}'])
def test_a_state_file_that_is_not_ours_is_refused(stopped_plugin, text):
    stopped_plugin.state_dir.mkdir()
    path = stopped_plugin.state_dir / "docker.json"
    path.write_text(text)
    with pytest.raises(DaemonError, match=f"{path} cannot be read"):
        stopped_plugin.start()
    assert path.read_text() == text


def test_a_second_plugin_is_refused(plugin, socket_dir, capsys):
    argv = ["--plugin-socket", str(plugin.path), "--state-dir"]
    assert command.main([*argv, str(plugin.state_dir)]) == 1
    assert f"uses state directory {plugin.state_dir}" in capsys.readouterr().err
    assert command.main([*argv, f"{socket_dir}/other"]) == 1
    assert f"socket {plugin.path}: another daemon answers on it" in capsys.readouterr().err
    assert plugin.post("Plugin.Activate")[0] == 200


def test_the_socket_goes_with_the_plugin_and_a_stale_one_is_replaced(stopped_plugin):
    stopped_plugin.path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(stopped_plugin.path))
    stopped_plugin.start()
    assert stopped_plugin.post("Plugin.Activate")[0] == 200
    stopped_plugin.stop()
    assert not stopped_plugin.path.exists()


def test_a_plugin_that_cannot_start_says_why(socket_dir, capsys):
    state = f"{socket_dir}/file"
    with open(state, "w") as file:
        json.dump({}, file)
    argv = ["--plugin-socket", f"{socket_dir}/p.sock", "--state-dir", state]
    assert command.main(argv) == 1
    assert f"dpu-docker: runtime.state_dir: {state}: File exists" in capsys.readouterr().err
