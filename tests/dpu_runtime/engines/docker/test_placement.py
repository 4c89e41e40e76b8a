"""Interfaces in real namespaces: where the plugin finds them, and when a namespace is gone."""

import pytest

from dpu_runtime.engines.docker.placement import find_inside, is_gone
from tests.netns import FOLDER

pytestmark = [pytest.mark.root, pytest.mark.package("iproute2")]

MAC = "02:11:22:33:44:55"


def test_an_interface_counts_once_it_is_up(netns, run_in):
    name = netns(ipv6=False)
    path = str(FOLDER / name)
    assert find_inside(path, MAC) is None
    run_in(name, ["ip", "tuntap", "add", "dev", "dpu0123", "mode", "tap"])
    run_in(name, ["ip", "link", "set", "dpu0123", "address", MAC, "name", "eth0"])
    assert find_inside(path, MAC) is None
    run_in(name, ["ip", "link", "set", "eth0", "up"])
    assert find_inside(path, MAC) == "eth0"
    assert find_inside(path, "02:11:22:33:44:56") is None


def test_only_a_tap_interface_counts(netns, run_in):
    name = netns(ipv6=False)
    run_in(name, ["ip", "link", "add", "eth0", "address", MAC, "type", "veth", "peer", "name", "eth1"])
    run_in(name, ["ip", "link", "set", "eth0", "up"])
    assert find_inside(str(FOLDER / name), MAC) is None


def test_a_sandbox_is_gone_when_nothing_is_mounted_there(netns, tmp_path):
    assert not is_gone(FOLDER / netns())
    left = tmp_path / "f3c1f88085bf"
    assert is_gone(left)
    left.touch()  # dockerd unmounts at once, and removes the file a minute later
    assert is_gone(left)
    assert find_inside(str(left), MAC) is None
