"""Rules of the configuration as rules of the ACL, and the hit counters they keep."""

import ipaddress
import json

import numpy as np
import pytest

from dpu_runtime.config.models import NullPort
from dpu_runtime.functions.acl import FUNCTION
from dpu_runtime.functions.acl.book import DEFAULT_HITS, FIRST_HIT, RuleBook, acl_rule, active
from dpu_runtime.functions.acl.config import AclSettings, RuleConfig
from dpu_runtime.kernels.acl.layout import ACTION_ALLOW, ACTION_DROP, VERDICT_ACTION_SHIFT
from dpu_runtime.kernels.acl.rule import AclRule
from tests.functions import regions

pytestmark = pytest.mark.one_mode("the control half: no kernel is called")
PORTS = {"web": 3, "client": 9}
ALLOW = AclSettings()
V4, V6 = ipaddress.ip_address("10.1.2.0"), ipaddress.ip_address("2001:db8::")


def config(**keys):
    return RuleConfig(**{"priority": 7, "action": "drop", "name": "r", **keys})


@pytest.mark.parametrize(
    ("keys", "fields"),
    [
        ({}, {}),
        ({"action": "allow"}, {"action": ACTION_ALLOW}),
        ({"in_port": "web"}, {"in_port": 3}),
        ({"stage": "egress", "out_port": "client"}, {"out_port": 9}),
        ({"src_mac": "02:00:00:00:00:01"}, {"src_mac": 0x020000000001, "src_mac_mask": (1 << 48) - 1}),
        (
            {"dst_mac": "02:aa:00:00:00:00/ff:ff:00:00:00:00"},
            {"dst_mac": 0x02AA00000000, "dst_mac_mask": 0xFFFF00000000},
        ),
        ({"vlan": 5}, {"vlan": 5, "vlan_mask": 0xFFF}),
        ({"vlan": 0}, {"vlan": 0, "vlan_mask": 0xFFF}),
        ({"ethertype": "arp"}, {"ethertype": 0x0806}),
        ({"ethertype": "0x88b5"}, {"ethertype": 0x88B5}),
        ({"src": "10.1.2.0/24"}, {"src": int(V4), "src_mask": 0xFFFFFF00, "ip_version": 4}),
        ({"dst": "0.0.0.0/0"}, {"dst": 0, "dst_mask": 0, "ip_version": 4}),
        (
            {"dst": "2001:db8::/32"},
            {"dst": int(V6), "dst_mask": 0xFFFFFFFF << 96, "ip_version": 6},
        ),
        ({"proto": "icmp"}, {"proto": 1}),
        ({"proto": 0}, {"proto": 0}),
        ({"proto": "udp", "sport": "53"}, {"proto": 17, "sport": (53, 53)}),
        ({"proto": "tcp", "dport": "80-90"}, {"proto": 6, "dport": (80, 90)}),
        ({"proto": "tcp", "tcp_flags": "syn,!ack"}, {"proto": 6, "tcp_flags": 2, "tcp_flags_mask": 18}),
    ],
)
def test_every_key(keys, fields):
    wanted = {"priority": 7, "action": ACTION_DROP, "hit": 42} | fields
    assert acl_rule(config(**keys), 42, PORTS) == AclRule(**wanted)


def test_every_key_has_a_case():
    """A key that is added to the configuration must reach the ACL."""
    cases = next(mark for mark in test_every_key.pytestmark if mark.name == "parametrize").args[1]
    tried = {key for keys, _ in cases for key in keys}
    assert tried | {"name", "priority"} == set(RuleConfig.model_fields)


@pytest.fixture
def book():
    return regions.book(RuleBook, FUNCTION)


def put(book, *names, stage="ingress", settings=ALLOW):
    items = {"rule": [config(name=name, stage=stage) for name in names]}
    book.publish(items, settings, {"port": PORTS})


def hit(book, name, packets, worker=0):
    """What a worker does when packets match."""
    book.tables.hits[worker, hits(book)[name]] += np.array([packets, packets * 100], np.uint64)


def hits(book):
    return book.numbers()["rule"]


def counted(book):
    return book.counters()["rule"]


