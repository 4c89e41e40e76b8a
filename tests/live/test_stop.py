"""The daemon ends in order, and soon: with many ports, under traffic, beside a data plane that hangs."""

import json
import os
import signal
import socket
import time

import pytest

from tests.live.daemon import Container, wait_until

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2", "iputils-ping")]

STOP_S_MAX = 2.0
PORTS = 120  # one after another Linux would take more than STOP_S_MAX for them


def many_ports(daemon, netns, count=PORTS):
    """A configuration file with `count` tap ports in one namespace."""
    return daemon.config_file(
        "\n".join(
            f'[[port]]\nname = "p{n}"\nkind = "tap"\nnetns = "{netns}"\nifname = "e{n}"' for n in range(count)
        )
    )


def interfaces(namespaces, netns):
    """Names of the interfaces in a namespace."""
    return [
        line.split()[1].rstrip(":")
        for line in namespaces.run(netns, ["ip", "-o", "link"]).stdout.splitlines()
    ]


def stopped_within(daemon, number=signal.SIGTERM):
    """Seconds that it takes to end, with exit code 0 and nothing left."""
    began = time.monotonic()
    assert daemon.stop(number) == 0, daemon.log()
    seconds = time.monotonic() - began
    assert daemon.processes() == []
    assert not daemon.socket.exists()
    assert "Traceback" not in daemon.log()
    return seconds


def test_many_ports_are_given_back_at_once(new_daemon, namespaces):
    daemon, netns = new_daemon(), namespaces.create(ipv6=False)
    daemon.start(many_ports(daemon, netns))
    a, b = (Container(daemon, namespaces, name, n, False).attach() for n, name in enumerate("ab", 1))
    daemon.wait_for_standby()
    stream = a.popen("ping", "-n", "-q", "-f", "-c", 1_000_000, b.ipv4, stdout=-1)
    assert wait_until(lambda: daemon.port("b")["rx_packets"] > 1000)
    assert stopped_within(daemon) < STOP_S_MAX
    stream.kill()
    stream.communicate()
    assert interfaces(namespaces, netns) == ["lo"]
    assert "killed" not in daemon.log()


def test_a_change_that_is_under_way_is_given_up_whole(new_daemon, namespaces):
    """The next daemon brings back what there was before it."""
    daemon, netns = new_daemon(), namespaces.create(ipv6=False)
    many = daemon.folder / "many.toml"
    many_ports(daemon, netns, 500).rename(many)
    daemon.start(standby=False)
    before = daemon.call("port.add", name="before", kind="null", owner="attach")
    change = daemon.popen("apply", many)
    assert wait_until(lambda: daemon.status()["ports"] > 10, 30), change.communicate()
    assert stopped_within(daemon) < STOP_S_MAX
    change.communicate()
    assert change.returncode != 0
    daemon.start(standby=False)
    assert [view["config"]["name"] for view in daemon.call("port.show")] == [before["name"]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_more_signals_while_it_stops_break_nothing(new_daemon, namespaces, number):
    daemon, netns = new_daemon(), namespaces.create(ipv6=False)
    daemon.start(many_ports(daemon, netns, 20), standby=False)
    process = daemon.process
    process.send_signal(number)
    while process.poll() is None:  # until the very end of the interpreter
        process.send_signal(number)
        process.send_signal(signal.SIGHUP)
        time.sleep(0.001)
    assert stopped_within(daemon) < STOP_S_MAX
    assert daemon.log().count("stopping") == 1
    assert interfaces(namespaces, netns) == ["lo"]


def test_a_data_plane_that_hangs_is_killed(new_daemon):
    daemon = new_daemon().start()
    pids = [daemon.data_plane(), daemon.wait_for_standby()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    assert stopped_within(daemon) < STOP_S_MAX
    assert f"data plane {pids[0]} does not stop within" in daemon.log()


def test_a_change_that_waits_for_one_that_hangs_ends_with_it(new_daemon):
    daemon = new_daemon().start(standby=False)
    os.kill(daemon.data_plane(), signal.SIGSTOP)
    params = {"name": "a", "kind": "null"}
    request = {"jsonrpc": "2.0", "id": 1, "method": "port.add", "params": params}
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.socket))
        client.sendall(json.dumps(request).encode() + b"\n")
        assert daemon.status()["ports"] == 0  # so the one before has begun
        assert stopped_within(daemon) < STOP_S_MAX


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_that_loads_its_modules_ends_in_order_too(new_daemon, number):
    """Before it has a lock, a socket or a data plane; a terminal that closes does not end it."""
    daemon = new_daemon()
    process = daemon.spawn()
    assert wait_until(lambda: len(daemon.processes()) > 1), "the data plane's process is the first thing"
    process.send_signal(signal.SIGHUP)
    assert stopped_within(daemon, number) < STOP_S_MAX
    assert "stopping" in daemon.log() or not daemon.state_dir.exists()
