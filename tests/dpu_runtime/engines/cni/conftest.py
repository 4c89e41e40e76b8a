"""Fixtures of tests of the CNI plugin.

runtime     calls the plugin, without a daemon
cni         a runtime, a daemon in a namespace that stands for the host, networks; nothing may be left
"""

import json
import tempfile
from pathlib import Path

import pytest

from tests.conftest import root_lacks
from tests.dpu_runtime.engines.cni.runtime import Called, Container, Network, Runtime
from tests.live.daemon import LiveDaemon
from tests.netns import Namespaces

SUBNET = "10.88.0.0/24"


@pytest.fixture
def runtime(tmp_path):
    """A runtime whose plugin finds no daemon, and is called in this process."""
    return Called(tmp_path)


class Cni:
    """A daemon and a runtime on one host, and what containers left there."""

    def __init__(self, daemon, host, namespaces, folder):
        self.daemon = daemon
        self.host = host
        self.folder = folder
        self.namespaces = namespaces
        self.runtime = Runtime(folder, host)
        self.data_dir = folder / "data"
        self.leases_dir = folder / "leases"

    def plugin(self, **keys):
        """Configuration of dpu-cni with host-local; `ipam=None`: without."""
        ipam = {"type": "host-local", "dataDir": str(self.leases_dir), "ranges": [[{"subnet": SUBNET}]]}
        conf = {"type": "dpu-cni", "socket": str(self.daemon.socket), "dataDir": str(self.data_dir)}
        conf |= {"ipam": ipam} | keys
        capabilities = dict.fromkeys(("mac", "ips", "bandwidth", "portMappings"), True)
        return {"capabilities": capabilities} | {k: v for k, v in conf.items() if v is not None}

    def network(self, *chained, name="net", version="1.0.0", **keys):
        """A network of dpu-cni with `keys`, and plugins behind it."""
        return Network(self.runtime, name, [self.plugin(**keys), *chained], version)

    def container(self):
        """A container."""
        return Container(self.namespaces.create())

    def run(self, container, *argv, **options):
        """Run a command in a container's namespace."""
        return self.namespaces.run(container.name, argv, **options)

    def on_host(self, *argv, **options):
        """Run a command on the host."""
        return self.namespaces.run(self.host, argv, **options)

    def ports(self):
        """Configurations of the daemon's ports by name."""
        return {view["config"]["name"]: view["config"] for view in self.daemon.call("port.show")}

    def leases(self):
        """Addresses that host-local has given."""
        return sorted(path.name for path in self.leases_dir.glob("*/[0-9]*"))

    def records(self):
        """Attachments that dpu-cni has noted."""
        return sorted(path.name for path in self.data_dir.glob("*/*:*"))

    def links(self, container=None):
        """Interfaces of a container, or of the host, without lo."""
        name = container.name if container else self.host
        shown = json.loads(self.namespaces.run(name, ["ip", "-j", "link"]).stdout)
        return sorted(link["ifname"] for link in shown if link["ifname"] != "lo")

    def left(self):
        """Everything that an attachment may leave."""
        return {
            "ports": sorted(self.ports()),
            "leases": self.leases(),
            "records": self.records(),
            "links": self.links(),
        }

    def is_clean(self):
        """Whether nothing is left."""
        return not any(self.left().values())


@pytest.fixture(scope="session")
def cni_host():
    """(daemon, namespace) that stand for a host."""
    if root_lacks():
        pytest.skip(root_lacks())
    namespaces = Namespaces()
    with tempfile.TemporaryDirectory(prefix="dpu-") as folder:
        daemon = LiveDaemon(folder)
        try:
            host = namespaces.create()
            yield daemon.start(standby=False, wrap=["nsenter", f"--net=/run/netns/{host}"]), host
        finally:
            daemon.close()
            namespaces.close()


@pytest.fixture
def cni(cni_host, namespaces, socket_dir):
    """A runtime beside the daemon; after the test nothing of its containers may be left."""
    daemon, host = cni_host
    view = Cni(daemon, host, namespaces, Path(socket_dir))
    yield view
    left = view.left()
    daemon.call("config.apply", toml="[runtime]\n")
    for name in [port["owner"] for port in view.ports().values()]:
        daemon.call("port.detach", owner=name)
    assert not any(left.values()), f"left behind: {left}"