def test_rule_keeps_its_counter_whatever_comes_and_goes(book):
    put(book, "a", "b", "c")
    before = hits(book)
    assert min(before.values()) == FIRST_HIT
    hit(book, "b", 5)
    hit(book, "b", 2, worker=1)
    put(book, "x", "c", "b", "y")
    assert (hits(book)["b"], hits(book)["c"]) == (before["b"], before["c"])
    assert len(set(hits(book).values())) == 4
    assert counted(book)["b"] == (7, 700)
    put(book, "b", stage="egress")
    assert counted(book) == {"b": (7, 700)}


def test_new_rule_with_an_old_counter_begins_at_zero(book):
    put(book, "a")
    hit(book, "a", 5)
    before = hits(book)["a"]
    put(book)
    put(book, "b")
    assert hits(book)["b"] == before
    assert counted(book)["b"] == (0, 0)
    hit(book, "b", 3)
    assert counted(book)["b"] == (3, 300)
    put(book, "b", "c")
    assert counted(book)["b"] == (3, 300)


def test_defaults_have_counters_that_no_rule_gets(book):
    put(book, "a", settings=AclSettings(default_ingress="drop"))
    assert min(hits(book).values()) > max(DEFAULT_HITS.values())
    verdicts = {hook: getattr(book.tables, f"{hook}_head")[1, 0]["default_verdict"] for hook in DEFAULT_HITS}
    drop = 1 << VERDICT_ACTION_SHIFT
    assert verdicts == {"ingress": drop | DEFAULT_HITS["ingress"], "egress": DEFAULT_HITS["egress"]}


def test_many_rules_are_summed_as_few_are(book):
    names = [f"r{n}" for n in range(100)]
    put(book, *names)
    for n, name in enumerate(names):
        hit(book, name, n, worker=n % 2)
    assert [counted(book)[name][0] for name in names] == list(range(100))


def test_counters_survive_the_control_process(book):
    put(book, "a", "b")
    hit(book, "a", 5)
    put(book, "b")
    put(book, "b", "again")
    hit(book, "again", 2)
    notes = json.loads(json.dumps(book.notes()))
    later = RuleBook(FUNCTION, book.tables, book.ports, 2, notes)
    assert later.counters() == book.counters()
    assert later.numbers() == book.numbers()
    put(later, "again", "b")
    assert counted(later)["again"] == (2, 200)


def test_rules_that_do_not_fit_change_nothing(book, monkeypatch):
    put(book, "a")

    def state():
        versions = int(book.tables.ingress_active[0]), int(book.tables.egress_active[0])
        return json.dumps(book.notes()), versions

    before = state()

    def full(*_):
        raise ValueError("more than 65536 rules")

    monkeypatch.setattr("dpu_runtime.functions.acl.book.build_stage", full)
    with pytest.raises(ValueError, match="more than"):
        put(book, "a", "b")
    assert state() == before


WEB, CLIENT = (NullPort(name=name, kind="null") for name in ("web", "client"))


@pytest.mark.parametrize(
    ("rules", "settings", "on"),
    [
        ([], {}, ""),
        ([], {"default_ingress": "drop"}, "web in, client in"),
        ([], {"default_egress": "drop"}, "web out, client out"),
        ([{}], {}, "web in, client in"),
        ([{"in_port": "web"}], {}, "web in"),
        ([{"in_port": "web"}, {"in_port": "client"}], {}, "web in, client in"),
        ([{"stage": "egress", "in_port": "web"}], {}, "web out, client out"),
        ([{"stage": "egress", "in_port": "web", "out_port": "client"}], {}, "client out"),
        ([{"in_port": "web"}, {"stage": "egress", "out_port": "web"}], {}, "web in, web out"),
    ],
)
def test_a_stage_is_on_where_it_can_decide_anything(rules, settings, on):
    is_on = active({"rule": [config(**rule) for rule in rules]}, AclSettings(**settings))
    places = [
        f"{port.name} {way}"
        for port in (WEB, CLIENT)
        for stage, way in (("acl_ingress", "in"), ("acl_egress", "out"))
        if is_on(stage, port)
    ]
    assert sorted(places) == sorted(filter(None, on.split(", ")))
