"""Mirror in memory: which packets are copied, where to, how much of each; no original pays."""

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from dpu_runtime.functions.mirror import FUNCTION
from dpu_runtime.functions.mirror.book import MirrorBook
from dpu_runtime.functions.mirror.config import MirrorConfig
from dpu_runtime.kernels.acl.layout import ACTION_ALLOW, ACTION_DROP
from dpu_runtime.kernels.acl.rule import AclRule
from dpu_runtime.kernels.burst import SPARE_ROWS
from dpu_runtime.kernels.layout import BATCH_SIZE
from tests.functions.device import Device

WEB, CLIENT, TAP, OTHER = range(4)
PORTS = {"web": WEB, "client": CLIENT, "tap": TAP, "other": OTHER}
MACS = [f"02:00:00:00:00:0{n}" for n in range(4)]
HIT = 9  # hit counter of the rule that is mirrored
STAGES = tuple(stage.name for stage in FUNCTION.stages)


@pytest.fixture
def dpu(monkeypatch):
    """A device whose MAC addresses are known; `mirror(...)` sets its mirrors."""
    made = Device((), STAGES, ports=4, monkeypatch=monkeypatch)
    book = MirrorBook(FUNCTION, made.shared.of("mirror"), made.shared.ports, 1)

    def mirror(*mirrors):
        items = {"mirror": [MirrorConfig(name=f"m{n}", **keys) for n, keys in enumerate(mirrors)]}
        book.publish(items, None, {"port": PORTS, "rule": {"r": HIT}})

    made.mirror, made.book = mirror, book
    for port in range(4):
        made.send(port, [bytes(Ether(src=MACS[port], dst="ff:ff:ff:ff:ff:ff", type=0x88B5))])
    return made


def frame(source=CLIENT, target=WEB, size=60, number=0, layer4=TCP, tag=None):
    packet = Ether(src=MACS[source], dst=MACS[target])
    if tag is not None:
        packet /= Dot1Q(vlan=tag)
    packet /= IP(src="10.0.0.1", dst="10.0.0.2", id=number) / layer4(sport=1, dport=80)
    return bytes(packet / Raw(bytes(max(0, size - len(packet)))))


def copied(sent, port=TAP):
    return [octets for to, octets in sent if to == port]


@pytest.mark.parametrize(
    ("direction", "forth", "back"), [("in", 0, 1), ("out", 1, 0), ("both", 1, 1)], ids=["in", "out", "both"]
)
def test_the_direction_is_that_of_the_mirrored_port(dpu, direction, forth, back):
    dpu.mirror({"port": "web", "to": "tap", "direction": direction})
    to_web, from_web = frame(CLIENT, WEB), frame(WEB, CLIENT)
    sent = dpu.send(CLIENT, [to_web])
    assert (copied(sent), copied(sent, WEB)) == ([to_web] * forth, [to_web])
    sent = dpu.send(WEB, [from_web])
    assert (copied(sent), copied(sent, CLIENT)) == ([from_web] * back, [from_web])
    assert copied(dpu.send(CLIENT, [frame(CLIENT, OTHER)])) == []
    assert dpu.balance()[0] == 0


def test_without_mirrors_nothing_is_made(dpu):
    dpu.mirror({"port": "web", "to": "tap"})
    dpu.mirror()
    dpu.send(CLIENT, [frame()])
    assert dpu.balance()[1]["made"] == 0


def test_what_is_dropped_behind_the_port_was_seen_coming_in(dpu):
    dpu.set_rules("ingress", [AclRule(1, ACTION_DROP, HIT, proto=17)])
    dpu.mirror({"port": "client", "to": "tap", "direction": "in"})
    sent = dpu.send(CLIENT, [frame(layer4=UDP), frame()])
    assert copied(sent) == [frame(layer4=UDP), frame()]
    assert copied(sent, WEB) == [frame()]


