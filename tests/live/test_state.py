"""What was made at run time, over the ends of the daemon, of the data plane and of the host."""

import contextlib
import json
import os
import signal
import subprocess

import pytest

from dpu_runtime.control.durable import Journal
from dpu_runtime.control.state import RUNTIME_VERSION
from tests.live.daemon import Container, LiveDaemon, dpu_command, environment, wait_until

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


@pytest.fixture
def applied(new_daemon, namespaces):
    """A daemon with two containers and a rule, saved and applied, and the file it was started with."""
    daemon = new_daemon()
    config = daemon.config_file(standby=False)
    daemon.start(config)
    containers = [Container(daemon, namespaces, name, n, False).attach() for n, name in enumerate("ab", 1)]
    daemon.call("rule.add", name="r", priority=1, in_port="a", dport="9", proto="tcp", action="drop")
    done = daemon.cli("apply", daemon.saved())
    assert (done.returncode, done.stdout, done.stderr) == (0, "nothing to change\n", "")
    return daemon, config, *containers


def fresh_ends(daemon, config):
    """(exit code, stderr) of a `dpu run --fresh` that is refused."""
    command = dpu_command("run", "-c", config, "--fresh")
    done = subprocess.run(
        command, cwd=daemon.root, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stderr


def is_there(daemon, a, b):
    assert (names(daemon), rules(daemon)) == (["a", "b"], ["r"])
    a.ping(b.ipv4)


def in_order(daemon):
    assert daemon.stop() == 0


@pytest.mark.parametrize("end", [in_order, LiveDaemon.kill_control, kill_everything])
def test_what_was_applied_is_there_again_and_forwards(applied, end):
    daemon, config, a, b = applied
    for _ in range(2):
        end(daemon)
        daemon.start(config)
        is_there(daemon, a, b)
    adopted = end is LiveDaemon.kill_control
    assert daemon.status()["adopted"] is adopted
    assert ("in force as `dpu apply` left it: 2 ports and 1 rules" in daemon.log()) is not adopted
    assert "not applied: " not in daemon.log()
    assert daemon.cli("port", "del", "b").returncode == 0
    in_order(daemon)
    daemon.start(config)
    assert names(daemon) == ["a"]


def test_after_a_reboot_the_applied_ports_that_can_be_are_there(applied):
    daemon, config, a, _ = applied
    kill_everything(daemon)
    a.run("ip", "netns", "del", a.netns)
    daemon.start(config)
    assert (names(daemon), rules(daemon)) == (["b"], [])
    assert f"port a, applied, is dropped: port 'a': open /run/netns/{a.netns}" in daemon.log()
    assert "rule r, applied, is dropped: it names port a" in daemon.log()


def test_a_file_that_has_changed_wins_and_what_was_applied_can_be_applied_again(applied):
    daemon, _, a, b = applied
    in_order(daemon)
    daemon.start(daemon.config_file('[[port]]\nname = "n"\nkind = "null"\n', standby=False))
    assert names(daemon) == ["n"]
    lines = [line.partition("WARNING ")[2] for line in daemon.log().splitlines()]
    assert "dpu.daemon: not as it was applied: + port n: kind null" in lines
    assert sum("not as it was applied: - port" in line for line in lines) == 2
    done = daemon.cli("apply", daemon.state_dir / "applied.toml")
    assert done.returncode == 0, done.stderr
    is_there(daemon, a, b)


def test_fresh_is_refused_beside_a_data_plane_and_forgets_without_one(applied):
    daemon, config, a, b = applied
    daemon.call("port.add", name="n", kind="null")
    data_plane = daemon.data_plane()
    code, errors = fresh_ends(daemon, config)
    assert code == 1
    assert f"dpu: another daemon (process {daemon.process.pid}) uses state directory" in errors
    daemon.kill_control()
    code, errors = fresh_ends(daemon, config)
    assert code == 1
    assert f"dpu: --fresh: data plane {data_plane} runs in state directory" in errors
    daemon.start(config)
    assert daemon.data_plane() == data_plane
    a.ping(b.ipv4)
    in_order(daemon)
    daemon.start(config, options=["--fresh"])
    assert (names(daemon), rules(daemon)) == ([], [])
    assert "--fresh: applied, forgotten: port a, b and rule r" in daemon.log()
    assert "--fresh: made at run time, forgotten: port n" in daemon.log()


def test_a_full_disk_is_in_the_answer_and_written_later(new_daemon, namespaces):
    daemon = new_daemon()
    daemon.state_dir.mkdir()
    config = daemon.config_file(standby=False)
    text = '[[port]]\nname = "n"\nkind = "null"\n'
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "dpu", daemon.state_dir], check=True)
    try:
        daemon.start(config)
        filling = daemon.state_dir / "filling"
        with contextlib.suppress(OSError):
            filling.write_bytes(bytes(1 << 20))
        done = daemon.cli("apply", "-", input=text)
        assert (done.returncode, done.stdout) == (0, "+ port n: kind null\n")
        why = f"{daemon.state_dir}/running.json: No space left on device\n"
        assert done.stderr == f"dpu: in force, but not kept, so a restart undoes it: {why}"
        kill_everything(daemon)
        daemon.start(config)
        assert names(daemon) == []
        assert daemon.cli("apply", "-", input=text).stdout == "+ port n: kind null\n"
        done = daemon.cli("rule", "add", "--name", "r", "--priority", 1, "--action", "drop")
        assert done.returncode == 0
        assert done.stderr.startswith("dpu: in force, but not kept")
        filling.unlink()
        assert wait_until(lambda: "what runs is kept again" in daemon.log(), 20)
        kill_everything(daemon)
        daemon.start(config)
        assert (names(daemon), rules(daemon)) == (["n"], ["r"])
    finally:
        daemon.close()
        subprocess.run(["umount", daemon.state_dir], check=True)
