"""Docker's own daemon, with containers on ports of the DPU by way of `dpu-docker`."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.clients.dockerd import Dockerd
from tests.live.daemon import ROOT, LiveDaemon, environment, wait_until
from tests.netns import FOLDER, Namespaces

pytestmark = [
    pytest.mark.root,
    pytest.mark.compiled,
    pytest.mark.package("iproute2", "docker.io", "busybox-static"),
]

NETWORK = "one"
# Ends at once on SIGTERM: a shell as process 1 ignores it unless it has a trap.
PATIENT = ("/bin/sh", "-c", "trap exit TERM; sleep 600 & wait")
GREETING = "hello over the DPU"
SERVE = ("/bin/sh", "-c", f"while true; do echo {GREETING} | nc -l -p 80; done")


class Host:
    """A host in a namespace: the DPU, dockerd and the plugin between them."""

    def __init__(self, folder, namespaces):
        self.namespaces = namespaces
        self.netns = namespaces.create(ipv6=False)
        self.wrap = ["nsenter", f"--net={FOLDER / self.netns}"]
        self.folder = Path(folder)
        self.driver = f"dputest{os.getpid()}"  # the folder of plugins is one for the whole machine
        self.plugin_socket = Path(f"/run/docker/plugins/{self.driver}.sock")
        for name in ("dpu", "docker"):
            (self.folder / name).mkdir()
        self.dpu = LiveDaemon(self.folder / "dpu")
        self.plugin = self.docker = None

    def start(self):
        """Start all three."""
        self.start_dpu()
        self.start_plugin()
        self.docker = Dockerd(self.folder / "docker", self.netns)
        self.docker.cli("network", "create", "-d", self.driver, "--subnet", "10.99.66.0/24", NETWORK)
        return self

    def start_dpu(self):
        """Start the daemon in the namespace."""
        self.dpu.start(standby=False, wrap=self.wrap)

    def start_plugin(self):
        """Start `dpu-docker` and wait for its socket."""
        command = [*self.wrap, sys.executable, "-m", "dpu_runtime.engines.docker.command"]
        command += ["--plugin-socket", self.plugin_socket, "--socket", self.dpu.socket]
        with (self.folder / "plugin.log").open("ab") as log:
            self.plugin = subprocess.Popen(
                [*map(str, command), "--state-dir", str(self.folder / "plugin")],
                cwd=ROOT,
                env=environment(),
                stderr=log,
            )
        assert wait_until(self.plugin_socket.exists, 20), self.log()

    def stop_plugin(self, number=signal.SIGTERM):
        """End the plugin."""
        self.plugin.send_signal(number)
        self.plugin.wait(10)

    def log(self):
        """What the plugin wrote."""
        return (self.folder / "plugin.log").read_text()

    def ports(self):
        """Configurations of the daemon's ports, by name."""
        return {p["config"]["name"]: p["config"] for p in self.dpu.call("port.show")}

    def placed(self, count):
        """Whether the daemon has `count` ports and knows where their interfaces are."""
        return wait_until(
            lambda: [p["ifname"] for p in self.ports().values()] == ["eth0"] * count, timeout_s=10
        )

    def interfaces(self):
        """Names of the host's interfaces."""
        lines = self.namespaces.run(self.netns, ["ip", "-brief", "link"]).stdout.splitlines()
        return [line.split()[0] for line in lines]

    def pair(self):
        """Run a server `web` and a client that can be told what to do; returns the server's address."""
        for name, command in (("web", SERVE), ("client", ("/bin/sleep", "600"))):
            self.docker.run(name, f"name={NETWORK},driver-opt=port={name}", *command)
        assert self.placed(2), self.log()
        return self.docker.endpoint("web", NETWORK)["IPAddress"]

    def fetch(self, address, seconds=2):
        """What the client gets from the server by TCP."""
        command = ["exec", "client", "/bin/timeout", seconds, "/bin/nc", address, "80"]
        return self.docker.cli(*command, check=False).stdout.strip()

    def fetches(self, address):
        """Whether the client gets it, within some tries."""
        return wait_until(lambda: self.fetch(address) == GREETING, timeout_s=15)

    def nothing_left(self):
        """Whether no port, interface, endpoint or owed detach is there."""
        state = (self.folder / "plugin" / "docker.json").read_text()
        return not self.ports() and self.interfaces() == ["lo"] and '"endpoints": {},\n "detach": {}' in state

    def remove_all(self):
        """Take every container away."""
        names = self.docker.cli("ps", "-aq").stdout.split()
        if names:
            self.docker.cli("rm", "-f", *names)

    def close(self):
        """End all three, whatever they are at."""
        if self.docker is not None:
            self.docker.close()
        if self.plugin is not None and self.plugin.poll() is None:
            self.stop_plugin(signal.SIGKILL)
        self.plugin_socket.unlink(missing_ok=True)
        self.dpu.close()