def test_what_does_not_leave_is_not_seen_going_out(dpu):
    dpu.set_rules("egress", [AclRule(1, ACTION_DROP, HIT, proto=17)])
    dpu.mirror({"port": "web", "to": "tap", "direction": "out"})
    assert copied(dpu.send(CLIENT, [frame(layer4=UDP), frame()])) == [frame()]


@pytest.mark.parametrize("hook", ["ingress", "egress"])
@pytest.mark.parametrize("action", [ACTION_ALLOW, ACTION_DROP], ids=["allow", "drop"])
def test_packets_of_a_rule_are_copied_whatever_it_does_with_them(dpu, hook, action):
    dpu.set_rules(hook, [AclRule(2, action, HIT, proto=17), AclRule(1, ACTION_ALLOW, HIT + 1, proto=6)])
    dpu.mirror({"rule": "r", "to": "tap"})
    sent = dpu.send(CLIENT, [frame(layer4=UDP, number=1), frame(number=2), frame(layer4=UDP, number=3)])
    assert copied(sent) == [frame(layer4=UDP, number=n) for n in (1, 3)]
    assert len(copied(sent, WEB)) == (1 if action == ACTION_DROP else 3)
    assert dpu.balance()[0] == 0


def test_a_rule_that_decided_earlier_bursts_is_forgotten(dpu):
    """A packet that is dropped in front of the rules has no mark of one that lay in its row before."""
    dpu.set_rules("ingress", [AclRule(1, ACTION_ALLOW, HIT, proto=6)])
    dpu.mirror({"rule": "r", "to": "tap"})
    assert len(copied(dpu.send(CLIENT, [frame()] * 3))) == 3
    dpu.shared.ports["flags"][CLIENT] = 0
    assert dpu.send(CLIENT, [frame()] * 3) == []


@pytest.mark.parametrize("octets", [14, 60, 61, 256, 257, 1000, 60_000])
def test_copies_are_cut_and_originals_are_not(dpu, octets):
    dpu.mirror({"port": "client", "to": "tap", "direction": "in", "octets": octets})
    original = frame(size=1000)
    sent = dpu.send(CLIENT, [original])
    assert copied(sent) == [original[:octets]]
    assert copied(sent, WEB) == [original]
    assert dpu.book.counters() == {"mirror": {"m0": (1, min(octets, 1000))}}


def test_tags_stay_as_they_came(dpu):
    dpu.mirror({"port": "client", "to": "tap", "direction": "in"})
    dpu.shared.ports["vlan"][TAP] = 5
    dpu.shared.of("switch").settings[1] = 1
    tagged = frame(tag=9)
    assert copied(dpu.send(CLIENT, [tagged])) == [tagged]


def test_several_mirrors_of_a_port_and_none_of_copies(dpu):
    dpu.mirror(
        {"port": "client", "to": "tap"},
        {"port": "client", "to": "other", "octets": 20},
        {"port": "tap", "to": "other"},
    )
    sent = dpu.send(CLIENT, [frame()])
    assert copied(sent) == [frame()]
    assert copied(sent, OTHER) == [frame()[:20]], "a copy is not mirrored again"


def test_a_copy_without_room_is_counted_and_no_original_lost(dpu):
    dpu.mirror(*({"port": "client", "to": "tap", "direction": "in"} for _ in range(3)))
    frames = [frame(number=n) for n in range(BATCH_SIZE)]
    sent = dpu.send(CLIENT, frames)
    assert copied(sent, WEB) == frames
    assert len(copied(sent)) == SPARE_ROWS
    assert dpu.shared.of("mirror").drops[0, 0] == 3 * BATCH_SIZE - SPARE_ROWS
    assert dpu.balance()[0] == 0
    assert sum(packets for packets, _ in dpu.book.counters()["mirror"].values()) == SPARE_ROWS


def test_a_mirror_to_a_port_that_is_down_loses_copies_only(dpu):
    dpu.mirror({"port": "client", "to": "tap"})
    dpu.shared.ports["flags"][TAP] = 0
    assert dpu.send(CLIENT, [frame()]) == [(WEB, frame())]
    assert dpu.balance()[0] == 0
