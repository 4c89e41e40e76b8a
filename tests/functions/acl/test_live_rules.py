"""Rules on real traffic: exact hit counts, replacement under traffic, many rules."""

import re
import socket
import time

import pytest

from tests.live.daemon import wait_until

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2", "iputils-ping")]

RULES = 10_000
APPLY_SECONDS_MAX = 30.0  # 10,000 rules from text to tables, on a slow machine


def sent(sender, receiver, port, count=1):
    """Send UDP datagrams one by one; returns how many arrive."""
    with receiver.socket(socket.SOCK_DGRAM, timeout_s=0.3) as into, sender.socket(socket.SOCK_DGRAM) as out:
        into.bind((receiver.ipv4, port))
        for number in range(count):
            out.sendto(b"%d" % number, (receiver.ipv4, port))
        got = 0
        while got < count:
            try:
                into.recv(100)
            except TimeoutError:
                break
            got += 1
        return got


def test_rule_drops_a_port_and_counts_exactly(dpu):
    a, b = dpu.container("a"), dpu.container("b")
    name = dpu.rule(proto="udp", dport="6001", in_port="a")
    before = dpu.drops("acl_ingress")
    assert sent(a, b, 6001, 25) == 0
    assert sent(a, b, 6002, 10) == 10
    assert sent(b, a, 6001, 5) == 5
    assert dpu.hits(name) == 25
    assert dpu.drops("acl_ingress") == before + 25
    assert dpu.port("a")["rx_dropped"] == 25
    dpu.call("rule.del", name=name)
    assert sent(a, b, 6001, 3) == 3


def test_octets_of_a_rule(dpu):
    a, b = dpu.container("a"), dpu.container("b")
    assert sent(a, b, 6001, 1) == 1  # addresses are resolved
    name = dpu.rule("allow", proto="udp", dport="6001")
    assert sent(a, b, 6001, 2) == 2
    view = next(v for v in dpu.call("rule.show", stats=True) if v["config"]["name"] == name)
    assert (view["packets"], view["bytes"]) == (2, 2 * (14 + 20 + 8 + 1))


def test_egress_rule_names_its_port(dpu):
    a, b, c = (dpu.container(name) for name in "abc")
    name = dpu.rule(stage="egress", out_port="b", proto="udp", dport="6001")
    before = dpu.drops("acl_egress")
    assert (sent(a, b, 6001, 4), sent(a, c, 6001, 4)) == (0, 4)
    assert dpu.hits(name) == 4
    assert dpu.drops("acl_egress") == before + 4
    assert dpu.port("b")["tx_dropped"] == 4


def test_egress_rule_and_a_flood(dpu):
    a, b, c = (dpu.container(name) for name in "abc")
    name = dpu.rule(stage="egress", out_port="b", ethertype="arp")
    assert a.ping(b.ipv4, check=False).returncode == 1  # its ARP request reached c only
    a.ping(c.ipv4)
    assert dpu.hits(name) >= 2


def test_first_match_decides(dpu):
    a, b = dpu.container("a"), dpu.container("b")
    low = dpu.rule("drop", 10, proto="udp")
    high = dpu.rule("allow", 20, proto="udp", dport="6000-6999")
    assert (sent(a, b, 6500, 3), sent(a, b, 7000, 2)) == (3, 0)
    assert (dpu.hits(high), dpu.hits(low)) == (3, 2)


@pytest.mark.parametrize("stage", ["ingress", "egress"])
def test_default_action_drop(dpu, stage):
    a, b = dpu.container("a"), dpu.container("b")
    toml = dpu.call("config.get")["toml"]
    default = f'[runtime]\ndefault_{stage} = "drop"\n' + toml.partition("\n\n")[2]
    dpu.call("config.apply", toml=default)
    assert a.ping(b.ipv4, 1, "-W", 0.5, check=False).returncode == 1
    dpu.rule("allow", stage=stage, proto="icmp")
    dpu.rule("allow", stage=stage, ethertype="arp")
    assert wait_until(lambda: a.ping(b.ipv4, check=False).returncode == 0)
    assert sent(a, b, 6001, 2) == 0


def test_ipv6_rule(dpu):
    a, b = dpu.container("a", ipv6=True), dpu.container("b", ipv6=True)
    a.ping(b.ipv6)
    name = dpu.rule(proto="icmpv6", dst=f"{b.ipv6}/128", src="fd07::/64", in_port="a")
    assert a.ping(b.ipv6, 2, "-W", 1, check=False).returncode == 1
    assert dpu.hits(name) >= 2
    a.ping(b.ipv4)