@pytest.fixture(scope="module")
def shared_host():
    namespaces = Namespaces()
    with tempfile.TemporaryDirectory(prefix="dpu-") as folder:
        host = Host(folder, namespaces)
        try:
            yield host.start()
        finally:
            host.close()
            namespaces.close()


@pytest.fixture
def host(shared_host):
    """The host without containers; the test's own are gone afterwards, with all that came with them."""
    yield shared_host
    shared_host.remove_all()
    assert wait_until(shared_host.nothing_left, 20), shared_host.log()


def test_two_containers_talk_and_are_filtered(host):
    address = host.pair()
    assert host.fetches(address)
    rule = host.dpu.call("rule.add", in_port="web", proto="tcp", sport="80", action="drop", priority=1)
    assert host.fetch(address) == ""
    host.dpu.call("rule.del", name=rule["name"])
    assert host.fetches(address)


def test_a_killed_and_a_removed_container_leave_nothing(host):
    host.pair()
    host.docker.cli("kill", "web")
    assert wait_until(lambda: len(host.ports()) == 1)
    host.docker.cli("rm", "-f", "client")
    assert wait_until(host.nothing_left)
    host.docker.cli("start", "web")
    assert host.placed(1)


def test_a_container_that_crashes_leaves_nothing(host):
    host.docker.run("web", NETWORK, "/bin/sleep", "600")
    assert host.placed(1)
    os.kill(host.docker.inspect("web")["State"]["Pid"], signal.SIGKILL)
    assert wait_until(host.nothing_left)


def test_a_container_that_never_starts_leaves_nothing(host):
    done = host.docker.run("web", NETWORK, "/bin/no-such-program", check=False)
    assert done.returncode == 127
    assert wait_until(host.nothing_left)


def test_the_control_process_is_killed_in_between(host):
    address = host.pair()
    host.dpu.kill_control()
    assert host.fetches(address)
    host.start_dpu()
    assert host.placed(2)
    assert host.fetches(address)


def test_the_daemon_is_started_again_in_between(host):
    """The interfaces go with the daemon, and come back inside the containers."""
    address = host.pair()
    host.dpu.stop()
    host.start_dpu()
    assert host.placed(2)
    assert host.fetches(address)
    routes = host.docker.cli("exec", "client", "/bin/ip", "route").stdout
    assert "default via 10.99.66.1 dev eth0" in routes


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_plugin_is_started_again_in_between(host, number):
    address = host.pair()
    host.stop_plugin(number)
    assert host.fetches(address)
    host.start_plugin()
    host.docker.cli("restart", "-t", "0", "web")
    assert host.placed(2)
    assert host.fetches(host.docker.endpoint("web", NETWORK)["IPAddress"])


def test_dockerd_is_killed_in_between(host):
    host.docker.run("web", NETWORK, *PATIENT)
    assert host.placed(1)
    host.docker.kill()
    host.docker.start()
    assert wait_until(host.nothing_left, 15), host.log()
    host.docker.cli("start", "web")
    assert host.placed(1)


