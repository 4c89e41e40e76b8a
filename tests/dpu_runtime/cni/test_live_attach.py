"""ADD, DEL and CHECK of containers on tap ports, with the real daemon and host-local."""

import pytest

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("containernetworking-plugins")]


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_a_container_comes_and_goes(cni, version):
    network = cni.network(version=version)
    container = cni.container()
    result = network.add(container)
    assert result["cniVersion"] == version
    assert cni.links(container) == ["eth0"]
    assert cni.leases() == ["10.88.0.2"]
    (port,) = cni.ports().values()
    assert port["owner"] == f"cni:net:{container.id}:eth0"
    if version >= "0.4.0":
        network.check(container)
    network.delete(container)
    assert cni.links(container) == []
    assert cni.is_clean()
