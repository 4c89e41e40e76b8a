"""A function of another package, from a folder outside the repository, through all of a daemon."""

import shutil
from pathlib import Path

import pytest

from tests.live.daemon import OTHER_PACKAGE, Container, wait_until

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2", "iputils-ping")]


@pytest.fixture
def daemon(new_daemon, tmp_path):
    """One that finds the package, as an installer would leave it."""
    made = new_daemon()
    made.path = [shutil.copytree(OTHER_PACKAGE, tmp_path / "site")]
    return made.start(standby=False)


def cli(daemon, *words):
    done = daemon.cli(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def shown(daemon):
    """Packets by scale."""
    return {view["config"]["name"]: view["packets"] for view in daemon.call("scale.show", stats=True)}


def test_it_is_configured_shown_explained_saved_and_brought_back(daemon, namespaces):
    a, b = (Container(daemon, namespaces, name, n, False).attach() for n, name in enumerate("ab", 1))
    assert "weigh packets of a port" in cli(daemon, "--help")
    assert "octets of the longest frame that passes" in cli(daemon, "scale", "add", "--help")
    cli(daemon, "scale", "add", "--name", "light", "--port", "a", "--heavy", "500")
    a.ping(b.ipv4, 5)
    assert a.ping(b.ipv4, 3, "-s", "1000", check=False).returncode == 1
    assert shown(daemon)["light"] >= 8
    assert daemon.drops("too_heavy") == 3
    assert daemon.stats()["kernels"]["weigh"]["packets"] >= 8
    assert "light" in cli(daemon, "scale", "show", "--stats")
    bad = daemon.cli("scale", "add", "--port", "a", "--heavy", "9")
    assert bad.returncode == 1
    assert "heavy" in bad.stderr and "60..65535" in bad.stderr
    used = daemon.cli("port", "del", "a")
    assert used.returncode == 1
    assert "scale light" in used.stderr
    assert "heavy = 500" in Path(daemon.saved()).read_text()
    assert daemon.settled()
    counted = shown(daemon)["light"]
    daemon.kill_control()
    daemon.start(standby=False)  # the data plane runs on, and is adopted
    assert shown(daemon)["light"] >= counted
    assert daemon.stop() == 0
    daemon.start(standby=False)  # another data plane: all comes back from what was saved
    assert wait_until(lambda: a.ping(b.ipv4, check=False).returncode == 0)
    assert a.ping(b.ipv4, 3, "-s", "1000", check=False).returncode == 1
    assert daemon.drops("too_heavy") == 3
    cli(daemon, "scale", "del", "light")
    a.ping(b.ipv4, 3, "-s", "1000")
    assert daemon.settled()


def test_what_it_punts_comes_to_its_handler(daemon, namespaces):
    a, b = (Container(daemon, namespaces, name, n, False).attach() for n, name in enumerate("ab", 1))
    cli(daemon, "scale", "add", "--port", "a", "--heavy", "500", "--report")
    a.ping(b.ipv4)
    assert a.ping(b.ipv4, 3, "-s", "1000", check=False).returncode == 1
    assert wait_until(lambda: daemon.log().count("heavy: 1042 octets, from port 0") == 3)
    assert daemon.stats()["balance"]["punted"] == 3
    assert daemon.drops("too_heavy") == 0
    assert daemon.settled()
    daemon.kill_control()
    daemon.start(standby=False)  # what is punted comes to the next control process too
    a.ping(b.ipv4, 1, "-s", "1000", check=False)
    assert wait_until(lambda: daemon.log().count("heavy: 1042 octets, from port 0") == 4)