def test_a_dead_daemon_is_said_at_once_and_keeps_no_container(host):
    host.docker.run("web", NETWORK, "/bin/sleep", "600")
    assert host.placed(1)
    host.dpu.stop()
    began = time.monotonic()
    done = host.docker.run("client", NETWORK, "/bin/sleep", "600", check=False)
    assert done.returncode != 0
    assert f"no daemon on {host.dpu.socket}" in done.stderr
    host.docker.cli("rm", "-f", "web", "client")
    assert time.monotonic() - began < 10
    host.start_dpu()
    assert wait_until(host.nothing_left, 20), host.log()


def test_a_wrong_option_is_said_to_the_user(host):
    options = ("-d", host.driver, "--subnet", "10.99.67.0/24")
    done = host.docker.cli("network", "create", *options, "-o", "vlan=9999", "two", check=False)
    assert done.returncode == 1
    assert 'network option vlan = "9999": allowed: 1..4094' in done.stderr
    done = host.docker.run("web", NETWORK, "/bin/sleep", "600", options=["-p", "80:80"], check=False)
    assert done.returncode != 0
    assert "ports cannot be published" in done.stderr


def test_two_networks_do_not_mix(host):
    address = host.pair()
    options = ("-d", host.driver, "--subnet", "10.99.67.0/24", "-o", "vlan=7", "-o", "mtu=1400")
    host.docker.cli("network", "create", *options, "two")
    host.docker.cli("network", "connect", "two", "client")
    assert wait_until(lambda: len(host.ports()) == 3)
    inside = host.docker.cli("exec", "client", "/bin/ip", "link", "show", "eth1").stdout
    assert "mtu 1400" in inside
    host.docker.cli("network", "disconnect", NETWORK, "client")
    assert host.fetch(address) == ""
    host.docker.cli("rm", "-f", "client")
    host.docker.cli("network", "rm", "two")


def test_ipv6(host):
    """A network of both families, before and after the daemon is started again."""
    subnets = ("--ipv6", "--subnet", "fd99:66::/64", "--subnet", "10.99.68.0/24", "-o", "vlan=8")
    host.docker.cli("network", "create", "-d", host.driver, *subnets, "six")
    for name, command in (("web", SERVE), ("client", ("/bin/sleep", "600"))):
        host.docker.run(name, "six", *command)
    assert host.placed(2), host.log()
    endpoint = host.docker.endpoint("web", "six")
    address = endpoint["GlobalIPv6Address"]
    assert address.startswith("fd99:66::")
    assert host.fetches(address)
    assert host.fetches(endpoint["IPAddress"])
    host.dpu.stop()
    assert host.fetch(address) == ""
    host.start_dpu()
    assert host.placed(2)
    assert host.fetches(address)
    ping = host.docker.cli("exec", "client", "/bin/ping", "-6", "-c", "2", "-s", "1300", address).stdout
    assert " 0% packet loss" in ping
    routes = host.docker.cli("exec", "client", "/bin/ip", "-6", "route").stdout
    assert "default via fd99:66::1 dev eth0" in routes
    host.docker.cli("rm", "-f", "web", "client")
    host.docker.cli("network", "rm", "six")


def test_attach_by_name(host, monkeypatch):
    """A container without a network gets one by `dpu attach --container`, which asks docker where it is."""
    monkeypatch.setenv("DOCKER_HOST", host.docker.address)
    host.pair()
    host.docker.run("lone", "none", "/bin/sleep", "600")
    done = host.dpu.cli("attach", "--container", "lone", "--address", "10.99.66.99/24")
    assert done.returncode == 0, done.stderr
    name = done.stdout.strip()
    ping = ("exec", "client", "/bin/ping", "-c", "1", "-W", "2", "10.99.66.99")
    assert " 0% packet loss" in host.docker.cli(*ping).stdout
    wrong = host.dpu.cli("attach", "--container", "nobody")
    assert wrong.returncode == 1
    assert "docker: Error" in wrong.stderr and "No such container: nobody" in wrong.stderr
    assert host.dpu.cli("detach", "--container", "lone").stdout == f"{name}\n"
    assert sorted(host.ports()) == ["client", "web"]
    assert host.docker.cli(*ping, check=False).returncode == 1
