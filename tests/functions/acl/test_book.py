"""Rules of the configuration as rules of the ACL, and the hit counters they keep."""

import ipaddress
import json

import numpy as np
import pytest

from dpu_runtime.functions.acl.book import DEFAULT_SLOTS, FIRST_SLOT, RuleBook, acl_rule
from dpu_runtime.functions.acl.config import RuleConfig
from dpu_runtime.kernels.acl.layout import ACTION_ALLOW, ACTION_DROP
from dpu_runtime.kernels.acl.rule import AclRule
from dpu_runtime.plane.shared import SharedState

PORTS = {"web": 3, "client": 9}
ALLOW = {"ingress": "allow", "egress": "allow"}
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
    wanted = {"priority": 7, "action": ACTION_DROP, "hit_slot": 42} | fields
    assert acl_rule(config(**keys), 42, PORTS) == AclRule(**wanted)


def test_every_key_has_a_case():
    """A key that is added to the configuration must reach the ACL."""
    cases = next(mark for mark in test_every_key.pytestmark if mark.name == "parametrize").args[1]
    tried = {key for keys, _ in cases for key in keys}
    assert tried | {"name", "priority"} == set(RuleConfig.model_fields)


@pytest.fixture
def book():
    return RuleBook(SharedState.create())


def put(book, *names, stage="ingress"):
    book.publish([config(name=name, stage=stage) for name in names], ALLOW, PORTS, 2)


def hit(book, name, packets, worker=0):
    """What a worker does when packets match."""
    book.shared.rule_hits[worker, book.slots[name]] += np.array([packets, packets * 100], np.uint64)


def test_rule_keeps_its_counter_whatever_comes_and_goes(book):
    put(book, "a", "b", "c")
    slots = dict(book.slots)
    assert min(slots.values()) == FIRST_SLOT
    hit(book, "b", 5)
    hit(book, "b", 2, worker=1)
    put(book, "x", "c", "b", "y")
    assert (book.slots["b"], book.slots["c"]) == (slots["b"], slots["c"])
    assert len(set(book.slots.values())) == 4
    assert book.hits(2)["b"] == (7, 700)
    put(book, "b", stage="egress")
    assert book.hits(2)["b"] == (7, 700)


def test_new_rule_in_an_old_slot_begins_at_zero(book):
    put(book, "a")
    hit(book, "a", 5)
    slot = book.slots["a"]
    put(book)
    put(book, "b")
    assert book.slots["b"] == slot
    assert book.hits(2)["b"] == (0, 0)
    hit(book, "b", 3)
    assert book.hits(2)["b"] == (3, 300)
    put(book, "b", "c")
    assert book.hits(2)["b"] == (3, 300)


def test_defaults_are_counted_under_their_own_names(book):
    put(book)
    book.shared.rule_hits[1, DEFAULT_SLOTS["egress"], 0] = 4
    assert book.hits(2) == {"default-ingress": (0, 0), "default-egress": (4, 0)}


def test_many_rules_are_summed_as_few_are(book):
    names = [f"r{n}" for n in range(100)]
    put(book, *names)
    for n, name in enumerate(names):
        hit(book, name, n, worker=n % 2)
    hits = book.hits(2)
    assert [hits[name][0] for name in names] == list(range(100))


def test_counters_survive_the_control_process(book):
    put(book, "a", "b")
    hit(book, "a", 5)
    put(book, "b")
    put(book, "b", "again")
    hit(book, "again", 2)
    notes = json.loads(json.dumps(book.notes()))
    later = RuleBook(book.shared, **notes)
    assert later.hits(2) == book.hits(2)
    put(later, "again", "b")
    assert later.hits(2)["again"] == (2, 200)


def test_rules_that_do_not_fit_change_nothing(book, monkeypatch):
    put(book, "a")
    before = book.notes(), int(book.shared.ingress_active[0]), int(book.shared.egress_active[0])

    def full(*_):
        raise ValueError("more than 65536 rules")

    monkeypatch.setattr("dpu_runtime.functions.acl.book.build_stage", full)
    with pytest.raises(ValueError, match="more than"):
        put(book, "a", "b")
    assert (book.notes(), int(book.shared.ingress_active[0]), int(book.shared.egress_active[0])) == before
