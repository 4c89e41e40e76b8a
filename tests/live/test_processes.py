"""Processes that are killed and come back: the data plane, the control process, both; clean ends."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.live.daemon import Container, alive, wait_until
from tests.live.pings import Pings
from tests.live.streams import Stream

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2", "iputils-ping")]

GAP_S_MAX = 0.5  # without a packet, when the data plane is replaced by a warm one
IDLE_S = 2.0
IDLE_CPU_MAX = 0.01  # of a core
NS_PER_S = 1e9


@pytest.fixture
def pair(new_daemon, namespaces):
    """Start a daemon with containers `a` and `b`: `daemon, a, b = pair()`."""

    def make(**runtime):
        daemon = new_daemon()
        daemon.start(**runtime)
        return daemon, *(
            Container(daemon, namespaces, name, n, False).attach() for n, name in enumerate("ab", 1)
        )

    return make


def interfaces(container):
    """Interface lines that `ip` prints, index included."""
    return container.run("ip", "-o", "link", "show", "eth0").stdout


def test_killed_data_plane_is_replaced_under_traffic(pair):
    daemon, a, b = pair()
    daemon.wait_for_standby()
    before, link = daemon.data_plane(), interfaces(b)
    name = daemon.call("rule.add", name="count", priority=1, proto="icmp", action="allow")["name"]
    stream, ping = Stream(a, b), Pings(a, b.ipv4)
    assert stream.goes_on() and ping.go_on(50)
    os.kill(before, signal.SIGKILL)
    assert wait_until(lambda: daemon.data_plane() != before)
    assert stream.goes_on()
    assert ping.go_on(50)
    assert stream.finish()
    assert ping.gap_s < GAP_S_MAX, (ping.gap_s, ping.lost)
    assert interfaces(b) == link
    status = daemon.status()
    assert status["restarts"] == 1
    assert status["last_takeover_ms"] < GAP_S_MAX * 1000
    assert daemon.settled(), daemon.stats()["balance"]
    hits = {v["config"]["name"]: v["packets"] for v in daemon.call("rule.show", stats=True)}
    assert hits[name] >= 2 * 100, "both ways, of both data planes"
    assert daemon.stop() == 0


def test_packets_in_the_hands_of_a_killed_data_plane_are_counted(pair):
    """Again and again at any moment of a burst: the books are right each time."""
    daemon, a, b = pair()
    stream = Stream(a, b)
    for _ in range(4):
        daemon.wait_for_standby()
        assert stream.goes_on()
        before = daemon.data_plane()
        os.kill(before, signal.SIGKILL)
        assert wait_until(lambda before=before: daemon.data_plane() not in (None, before))
        assert stream.goes_on()
    assert stream.finish()
    assert daemon.settled(), daemon.stats()["balance"]
    booked = sum(int(n) for n in re.findall(r"(\d+) packets were in the hands of the dead", daemon.log()))
    assert daemon.drops("restart") == booked


def test_killed_data_plane_without_a_standby(pair):
    daemon, a, b = pair(standby=False)
    a.ping(b.ipv4)
    assert daemon.status()["standby_pid"] is None
    os.kill(daemon.data_plane(), signal.SIGKILL)
    assert wait_until(lambda: daemon.status()["restarts"] == 1, 60)
    assert wait_until(lambda: a.ping(b.ipv4, check=False).returncode == 0, 20)


def test_killed_standby_is_missed_only(pair):
    daemon, a, b = pair()
    os.kill(daemon.wait_for_standby(), signal.SIGKILL)
    a.ping(b.ipv4)
    os.kill(daemon.data_plane(), signal.SIGKILL)
    assert wait_until(lambda: daemon.status()["restarts"] == 1, 60)
    assert wait_until(lambda: a.ping(b.ipv4, check=False).returncode == 0, 20)


def test_killed_control_process_is_not_missed_by_packets(pair):
    daemon, a, b = pair()
    a.ping(b.ipv4)
    plane = daemon.data_plane()
    daemon.call("rule.add", name="count", priority=1, proto="icmp", in_port="a", action="allow")
    ping = Pings(a, b.ipv4)
    saved = daemon.saved()
    daemon.kill_control()
    assert ping.go_on(50)
    daemon.start(saved)
    status = daemon.status()
    assert (status["adopted"], status["data_plane_pid"]) == (True, plane)
    assert ping.go_on(50)
    assert ping.lost == [], ping.gap_s
    assert wait_until(lambda: daemon.call("rule.show", stats=True)[0]["packets"] == ping.sent)
    assert daemon.port("a")["rx_packets"] > ping.sent
    assert daemon.settled()


def test_adopted_daemon_can_do_everything(pair, namespaces):
    daemon, a, b = pair()
    saved = daemon.saved()
    daemon.kill_control()
    daemon.start(saved)
    c = Container(daemon, namespaces, "c", 3, False).attach()
    c.ping(b.ipv4)
    drop = daemon.call("rule.add", priority=1, in_port="c", action="drop")["name"]
    assert c.ping(b.ipv4, 1, "-W", 1, check=False).returncode == 1
    daemon.call("rule.del", name=drop)
    daemon.call("port.del", name="b")
    assert "eth0" not in b.run("ip", "-o", "link").stdout
    assert wait_until(lambda: c.ping(a.ipv4, check=False).returncode == 0)
    standby = daemon.wait_for_standby()
    os.kill(daemon.data_plane(), signal.SIGKILL)
    assert wait_until(lambda: daemon.data_plane() == standby)
    assert wait_until(lambda: c.ping(a.ipv4, check=False).returncode == 0)
    saved = daemon.saved()
    daemon.kill_control()
    daemon.start(saved)
    assert daemon.status()["adopted"] is True
    c.ping(a.ipv4)
    assert daemon.settled()
    assert daemon.stop() == 0
    # a standby that a killed control process was starting ends when it finds nobody there
    assert wait_until(lambda: not daemon.processes(), 30), daemon.log()
    assert "eth0" not in a.run("ip", "-o", "link").stdout


def test_both_killed(pair):
    daemon, a, b = pair()
    a.ping(b.ipv4)
    plane = daemon.data_plane()
    daemon.kill_control()
    os.kill(plane, signal.SIGKILL)
    assert wait_until(lambda: not daemon.processes()), daemon.processes()
    assert daemon.socket.exists()
    assert "eth0" not in a.run("ip", "-o", "link").stdout
    daemon.start()
    assert "removed the stale socket" in daemon.log()
    status = daemon.status()
    assert status["adopted"] is False
    assert status["ports"] == 2, "ports made at run time come back"
    a.ping(b.ipv4)
    assert daemon.stop() == 0


def test_second_daemon_is_refused(pair):
    daemon, a, b = pair(standby=False)
    first = daemon.process
    second = daemon.spawn(standby=False)
    assert second.wait(30) == 1
    assert f"another daemon (process {first.pid}) uses state directory {daemon.state_dir}" in daemon.log()
    assert second.pid not in daemon.processes()
    assert sorted(daemon.processes()) == sorted([first.pid, daemon.data_plane()]), "nor one that it began"
    daemon.process = first
    a.ping(b.ipv4)


def test_a_file_that_is_wrong_leaves_no_process(new_daemon):
    daemon = new_daemon()
    assert daemon.spawn(config=daemon.config_file("colour = 1")).wait(30) == 1
    assert daemon.processes() == []


def test_one_that_adopts_and_wants_no_standby_has_none(pair):
    daemon, *_ = pair(standby=False)
    plane = daemon.data_plane()
    daemon.kill_control()
    daemon.start(standby=False)
    assert sorted(daemon.processes()) == sorted([daemon.process.pid, plane])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_clean_end_leaves_nothing(pair, number):
    daemon, a, b = pair()
    a.ping(b.ipv4)
    stream = a.popen("ping", "-n", "-q", "-f", "-c", 1_000_000, b.ipv4, stdout=-1)
    assert daemon.stop(number) == 0
    stream.kill()
    stream.communicate()
    assert daemon.processes() == []
    left = sorted(path.name for path in daemon.folder.rglob("*"))
    assert left == ["dpu.lock", "dpu.toml", "log", "runtime.json", "state"], "ports made at run time are kept"
    for container in (a, b):
        assert "eth0" not in container.run("ip", "-o", "link").stdout
    assert "Traceback" not in daemon.log()


def test_end_while_it_starts(new_daemon):
    daemon = new_daemon()
    process = daemon.spawn()
    assert wait_until((daemon.state_dir / "dpu.lock").exists, 30)
    assert daemon.stop() == 0
    assert daemon.processes() == []
    assert process.returncode == 0
    assert not daemon.socket.exists()


def cpu_seconds(pids):
    """CPU time of all threads of processes, to the nanosecond: the first number of schedstat, proc(5)."""
    paths = (path for pid in pids for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return sum(int(path.read_text().split()[0]) for path in paths) / NS_PER_S


def test_idle_daemon_takes_no_cpu_worth_naming(pair):
    daemon, a, b = pair()
    a.ping(b.ipv4)
    daemon.wait_for_standby()
    time.sleep(0.5)
    pids = daemon.processes()
    assert len(pids) == 3
    before = cpu_seconds(pids)
    time.sleep(IDLE_S)
    assert cpu_seconds(pids) - before < IDLE_S * IDLE_CPU_MAX
    assert all(map(alive, pids))
