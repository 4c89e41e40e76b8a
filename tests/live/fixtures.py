"""Fixtures of tests against a real daemon.

dpu          one for many tests: ports and rules go with the test, every packet is accounted for
new_daemon   daemons of the test's own, to be killed
processes    containers that are nothing but a process, to be killed
"""

import tempfile

import pytest

from tests.live.daemon import Container, LiveDaemon
from tests.live.processes import Processes


class Dpu:
    """The shared daemon as one test sees it."""

    def __init__(self, daemon, namespaces):
        self.daemon = daemon
        self.containers = []
        self._namespaces = namespaces

    def __getattr__(self, name):
        return getattr(self.daemon, name)

    def container(self, name, ipv6=False, **keys):
        """Make a container and plug it into a port `name`; without `ipv6` it sends nothing on its own."""
        number = len(self.containers) + 1
        container = Container(self.daemon, self._namespaces, name, number, ipv6)
        self.containers.append(container)
        return container.attach(**keys)

    def rule(self, action="drop", priority=100, **keys):
        """Add a rule; returns its name."""
        return self.call("rule.add", action=action, priority=priority, **keys)["name"]

    def hits(self, name):
        """Packets that matched a rule."""
        views = self.call("rule.show", stats=True)
        return next(view["packets"] for view in views if view["config"]["name"] == name)

    def clear(self):
        """Take every rule and port away."""
        self.call("config.apply", toml='[runtime]\ndefault_ingress = "allow"\ndefault_egress = "allow"\n')


@pytest.fixture(scope="session")
def live_daemon():
    """The daemon that tests share; a first start compiles, which takes a minute."""
    with tempfile.TemporaryDirectory(prefix="dpu-") as folder:
        daemon = LiveDaemon(folder)
        try:
            yield daemon.start(standby=False)
        finally:
            daemon.close()


@pytest.fixture
def dpu(live_daemon, namespaces):
    """The shared daemon without ports and rules; in the end received = transmitted + dropped, and so on."""
    view = Dpu(live_daemon, namespaces)
    yield view
    settled = view.settled()
    balance = view.stats()["balance"]
    view.clear()
    assert settled, f"packets are not accounted for: {balance}"
    assert view.settled(), "packets are lost when ports go"


@pytest.fixture
def new_daemon(namespaces):
    """Make a daemon in a folder of its own: `new_daemon()`; the namespaces outlive it."""
    made = []

    def make():
        folder = tempfile.TemporaryDirectory(prefix="dpu-")
        daemon = LiveDaemon(folder.name)
        made.append((daemon, folder))
        return daemon

    yield make
    for daemon, folder in made:
        daemon.close()
        folder.cleanup()


@pytest.fixture
def processes():
    """Start processes in network namespaces of their own: `processes.start()`; they end with the test."""
    made = Processes()
    yield made
    made.close()
