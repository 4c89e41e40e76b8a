"""Configurations: every wrong one has its own clear text, every right one survives being saved."""

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dpu_runtime.config.errors import ConfigError
from dpu_runtime.config.file import config_toml, load_config, parse_config, problems
from dpu_runtime.config.frame import default_workers, machine_cpus
from dpu_runtime.config.models import Config, PortConfig, TapPort
from dpu_runtime.config.types import derived_mac
from dpu_runtime.functions.acl.config import RuleConfig
from tests.dpu_runtime.config.configs import config_data, configs

PORT = '[[port]]\nname = "web"\nkind = "tap"\nifname = "eth0"\n'
MODE_ALLOWED = 'allowed: an octal mode such as "0660"'
RING = '[[port]]\nname = "vm"\nkind = "vhost_user"\nsocket = "/run/vm"\n'
RULE = '[[rule]]\npriority = 1\naction = "drop"\n'
CPUS = ", ".join(map(str, machine_cpus()))
NAME_ALLOWED = "allowed: 1 to 32 of A-Z a-z 0-9 _ . -"
ADDRESS_ALLOWED = 'allowed: IPv4 or IPv6 host addresses with a prefix length, such as "10.0.0.2/24"'
MAC_ALLOWED = 'allowed: a unicast MAC address such as "02:00:00:00:00:01"'
NETNS_ALLOWED = 'allowed: a name under /run/netns, an absolute path, or "pid:N"'
IFNAME_ALLOWED = "allowed: 1 to 15 octets without / : % and white space"
PREFIX_ALLOWED = 'allowed: an IPv4 or IPv6 prefix such as "10.0.0.0/24" or "2001:db8::/32"'
RANGE_ALLOWED = 'allowed: 0..65535, or a range such as "8000-8080"'
PROTO_ALLOWED = "allowed: icmp, igmp, tcp, udp, gre, esp, ah, icmpv6, ospf, sctp, or 0..255"
FLAGS_ALLOWED = (
    'allowed: flags that are set, or with "!" not set, such as "syn,!ack", of'
    " fin, syn, rst, psh, ack, urg, ece, cwr"
)
WORKERS_ALLOWED = "allowed: numbers of CPUs of this machine, each once"
SOCKET_ALLOWED = "allowed: an absolute path of at most 107 octets"

