"""What was made at run time, over the ends of the daemon, of the data plane and of the host."""

import json
import os
import signal

import pytest

from dpu_runtime.control.durable import Journal
from dpu_runtime.control.state import RUNTIME_VERSION
from tests.live.daemon import Container, wait_until

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2", "iputils-ping")]


def names(daemon):
    return [view["config"]["name"] for view in daemon.call("port.show")]


def kill_everything(daemon):
    """As the power's end does, for the daemon."""
    pids = daemon.processes()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    daemon.process.wait()
    assert wait_until(lambda: not daemon.processes())


@pytest.fixture
def three(new_daemon, namespaces, processes):
    """A daemon with three attached containers, and a rule about each."""
    daemon = new_daemon().start(standby=False)
    containers = [Container(daemon, namespaces, name, n, False) for n, name in enumerate("ab", 1)]
    for container in containers:
        container.attach(owner="attach")
    pid = processes.start()
    keys = {"name": "c", "kind": "tap", "netns": f"pid:{pid}", "ifname": "eth0", "owner": "attach"}
    daemon.call("port.add", **keys)
    for name in "abc":
        daemon.call("rule.add", name=f"r{name}", priority=1, out_port=name, stage="egress", action="allow")
    return daemon, *containers, pid


def rules(daemon):
    return [view["config"]["name"] for view in daemon.call("rule.show")]


def test_all_come_back_after_a_clean_restart_and_forward(three):
    daemon, a, b, pid = three
    before = daemon.call("config.get")["config"]
    assert daemon.stop() == 0
    daemon.start(standby=False)
    assert daemon.call("config.get")["config"] == before
    a.ping(b.ipv4)
    assert daemon.status()["adopted"] is False
    assert daemon.cli("detach", "--pid", pid).stdout == "c\n"
    assert (names(daemon), rules(daemon)) == (["a", "b"], ["ra", "rb"])


def test_one_that_is_gone_is_dropped_after_everything_was_killed(three, processes):
    daemon, a, b, pid = three
    kill_everything(daemon)
    processes.kill(pid)
    daemon.start(standby=False)
    assert (names(daemon), rules(daemon)) == (["a", "b"], ["ra", "rb"])
    a.ping(b.ipv4)
    assert f"port c, made at run time, is dropped: the process of netns 'pid:{pid}' is gone" in daemon.log()
    assert "rule rc, made at run time, is dropped: it names port c" in daemon.log()


def test_a_process_that_got_the_number_is_not_taken_for_the_container(three, processes):
    """Numbers of processes are reused; here the file says the number was another process's then."""
    daemon, _, _, pid = three
    assert daemon.stop() == 0
    journal = Journal(daemon.state_dir / "runtime.json", RUNTIME_VERSION)
    start, boot = journal.load()["process"]["c"].split()
    with journal.path.open("a") as file:
        file.write(json.dumps({"process": {"c": f"{int(start) - 1} {boot}"}}) + "\n")
    daemon.start(standby=False)
    assert names(daemon) == ["a", "b"]
    assert f"the process of netns 'pid:{pid}' is gone" in daemon.log()


def test_after_a_reboot_only_what_is_there_comes_back(three, processes):
    daemon, a, _, pid = three
    daemon.call("port.add", name="vm", kind="vhost_user", socket=str(daemon.folder / "vm"))
    kill_everything(daemon)
    processes.kill(pid)
    a.run("ip", "netns", "del", a.netns)
    daemon.start(standby=False)
    assert names(daemon) == ["b", "vm"]
    assert rules(daemon) == ["rb"]
    assert f"port a, made at run time, is dropped: port 'a': open /run/netns/{a.netns}" in daemon.log()
    assert (daemon.folder / "vm").is_socket()
    kept = Journal(daemon.state_dir / "runtime.json", RUNTIME_VERSION).load()
    assert list(kept["port"]) == ["b", "vm"]


def test_adopted_ports_of_the_run_time_are_still_that(three, processes):
    daemon, a, b, pid = three
    daemon.kill_control()
    processes.kill(pid)
    daemon.start(standby=False)
    assert daemon.status()["adopted"] is True
    assert wait_until(lambda: names(daemon) == ["a", "b"])
    assert rules(daemon) == ["ra", "rb"]
    a.ping(b.ipv4)
    assert daemon.cli("apply", daemon.config_file()).returncode == 0
    assert names(daemon) == ["a", "b"]
    assert daemon.stop() == 0
    daemon.start(standby=False)
    a.ping(b.ipv4)


def test_a_damaged_file_is_kept_aside_and_the_daemon_starts(new_daemon):
    daemon = new_daemon()
    daemon.state_dir.mkdir()
    (daemon.state_dir / "runtime.json").write_text('{"version": 1}')
    daemon.start(standby=False)
    assert names(daemon) == []
    assert f"{daemon.state_dir}/runtime.json: version 1, not 2" in daemon.log()
    assert (daemon.state_dir / "runtime.json.refused-1").read_text() == '{"version": 1}'
