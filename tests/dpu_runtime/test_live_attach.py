"""Containers on ports that are attached at run time: where their interface is, and how they end."""

import pytest

from dpu_runtime.errors import RpcError

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2", "iputils-ping")]


def test_relocate_follows_an_interface_that_was_moved(dpu, namespaces):
    a, b = dpu.container("a"), dpu.container("b")
    there = namespaces.create(ipv6=False)
    place = {"name": "b", "netns": there, "ifname": "eth5"}
    with pytest.raises(
        RpcError, match="port 'b': relocate: its interface is 'eth0', not 'eth5'; nothing was"
    ):
        dpu.call("port.relocate", **place)
    b.run("ip", "link", "set", "eth0", "netns", there, "name", "eth5")
    with pytest.raises(RpcError, match=f"'eth5' is not in netns '{b.netns}'"):
        dpu.call("port.relocate", **place | {"netns": b.netns})
    with pytest.raises(RpcError, match="network namespace 'nowhere': No such file"):
        dpu.call("port.relocate", **place | {"netns": "nowhere"})
    dpu.call("port.relocate", **place, address=["10.7.0.9/24"])
    assert dpu.call("port.show", name="b")[0]["config"]["netns"] == there
    namespaces.run(there, ["sh", "-ec", "ip addr add 10.7.0.9/24 dev eth5; ip link set eth5 up"])
    a.ping("10.7.0.9")
    namespaces.run(there, ["ip", "link", "del", "eth5"])
    with pytest.raises(RpcError, match="TUNGETIFF: interface 'eth5': File descriptor in bad state"):
        dpu.call("port.relocate", **place)
    assert dpu.call("port.detach", name="b") == {"names": ["b"]}
