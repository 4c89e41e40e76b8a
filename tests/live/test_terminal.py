"""A daemon whose terminal closes: an ssh session that ended, say."""

import os
import signal

import pytest

from tests.live.daemon import Container, wait_until

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2", "iputils-ping")]


@pytest.fixture
def on_terminal(new_daemon):
    """A daemon in the foreground of a terminal of its own: (daemon, the terminal's other end)."""
    daemon = new_daemon()
    ours, theirs = os.openpty()
    daemon.start(terminal=theirs)
    os.close(theirs)
    return daemon, ours


def reloaded(daemon, ports):
    """Send SIGHUP; whether these are the ports now."""
    daemon.process.send_signal(signal.SIGHUP)
    return [view["config"]["name"] for view in daemon.call("port.show")] == ports


def test_the_end_of_its_terminal_is_not_the_daemons(on_terminal, namespaces):
    daemon, terminal = on_terminal
    a, b = (Container(daemon, namespaces, name, n, False).attach() for n, name in enumerate("ab", 1))
    standby = daemon.wait_for_standby()
    os.close(terminal)  # the kernel sends SIGHUP to the session's leader
    daemon.process.send_signal(signal.SIGHUP)  # and a shell would once more
    daemon.call("rule.add", name="r", priority=1, proto="icmp", action="allow")
    a.ping(b.ipv4)
    plane = daemon.data_plane()
    for pid in (plane, standby):
        os.kill(pid, signal.SIGHUP)
    a.ping(b.ipv4)
    status = daemon.status()
    assert (status["data_plane_pid"], status["standby_pid"]) == (plane, standby)
    os.kill(plane, signal.SIGKILL)
    assert wait_until(lambda: daemon.data_plane() == standby), "it still replaces one that dies"
    a.ping(b.ipv4)
    daemon.config_file('[[port]]\nname = "n"\nkind = "null"\n')
    assert wait_until(lambda: reloaded(daemon, ["n"])), "a later SIGHUP is about the file"
    assert daemon.stop() == 0
    assert daemon.processes() == []


def test_hang_up_reads_the_file_again(new_daemon):
    daemon = new_daemon()
    daemon.start(standby=False)
    plane = daemon.data_plane()
    daemon.config_file('[[port]]\nname = "n"\nkind = "null"\n', standby=False)
    daemon.process.send_signal(signal.SIGHUP)
    assert wait_until(lambda: [view["config"]["name"] for view in daemon.call("port.show")] == ["n"])
    assert daemon.data_plane() == plane
    daemon.config_file("colour = 1")
    refused = daemon.cli("reload")
    assert refused.returncode == 1
    assert "colour" in refused.stderr
    daemon.config_file(standby=False)
    assert daemon.cli("reload").stdout == "- port n\n"
