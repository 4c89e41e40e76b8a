"""`dpu stop`, and a data plane whose control process died: found, named, gone on with, ended."""

import json
import os
import signal

import pytest

from tests.live.daemon import Container, alive, wait_until

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2", "iputils-ping")]

NO_DAEMON = 3


@pytest.fixture
def orphan(new_daemon, namespaces):
    """A data plane with two containers whose control process was killed: (daemon, a, b, its number)."""
    daemon = new_daemon().start()
    a, b = (Container(daemon, namespaces, name, n, False).attach() for n, name in enumerate("ab", 1))
    daemon.wait_for_standby()
    plane = daemon.data_plane()
    daemon.kill_control()
    assert wait_until(lambda: daemon.processes() == [plane]), "a standby ends by itself"
    return daemon, a, b, plane


def in_state_dir(daemon, command, *words):
    return daemon.cli(command, "--state-dir", daemon.state_dir, *words)


def test_status_names_it_and_leaves_it_alone(orphan):
    daemon, a, b, plane = orphan
    for _ in range(2):
        shown = in_state_dir(daemon, "status")
        assert (shown.returncode, shown.stdout) == (NO_DAEMON, "")
    first, second = shown.stderr.splitlines()
    assert first == f"dpu: no daemon on {daemon.socket}: Connection refused"
    assert second == (
        f"dpu: data plane {plane} still forwards for state directory {daemon.state_dir}: `dpu run` goes on"
        f" with it, `dpu stop --state-dir {daemon.state_dir}` ends it"
    )
    shown = in_state_dir(daemon, "status", "-j")
    assert shown.returncode == NO_DAEMON
    error = json.loads(shown.stdout)["error"]
    assert error["data_plane"] == {"pid": plane, "state_dir": str(daemon.state_dir)}
    a.ping(b.ipv4)
    daemon.start()
    assert daemon.data_plane() == plane
    assert in_state_dir(daemon, "status").returncode == 0


@pytest.mark.parametrize("hangs", [False, True])
def test_stop_ends_it(orphan, hangs):
    daemon, a, _, plane = orphan
    if hangs:
        os.kill(plane, signal.SIGSTOP)
    ended = in_state_dir(daemon, "stop")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"data plane {plane} ended\n", "")
    assert not alive(plane)
    assert "eth0" not in a.run("ip", "-o", "link").stdout
    assert sorted(path.name for path in daemon.state_dir.iterdir()) == [
        "dpu.lock",
        "running.json",
        "runtime.json",
    ]
    for command in ("stop", "status"):
        again = in_state_dir(daemon, command)
        assert again.returncode == NO_DAEMON
        assert "still forwards" not in again.stderr
    daemon.start()
    assert daemon.status()["ports"] == 2, "ports made at run time come back"
    assert daemon.status()["adopted"] is False


def test_stop_ends_a_daemon_in_order(new_daemon, namespaces):
    daemon = new_daemon().start()
    a = Container(daemon, namespaces, "a", 1, False).attach()
    pid = daemon.process.pid
    ended = daemon.cli("stop", "-j")
    assert daemon.process.poll() == 0 or daemon.process.wait(1) == 0
    assert (ended.returncode, json.loads(ended.stdout)) == (0, {"daemon": {"pid": pid}})
    assert daemon.processes() == []
    assert not daemon.socket.exists()
    assert "eth0" not in a.run("ip", "-o", "link").stdout
    again = in_state_dir(daemon, "stop")
    assert again.returncode == NO_DAEMON
    assert f"no data plane in state directory {daemon.state_dir}" in again.stderr


def test_a_daemon_on_another_socket_is_named_and_left_alone(new_daemon):
    daemon = new_daemon().start(standby=False)
    used = (
        f"a daemon (process {daemon.process.pid}) uses state directory {daemon.state_dir}, on another socket"
    )
    there, daemon.socket = daemon.socket, daemon.folder / "nobody.sock"
    shown, refused = in_state_dir(daemon, "status"), in_state_dir(daemon, "stop")
    daemon.socket = there
    assert (shown.returncode, refused.returncode) == (NO_DAEMON, 1)
    assert used in shown.stderr
    assert used in refused.stderr
    assert daemon.status()["data_plane_pid"]


def test_what_was_applied_outlives_a_stop_of_the_data_plane(orphan):
    daemon, *_ = orphan
    daemon.start(daemon.config_file())
    assert daemon.cli("apply", daemon.saved()).returncode == 0
    daemon.wait_for_standby()
    daemon.kill_control()
    assert wait_until(lambda: len(daemon.processes()) == 1), "a standby ends by itself"
    assert in_state_dir(daemon, "stop").returncode == 0
    daemon.start(daemon.config_file())
    assert "in force as `dpu apply` left it: 2 ports" in daemon.log()
    assert daemon.status()["ports"] == 2
