"""Mirrors of a running daemon: by command, by file, across a restart, and while packets pass."""

import pytest

from tests.live.daemon import wait_until

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2", "iputils-ping")]


@pytest.fixture
def wired(dpu):
    """Three containers; `seen()` counts what was sent to the third."""
    a, b = dpu.container("a"), dpu.container("b")
    dpu.container("tap")
    a.ping(b.ipv4)
    return a, b, lambda: dpu.port("tap")["tx_packets"]


def mirror(dpu, *words, verb="add"):
    return dpu.daemon.cli("mirror", verb, *words)


def views(dpu):
    return dpu.call("mirror.show", stats=True)


def test_a_port_is_mirrored_by_command_and_shown(dpu, wired):
    a, b, seen = wired
    mirror(dpu, "--name", "m", "--port", "b", "--to", "tap", "--octets", "60")
    before = seen()
    a.ping(b.ipv4, 10)
    assert wait_until(lambda: seen() - before >= 20)
    (view,) = views(dpu)
    assert view["config"]["name"] == "m" and view["packets"] >= 20 and view["bytes"] == 60 * view["packets"]
    mirror(dpu, "m", verb="del")
    before = seen()
    a.ping(b.ipv4, 5)
    assert seen() - before < 5 and views(dpu) == []


def test_what_a_rule_drops_is_mirrored(dpu, wired):
    a, b, seen = wired
    rule = dpu.rule(proto="icmp", in_port="a")
    mirror(dpu, "--rule", rule, "--to", "tap")
    before = seen()
    a.run("ping", "-c", 5, "-i", 0.01, "-W", 0.1, b.ipv4, check=False)
    assert wait_until(lambda: seen() - before >= 5)
    assert dpu.hits(rule) >= 5


def test_what_is_in_use_is_not_deleted_and_goes_with_its_container(dpu, wired):
    rule = dpu.rule(proto="udp", in_port="a")
    mirror(dpu, "--name", "one", "--port", "a", "--to", "tap")
    mirror(dpu, "--name", "two", "--rule", rule, "--to", "tap")
    for words, text in ((("port", "del", "tap"), "mirror one, two"), (("rule", "del", rule), "mirror two")):
        done = dpu.daemon.cli(*words)
        assert done.returncode == 1 and text in done.stderr
    dpu.call("port.detach", name="a")
    assert views(dpu) == [] and dpu.call("rule.show") == []


def test_switching_on_and_off_loses_no_packet(dpu, wired):
    a, b, _ = wired
    ping = a.popen("ping", "-n", "-q", "-i", "0.002", "-c", 1500, b.ipv4, stdout=-1, text=True)
    for n in range(20):
        mirror(dpu, "--name", f"m{n}", "--port", "a", "--to", "tap")
        mirror(dpu, f"m{n}", verb="del")
    out = ping.communicate(timeout=60)[0]
    assert " 0% packet loss" in out, out


def test_it_is_saved_and_brought_back(new_daemon, namespaces):
    from tests.live.daemon import Container

    daemon = new_daemon().start()
    a, b, tap = (
        Container(daemon, namespaces, name, n, False).attach() for n, name in enumerate(("a", "b", "tap"), 1)
    )
    daemon.cli("mirror", "add", "--name", "m", "--port", "a", "--to", "tap", "--direction", "in")
    text = daemon.call("config.get")["toml"]
    assert "[[mirror]]" in text and 'direction = "in"' in text
    daemon.kill_control()
    daemon.start()
    assert [view["config"]["name"] for view in daemon.call("mirror.show")] == ["m"]
    before = daemon.port("tap")["tx_packets"]
    a.ping(b.ipv4, 5)
    assert wait_until(lambda: daemon.port("tap")["tx_packets"] - before >= 5)
    assert tap
