"""The netavark plugin and a real daemon: containers that podman 5 would have made."""

import json
import subprocess
import sys

import pytest

from tests.live.daemon import ROOT, environment
from tests.netns import FOLDER

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2", "iputils-ping")]


def plugin(dpu, subcommand, netns, number, check=True):
    """Run the plugin for a container with the address 10.88.0.NUMBER; returns the finished process."""
    network = {
        "name": "example1",
        "id": "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9",
        "driver": "dpu",
        "internal": False,
        "ipv6_enabled": False,
        "dns_enabled": False,
        "subnets": [{"subnet": "10.88.0.0/24", "gateway": "10.88.0.1"}],
        "options": {"socket": str(dpu.socket), "mtu": "1400"},
    }
    options = {"interface_name": "eth0", "static_ips": [f"10.88.0.{number}"]}
    request = {"container_id": f"{number:064x}"[::-1], "container_name": "c", "network": network}
    done = subprocess.run(
        [sys.executable, "-m", "dpu_runtime.engines.netavark.command", subcommand, str(FOLDER / netns)],
        input=json.dumps(request | {"network_options": options}),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 or not check, done.stdout
    return done


def test_two_containers_come_talk_and_go(dpu, netns, run_in):
    names = [netns(ipv6=False) for _ in range(2)]
    for number, name in enumerate(names, 2):
        status = json.loads(plugin(dpu, "setup", name, number).stdout)["interfaces"]["eth0"]
        link = run_in(name, ["ip", "address", "show", "eth0"]).stdout
        assert f"link/ether {status['mac_address']}" in link
        assert f"inet 10.88.0.{number}/24" in link
        assert "mtu 1400" in link
    assert "default via 10.88.0.1 dev eth0" in run_in(names[0], ["ip", "route"]).stdout
    run_in(names[0], ["ping", "-n", "-c", "1", "-W", "5", "10.88.0.3"])
    for _ in range(2):
        for number, name in enumerate(names, 2):
            plugin(dpu, "teardown", name, number)
    assert dpu.call("port.show") == []
    assert "eth0" not in run_in(names[0], ["ip", "link"]).stdout


def test_a_setup_that_fails_leaves_nothing(dpu, netns, run_in):
    name = netns(ipv6=False)
    run_in(name, ["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1"])
    done = plugin(dpu, "setup", name, 2, check=False)
    assert done.returncode == 1
    assert "eth0" in json.loads(done.stdout)["error"]
    assert dpu.call("port.show") == []