def test_tcp_flags_rule_refuses_connections_in_one_direction(dpu):
    a, b = dpu.container("a"), dpu.container("b")
    name = dpu.rule(proto="tcp", in_port="a", tcp_flags="syn,!ack")
    for caller, answerer, refused in ((a, b, True), (b, a, False)):
        with answerer.socket() as server, caller.socket(timeout_s=0.5) as client:
            server.bind((answerer.ipv4, 6003))
            server.listen()
            try:
                client.connect((answerer.ipv4, 6003))
            except TimeoutError:
                assert refused
            else:
                assert not refused
    assert dpu.hits(name) >= 1


def test_rules_are_replaced_under_a_flood_without_loss(dpu):
    a, b = dpu.container("a"), dpu.container("b")
    a.ping(b.ipv4)
    kept = dpu.rule("allow", 50, proto="icmp", in_port="a")
    flood = a.popen("ping", "-n", "-q", "-f", "-c", 30_000, b.ipv4, stdout=-1, text=True)
    changes = 0
    while flood.poll() is None:
        name = dpu.rule("drop", 60, proto="udp", dport="1-1000")
        dpu.rule("drop", 70, proto="tcp", dport="2000", name=f"extra-{changes}")
        dpu.call("rule.del", name=name)
        changes += 3
    out = flood.communicate()[0]
    assert re.search(r"30000 packets transmitted, 30000 received, 0% packet loss", out), out
    assert changes > 20
    assert dpu.hits(kept) == 30_000


def test_rules_are_replaced_by_the_command_line(dpu):
    a, b = dpu.container("a"), dpu.container("b")
    flood = a.popen("ping", "-n", "-i", 0.01, "-c", 200, b.ipv4, stdout=-1, text=True)
    for number in range(3):
        words = ("--priority", 5, "--proto", "tcp", "--dport", 80 + number, "--action", "drop")
        assert dpu.cli("rule", "add", "--name", f"r{number}", *words).returncode == 0
    shown = dpu.cli("rule", "show", "--stats").stdout
    assert all(f"r{number} " in shown for number in range(3))
    assert dpu.cli("rule", "del", "r1").returncode == 0
    assert " 0% packet loss" in flood.communicate(timeout=30)[0]


def many_rules(count):
    """Configuration of `count` rules over two stages, sources, protocols and port ranges."""
    lines = []
    for n in range(count):
        lines += [
            "[[rule]]",
            f'name = "r{n}"',
            f"priority = {n % 60_000}",
            f'src = "10.{n >> 8 & 255}.{n & 255}.0/24"'
            if n % 2
            else f'dst = "172.{n >> 8 & 15}.{n & 255}.0/24"',
            f'proto = "{("tcp", "udp")[n % 3 == 0]}"',
            f'dport = "{n}-{n + n % 7}"',
            'action = "drop"',
        ]
    return "\n".join(lines)


def test_ten_thousand_rules(dpu):
    a, b = dpu.container("a"), dpu.container("b")
    assert sent(a, b, 7001, 1) == 1
    toml = dpu.call("config.get")["toml"]
    wanted = '[[rule]]\nname = "wanted"\npriority = 60000\nproto = "udp"\ndport = "7001"\naction = "drop"\n'
    flood = a.popen("ping", "-n", "-i", 0.01, "-c", 300, b.ipv4, stdout=-1, text=True)
    began = time.monotonic()
    changes = dpu.call("config.apply", toml=f"{toml}\n{many_rules(RULES - 1)}\n{wanted}")["changes"]
    took_s = time.monotonic() - began
    assert len(changes) == RULES
    assert took_s < APPLY_SECONDS_MAX
    assert (sent(a, b, 7001, 7), sent(a, b, 7000, 5)) == (0, 5)
    hits = {v["config"]["name"]: v["packets"] for v in dpu.call("rule.show", stats=True)}
    assert {name: count for name, count in hits.items() if count} == {"wanted": 7}
    assert " 0% packet loss" in flood.communicate(timeout=30)[0]
    dpu.call("rule.del", name="wanted")
    assert sent(a, b, 7001, 2) == 2


def test_hits_of_a_rule_that_comes_back_begin_at_zero(dpu):
    a, b = dpu.container("a"), dpu.container("b")
    for _ in range(2):
        dpu.rule(name="again", proto="udp", dport="6001")
        assert dpu.hits("again") == 0
        assert sent(a, b, 6001, 3) == 0
        assert wait_until(lambda: dpu.hits("again") == 3)
        dpu.rule(name="other", proto="udp", dport="6002")
        assert dpu.hits("again") == 3
        dpu.call("rule.del", name="again")
        dpu.call("rule.del", name="other")