WRONG = [
    # not TOML, unknown and missing keys
    ("port = [", "f:1: not TOML: Invalid value"),
    ("a = 1\na = 2", "f:2: not TOML: Cannot overwrite a value"),
    ("colour = 1", f"f:1: colour = 1: unknown key; allowed: {', '.join(Config.model_fields)}"),
    ("port = 3", "f:1: port = 3: allowed: [[port]] tables"),
    ("port = [3]", "f:1: port[0] = 3: allowed: a table"),
    ("runtime = 3", "f:1: runtime = 3: allowed: a table"),
    ('[[port]]\nname = "a"', "f:1: port[0].kind: missing; allowed: tap, null, vhost_user, af_packet, af_xdp"),
    (
        '[[port]]\nkind = "usb"',
        'f:2: port[0].kind = "usb": allowed: tap, null, vhost_user, af_packet, af_xdp',
    ),
    (PORT.replace('name = "web"\n', ""), f"f:1: port[0].name: missing; {NAME_ALLOWED}"),
    (PORT.replace('ifname = "eth0"\n', ""), f"f:1: port[0].ifname: missing; {IFNAME_ALLOWED}"),
    (
        PORT + "colour = 1",
        "f:5: port[0].colour = 1: unknown key; allowed: name, kind, mac, mtu, queues, vlan, trunk,"
        " spoof_check, verify_checksum, offload, gro, rx_rate, rx_burst, tx_rate, tx_burst, owner, netns,"
        " ifname, address, route",
    ),
    # runtime
    (
        "[runtime]\nworkers = []",
        "f:2: runtime.workers = []: no worker; allowed: numbers of CPUs of this machine, each once",
    ),
    (
        "[runtime]\nworkers = [4095]",
        f"f:2: runtime.workers = [4095]: no CPU 4095, this machine has {CPUS};"
        " allowed: numbers of CPUs of this machine, each once",
    ),
    (
        "[runtime]\nworkers = [0, 0]",
        f"f:2: runtime.workers = [0, 0]: names a CPU twice; {WORKERS_ALLOWED}",
    ),
    ('[runtime]\nstandby = "yes"', 'f:2: runtime.standby = "yes": allowed: true, false'),
    ("[runtime]\nmac_ageing_s = 0", "f:2: runtime.mac_ageing_s = 0: allowed: 1..1000000 seconds"),
    ("[runtime]\nidle_spin_us = 1001", "f:2: runtime.idle_spin_us = 1001: allowed: 0..1000 microseconds"),
    ('[runtime]\ndefault_ingress = "deny"', 'f:2: runtime.default_ingress = "deny": allowed: allow, drop'),
    (
        '[runtime]\nsocket = "dpu.sock"',
        f'f:2: runtime.socket = "dpu.sock": not an absolute path; {SOCKET_ALLOWED}',
    ),
    (
        f'[runtime]\nsocket = "/{"x" * 107}"',
        f'f:2: runtime.socket = "/{"x" * 75}...: has 108 octets; {SOCKET_ALLOWED}',
    ),
    (
        '[runtime]\nstate_dir = ""',
        'f:2: runtime.state_dir = "": not an absolute path; allowed: an absolute path',
    ),
    # port
    (PORT.replace("web", "a b"), f'f:2: port[0].name = "a b": {NAME_ALLOWED}'),
    (PORT.replace("web", "x" * 33), f'f:2: port[0].name = "{"x" * 33}": {NAME_ALLOWED}'),
    (PORT + "mtu = 67", "f:5: port[0].mtu = 67: allowed: 68..65535 octets"),
    (PORT + "mtu = 65536", "f:5: port[0].mtu = 65536: allowed: 68..65535 octets"),
    (PORT + 'mtu = "1500"', 'f:5: port[0].mtu = "1500": allowed: 68..65535 octets'),
    (
        PORT + 'mac = "01:00:00:00:00:01"',
        f'f:5: port[0].mac = "01:00:00:00:00:01": a group address; {MAC_ALLOWED}',
    ),
    (
        PORT + 'mac = "02:00:00:00:01"',
        f'f:5: port[0].mac = "02:00:00:00:01": not a MAC address; {MAC_ALLOWED}',
    ),
    (
        PORT + 'mac = "00:00:00:00:00:00"',
        f'f:5: port[0].mac = "00:00:00:00:00:00": the null address; {MAC_ALLOWED}',
    ),
    (PORT + "queues = 0", "f:5: port[0].queues = 0: allowed: 1 to the number of workers"),
    (
        "[runtime]\nworkers = [0]\n" + PORT + "queues = 2",
        "f:7: port[0].queues = 2: more than the 1 worker(s)",
    ),
    (PORT + "vlan = 4095", "f:5: port[0].vlan = 4095: allowed: 1..4094"),
    (PORT + "trunk = [0]", "f:5: port[0].trunk[0] = 0: allowed: VLAN IDs, 1..4094, each once"),
    (
        PORT + "trunk = [7, 7]",
        "f:5: port[0].trunk = [7, 7]: names a VLAN twice; allowed: VLAN IDs, 1..4094, each once",
    ),
    (PORT + 'netns = "a/b"', f'f:5: port[0].netns = "a/b": not a namespace name; {NETNS_ALLOWED}'),
    (PORT + 'netns = "pid:0"', f'f:5: port[0].netns = "pid:0": not a process number; {NETNS_ALLOWED}'),
    (PORT.replace("eth0", "x" * 16), f'f:4: port[0].ifname = "{"x" * 16}": has 16 octets; {IFNAME_ALLOWED}'),
    (PORT.replace("eth0", "a/b"), f'f:4: port[0].ifname = "a/b": not a name Linux takes; {IFNAME_ALLOWED}'),
    (PORT.replace("eth0", ".."), f'f:4: port[0].ifname = "..": not a name Linux takes; {IFNAME_ALLOWED}'),
    (
        PORT + 'address = ["10.0.0.2"]',
        f'f:5: port[0].address[0] = "10.0.0.2": has no prefix length; {ADDRESS_ALLOWED}',
    ),
    (
        PORT + 'address = ["10.0.0.2/24", "10.0.0.2/40"]',
        'f:5: port[0].address[1] = "10.0.0.2/40": '
        "'10.0.0.2/40' does not appear to be an IPv4 or IPv6 interface;"
        f" {ADDRESS_ALLOWED}",
    ),
    (
        PORT + 'address = ["10.0.0.0/24"]',
        'f:5: port[0].address[0] = "10.0.0.0/24": the network\'s own address, it has no host part;'
        f" {ADDRESS_ALLOWED}",
    ),
    (
        PORT + 'address = ["10.0.0.255/24"]',
        f'f:5: port[0].address[0] = "10.0.0.255/24": the network\'s broadcast address; {ADDRESS_ALLOWED}',
    ),
    (
        PORT + 'address = ["ff02::1/64"]',
        f'f:5: port[0].address[0] = "ff02::1/64": not a host\'s address; {ADDRESS_ALLOWED}',
    ),
    (
        PORT + 'address = ["10.0.0.2/24", "10.0.0.2/24"]',
        'f:5: port[0].address[1] = "10.0.0.2/24": given twice',
    ),
    (
        PORT + 'mtu = 1279\naddress = ["2001:db8::1/64"]',
        "f:5: port[0].mtu = 1279: too small for IPv6 (2001:db8::1/64), which needs 1280",
    ),
    (
        PORT + 'route = [{to = "default", via = "10.0.0.1"}]',
        'f:5: port[0].route[0].via = "10.0.0.1": in no network of the port\'s addresses',
    ),
    (
        PORT + '[[port.route]]\nto = "10.0.0.0/8"\nvia = "fe80::1"',
        'f:7: port[0].route[0].via = "fe80::1": not of the family of 10.0.0.0/8',
    ),
    (
        PORT + '[[port.route]]\nto = "10.0.0.1/8"\nvia = "10.0.0.1"',
        'f:6: port[0].route[0].to = "10.0.0.1/8": has host bits set, 10.0.0.0/8 has not;'
        ' allowed: "default" or an IPv4 or IPv6 prefix such as "10.1.0.0/16"',
    ),
    (PORT + PORT.replace("eth0", "eth1"), 'f:6: port[1].name = "web": another port has this name'),
    (
        PORT + PORT.replace("web", "db"),
        'f:8: port[1].ifname = "eth0": port web has an interface of this name in the same namespace',
    ),
    # vhost_user port
    (RING.replace('socket = "/run/vm"\n', ""), f"f:1: port[0].socket: missing; {SOCKET_ALLOWED}"),
    (
        RING.replace("/run/vm", "vm"),
        f'f:4: port[0].socket = "vm": not an absolute path; {SOCKET_ALLOWED}',
    ),
    (
        RING.replace("/run/vm", "/" + "x" * 107),
        f'f:4: port[0].socket = "/{"x" * 75}...: has 108 octets; {SOCKET_ALLOWED}',
    ),
    (
        RING.replace("/run/vm", "/run/dpu/dpu.sock"),
        'f:4: port[0].socket = "/run/dpu/dpu.sock": is the daemon\'s own',
    ),
    (RING + RING.replace('"vm"', '"db"'), 'f:8: port[1].socket = "/run/vm": port vm has it'),
    (RING + 'client = "yes"', 'f:5: port[0].client = "yes": allowed: true, false'),
    (RING + 'socket_mode = "888"', f'f:5: port[0].socket_mode = "888": not an octal mode; {MODE_ALLOWED}'),
    (RING + 'socket_group = "/"', 'f:5: port[0].socket_group = "/": allowed: name or number of a group'),
    (
        RING + 'client = true\nsocket_group = "kvm"',
        'f:6: port[0].socket_group = "kvm": not with `client`: the other side makes the socket',
    ),
    (RING + "queues = 0", "f:5: port[0].queues = 0: allowed: 1 to 16"),
    (RING + "queues = 17", "f:5: port[0].queues = 17: allowed: 1 to 16"),
    (
        RING + 'ifname = "eth0"',
        'f:5: port[0].ifname = "eth0": unknown key; allowed: name, kind, mac, mtu, queues, vlan, trunk,'
        " spoof_check, verify_checksum, offload, gro, rx_rate, rx_burst, tx_rate, tx_burst, owner, socket,"
        " client, socket_mode, socket_group, xconnect",
    ),
    (RING + 'xconnect = "a b"', f'f:5: port[0].xconnect = "a b": {NAME_ALLOWED}'),
    (
        PORT + RING + 'xconnect = "web"',
        'f:9: port[1].xconnect = "web": no such vhost_user port, there are: vm',
    ),
    (
        RING + 'xconnect = "vn"',
        'f:5: port[0].xconnect = "vn": no such vhost_user port, there are: vm',
    ),
    (
        PORT + 'xconnect = "web"',
        'f:5: port[0].xconnect = "web": unknown key; allowed: name, kind, mac, mtu, queues, vlan, trunk,'
        " spoof_check, verify_checksum, offload, gro, rx_rate, rx_burst, tx_rate, tx_burst, owner, netns,"
        " ifname, address, route",
    ),
    # rule
    ('[[rule]]\naction = "drop"', "f:1: rule[0].priority: missing; allowed: 0..65535"),
    ("[[rule]]\npriority = 1", "f:1: rule[0].action: missing; allowed: allow, drop"),
    (RULE.replace("1", "65536"), "f:2: rule[0].priority = 65536: allowed: 0..65535"),
    (RULE.replace("drop", "deny"), 'f:3: rule[0].action = "deny": allowed: allow, drop'),
    (RULE + 'stage = "in"', 'f:4: rule[0].stage = "in": allowed: ingress, egress'),
    (RULE + 'in_port = "nope"', 'f:4: rule[0].in_port = "nope": no such port, there are: none'),
    (PORT + RULE + 'in_port = "nope"', 'f:8: rule[0].in_port = "nope": no such port, there are: web'),
    (PORT + RULE + 'out_port = "web"', 'f:8: rule[0].out_port = "web": needs stage = "egress"'),
    (RULE + 'name = "a"\n' + RULE + 'name = "a"', 'f:8: rule[1].name = "a": another rule has this name'),
    (RULE + 'dport = "23"', 'f:4: rule[0].dport = "23": needs proto = tcp or udp or sctp'),
    (RULE + 'proto = "icmp"\nsport = 23', 'f:5: rule[0].sport = "23": needs proto = tcp or udp or sctp'),
    (RULE + 'proto = "tcp"\ndport = 65536', f"f:5: rule[0].dport = 65536: above 65535; {RANGE_ALLOWED}"),
    (
        RULE + 'proto = "tcp"\ndport = -1',
        f"f:5: rule[0].dport = -1: not a port or a range of ports; {RANGE_ALLOWED}",
    ),
    (
        RULE + 'proto = "tcp"\ndport = "20-10"',
        f'f:5: rule[0].dport = "20-10": the range ends before it begins; {RANGE_ALLOWED}',
    ),
    (RULE + 'proto = "tpc"', f'f:4: rule[0].proto = "tpc": not a protocol; {PROTO_ALLOWED}'),
    (RULE + "proto = 256", f"f:4: rule[0].proto = 256: not a protocol; {PROTO_ALLOWED}"),
    (RULE + "proto = true", f"f:4: rule[0].proto = true: {PROTO_ALLOWED}"),
    (RULE + 'tcp_flags = "syn"', 'f:4: rule[0].tcp_flags = "syn": needs proto = tcp'),
    (
        RULE + 'proto = "tcp"\ntcp_flags = "syn,ak"',
        f"f:5: rule[0].tcp_flags = \"syn,ak\": unknown flag 'ak'; {FLAGS_ALLOWED}",
    ),
    (
        RULE + 'proto = "tcp"\ntcp_flags = "syn,!syn"',
        f"f:5: rule[0].tcp_flags = \"syn,!syn\": names 'syn' twice; {FLAGS_ALLOWED}",
    ),
    (
        RULE + 'src = "10.0.0.1/8"',
        f'f:4: rule[0].src = "10.0.0.1/8": has host bits set, 10.0.0.0/8 has not; {PREFIX_ALLOWED}',
    ),
    (RULE + 'src = "10.0.0.0/8"\ndst = "::/0"', 'f:5: rule[0].dst = "::/0": IPv6 in a rule for IPv4'),
    (
        RULE + 'ethertype = "ipv6"\ndst = "10.0.0.1"',
        'f:5: rule[0].dst = "10.0.0.1/32": IPv4 in a rule for IPv6',
    ),
    (
        RULE + 'ethertype = "arp"\nproto = "tcp"',
        'f:4: rule[0].ethertype = "arp": is not IP, but the rule has proto',
    ),
    (
        RULE + 'ethertype = "0x05dc"',
        'f:4: rule[0].ethertype = "0x05dc": out of range; allowed: ipv4, arp, ipv6, or 0x0600..0xffff',
    ),
    (
        RULE + 'src_mac = "02:00:00:00:00:01/ff:ff:ff:00:00:00"',
        'f:4: rule[0].src_mac = "02:00:00:00:00:01/ff:ff:ff:00:00:00": has bits outside its mask,'
        " 02:00:00:00:00:00/ff:ff:ff:00:00:00 has not; allowed: a MAC address, with an optional mask, such as"
        ' "02:00:00:00:00:00/ff:ff:ff:00:00:00"',
    ),
    (RULE + "vlan = 4095", "f:4: rule[0].vlan = 4095: allowed: 0..4094"),
]


