"""podman's containers on ports of the DPU: they talk, a rule filters them, nothing of them is left."""

import pytest

from tests.clients.podman import Podman
from tests.dpu_runtime.engines.cni.conftest import Cni
from tests.live.daemon import wait_until

pytestmark = [
    pytest.mark.root,
    pytest.mark.compiled,
    pytest.mark.package("podman", "runc", "containernetworking-plugins", "busybox-static"),
]

ECHO = ("nc", "-ll", "-p", "7000", "-e", "cat")
TEXT = b"through the DPU\n"


@pytest.fixture
def host(new_daemon, namespaces, socket_dir):
    """A host with a daemon, as tests/dpu_runtime/cni has it; the daemon may be ended."""
    name = namespaces.create(ipv6=False)
    daemon = new_daemon()
    wrap = ["nsenter", f"--net=/run/netns/{name}"]
    daemon.restart = lambda: daemon.start(standby=False, wrap=wrap)
    daemon.restart()
    return Cni(daemon, name, namespaces, socket_dir)


@pytest.fixture
def podman(host, socket_dir):
    """podman on that host, with a network `dpu`."""
    with Podman(socket_dir / "podman", host.host, [host.runtime.bin]) as podman:
        podman.network("dpu", [host.plugin()])
        yield podman


def echoed(podman, client, address):
    """What a TCP server in another container sends back."""
    words = ["timeout", "-s", "KILL", "3", "nc", "-w", "2", address, "7000"]
    return podman.execute(client, *words, input=TEXT, check=False).stdout


def talks(podman, client, address):
    return wait_until(lambda: echoed(podman, client, address) == TEXT, timeout_s=20)


def test_containers_talk_are_filtered_and_leave_nothing(host, podman):
    web = podman.run("web", "dpu", *ECHO)
    client = podman.run("client", "dpu", "sleep", "1000")
    address = podman.address(web, "dpu")
    assert address in host.leases()
    assert talks(podman, client, address)

    host.daemon.call("rule.add", name="no-echo", priority=100, proto="tcp", dport="7000", action="drop")
    assert echoed(podman, client, address) == b""
    assert host.daemon.drops("acl_ingress") > 0
    host.daemon.call("rule.del", name="no-echo")
    assert talks(podman, client, address)

    podman.command("kill", web)
    assert wait_until(lambda: len(host.records()) == 1, timeout_s=20), host.left()
    assert len(host.leases()) == len(host.ports()) == 1
    podman.command("start", web)
    assert talks(podman, client, podman.address(web, "dpu"))

    podman.command("rm", "-f", "-t", "0", web, client)
    assert wait_until(host.is_clean, timeout_s=20), host.left()


def test_the_daemon_is_restarted_meanwhile(host, podman):
    web = podman.run("web", "dpu", *ECHO)
    client = podman.run("client", "dpu", "sleep", "1000")
    address = podman.address(web, "dpu")
    assert talks(podman, client, address)
    host.daemon.kill_control()
    assert podman.command(
        "run", "--rm", "--network", "dpu", "localhost/busybox:latest", "true", check=False
    ).returncode
    host.daemon.restart()
    assert talks(podman, client, address)
    podman.command("rm", "-f", "-t", "0", web, client)
    assert wait_until(host.is_clean, timeout_s=20), host.left()


def test_the_daemon_is_stopped_and_started_meanwhile(host, podman):
    """In order, so the interfaces go with it; they come back inside the containers."""
    web = podman.run("web", "dpu", *ECHO)
    client = podman.run("client", "dpu", "sleep", "1000")
    address = podman.address(web, "dpu")
    assert talks(podman, client, address)
    assert host.daemon.stop() == 0
    assert "eth0" not in podman.execute(client, "ip", "link").stdout.decode()
    assert echoed(podman, client, address) == b""
    host.daemon.restart()
    assert talks(podman, client, address)
    assert podman.address(web, "dpu") in podman.execute(web, "ip", "address").stdout.decode()
    podman.command("rm", "-f", "-t", "0", web, client)
    assert wait_until(host.is_clean, timeout_s=20), host.left()


def test_attach_by_name(host, podman, monkeypatch):
    """Containers without a network get one by `dpu attach --container`, which asks podman where they are."""
    for name, value in podman.variables.items():
        monkeypatch.setenv(name, value)
    dpu = host.daemon
    web = podman.run("web", "none", *ECHO)
    client = podman.run("client", "none", "sleep", "1000")
    ports = {}
    for number, name in enumerate((web, client), 1):
        done = dpu.cli("attach", "--container", name, "--address", f"10.7.0.{number}/24")
        assert done.returncode == 0, done.stderr
        ports[name] = done.stdout.strip()
    assert sorted(host.ports()) == sorted(ports.values())
    assert host.ports()[ports[web]]["netns"] == f"pid:{podman.pid(web)}"
    assert talks(podman, client, "10.7.0.1")
    again = dpu.cli("attach", "--container", web)
    assert (again.returncode, f"is attached already, as port {ports[web]}" in again.stderr) == (1, True)

    wrong = dpu.cli("attach", "--container", "nobody")
    assert wrong.returncode == 1
    assert "dpu: container 'nobody': podman: " in wrong.stderr
    assert "no such container" in wrong.stderr.lower()

    assert dpu.cli("detach", "--container", web).stdout == f"{ports[web]}\n"
    assert echoed(podman, client, "10.7.0.1") == b""
    assert "eth0" not in podman.execute(web, "ip", "link").stdout.decode()
    podman.command("kill", client)
    assert wait_until(host.is_clean, timeout_s=20), host.left()
    ended = dpu.cli("attach", "--container", client)
    assert (ended.returncode, ended.stderr) == (1, "dpu: container 'client' of podman is not running\n")