@pytest.mark.parametrize(("text", "expected"), WRONG, ids=range(len(WRONG)))
def test_wrong_configuration_has_one_clear_error(text, expected):
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "f")
    assert str(caught.value) == expected


def test_all_errors_are_listed_one_a_line():
    with pytest.raises(ConfigError) as caught:
        parse_config(PORT + "mtu = 1\nvlan = 0\n" + RULE + "vlan = -1", "f")
    assert [problem.key for problem in caught.value.problems] == [
        "port[0].mtu",
        "port[0].vlan",
        "rule[0].vlan",
    ]
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "{}: No such file or directory"),
        (b"\xff", "{}: octet 0 is not UTF-8"),
        (b"a = " + b"[" * 9999, "{}"),
    ],
)
def test_unreadable_file(tmp_path, content, expected):
    path = tmp_path / "dpu.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=expected.format(path)):
        load_config(path)


def test_values_get_one_spelling():
    rule = RuleConfig.model_validate(
        {
            "priority": 1,
            "action": "drop",
            "src_mac": "AA:bb:cc:00:00:01",
            "ethertype": "0x800",
            "src": "10.0.0.1",
            "proto": 6,
            "dport": "80-80",
            "tcp_flags": "ACK,!syn",
        }
    )
    said = rule.model_dump(exclude_none=True, exclude={"priority", "action", "stage"})
    assert said == {
        "src_mac": "aa:bb:cc:00:00:01",
        "ethertype": "ipv4",
        "src": "10.0.0.1/32",
        "proto": "tcp",
        "dport": "80",
        "tcp_flags": "!syn,ack",
    }
    assert rule.src_mac_bits == (0xAABBCC000001, 0xFFFFFFFFFFFF)
    assert rule.dport_range == (80, 80)
    assert rule.tcp_flags_bits == (0x12, 0x10)
    assert (rule.proto_number, rule.ethertype_number, str(rule.src_network)) == (6, 0x0800, "10.0.0.1/32")


def test_defaults():
    config = parse_config(PORT + RULE + RULE.replace("1", "2") + 'name = "rule-1"')
    (port,) = config.port
    assert isinstance(port, TapPort)
    assert isinstance(port, PortConfig)
    assert (port.mtu, port.queues, port.offload, port.gro, port.netns) == (1500, None, True, True, None)
    assert port.mac == derived_mac("web")
    assert int(port.mac[:2], 16) & 3 == 2, "locally administered and unicast"
    assert [rule.name for rule in config.rule] == ["rule-2", "rule-1"]
    assert config.runtime.workers == default_workers()


def test_vhost_user_ports_may_have_more_queues_than_workers_and_name_each_other():
    text = "[runtime]\nworkers = [0]\n" + RING + 'queues = 16\nxconnect = "db"\n'
    vm, db = parse_config(text + RING.replace("vm", "db") + 'client = true\nxconnect = "vm"\n').port
    assert (vm.queues, vm.client, vm.xconnect) == (16, False, "db")
    assert (db.queues, db.client, db.xconnect, db.socket) == (None, True, "vm", "/run/db")


def test_derived_mac_never_changes():
    assert derived_mac("web") == "02:27:2d:17:d9:3e"


@settings(max_examples=60, deadline=None)
@given(configs())
def test_saved_configuration_gives_the_same_model(config):
    text = config_toml(config)
    assert parse_config(text) == config
    assert config_toml(parse_config(text)) == text


@settings(max_examples=60, deadline=None)
@given(config_data())
def test_what_a_user_writes_is_what_is_saved(data):
    config = parse_config(tomlkit.dumps(data))
    assert config == Config.model_validate(data)
    assert Config.model_validate(config.model_dump(mode="json", exclude_none=True)) == config


VALUES = st.recursive(
    st.one_of(st.integers(), st.text(max_size=8), st.booleans(), st.floats(), st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["runtime", "port", "rule"]),
    st.sampled_from([*TapPort.model_fields, *RuleConfig.model_fields, "workers", "socket", "x"]),
    VALUES,
)
def test_any_value_of_any_key_is_good_or_a_problem_of_that_part(part, key, value):
    base = {"port": {"name": "a", "kind": "tap", "ifname": "e"}, "rule": {"priority": 1, "action": "drop"}}
    table = {**base.get(part, {}), key: value}
    try:
        Config.model_validate({part: table if part == "runtime" else [table]})
    except ValidationError as error:
        found = problems(error, Config, "f")
        assert found
        assert all(str(problem).startswith(f"f: {part}") for problem in found)
