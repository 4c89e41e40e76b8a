"""VLAN classification and membership, and tags at egress against scapy."""

import random

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

from dpu_runtime.kernels.compile.jit import PYTHON_MODE, kernel
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import FRAME_BYTES_MAX, HEADROOM_BYTES, PORT_TRUNK
from dpu_runtime.kernels.switch.vlan import classify_vlan, is_member, retag
from tests.functions.switch.tables import Tables
from tests.kernels.batches import Batch

VLAN = 100
NATIVE, OTHER, PLAIN = 1, 2, 3  # ports: VLAN 100 untagged; VLAN 7 untagged; no VLAN


@kernel
def run_retag(headers, meta, i, ports, out_port):
    """`retag` as a kernel calls it."""
    return retag(headers, meta, i, ports, out_port)


@kernel
def run_classify(meta, i, ports):
    """`classify_vlan` on a record."""
    return classify_vlan(meta[i], ports)


def _tables():
    tables = Tables(4)
    tables.ports["vlan"][:4] = (0, VLAN, 7, 0)
    tables.ports["flags"][OTHER] |= PORT_TRUNK
    return tables


def _frame(*tags):
    front = Ether(dst="02:11:22:33:44:55", src="02:66:77:88:99:aa")
    for tag in tags:
        front /= tag
    return front / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / Raw(bytes(range(200)) * 2)


def _batch(frame, vlan):
    """A batch of one frame with the fields that the parser and the switch set."""
    batch = Batch([bytes(frame)])
    rec = batch.meta[0]
    tags = [layer for layer in frame.iterpayloads() if isinstance(layer, Dot1Q)]
    rec["tags"] = len(tags)
    rec["vlan_tci"] = _tci(tags[0]) if tags else 0
    rec["inner_tci"] = _tci(tags[1]) if len(tags) > 1 else 0
    rec["l3_offset"] = HEADROOM_BYTES + 14 + 4 * len(tags)
    rec["vlan"] = vlan
    return batch


def _tci(tag):
    return int.from_bytes(bytes(tag)[:2], "big")


def _expected(frame, vlan, native):
    """The frame as it leaves by a port whose untagged VLAN is `native`."""
    frame = frame.copy()
    if vlan == 0:
        return bytes(frame)
    first = frame.payload
    tagged = isinstance(first, Dot1Q)
    if vlan == native:
        if not tagged:
            return bytes(frame)
        out = Ether(dst=frame.dst, src=frame.src, type=first.type) / first.payload
        return bytes(out)
    if tagged:
        first.vlan = vlan
        return bytes(frame)
    return bytes(Ether(dst=frame.dst, src=frame.src) / Dot1Q(vlan=vlan) / frame.payload)


FRAMES = {
    "untagged": (),
    "tagged": (Dot1Q(vlan=VLAN),),
    "tagged with PCP and DEI": (Dot1Q(vlan=VLAN, prio=5, dei=1),),
    "priority tag": (Dot1Q(vlan=0, prio=6),),
    "service tag": (Dot1AD(vlan=VLAN, prio=3),),
    "two tags": (Dot1AD(vlan=VLAN, prio=1), Dot1Q(vlan=200, prio=2)),
    "two tags of one VLAN": (Dot1Q(vlan=VLAN, prio=1), Dot1Q(vlan=VLAN, prio=2)),
}


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("vlan", [0, VLAN])
def test_retag_for_one_port_after_another(name, vlan):
    """Whatever the order of ports, each gets the frame as scapy makes it from the original."""
    tables = _tables()
    rng = random.Random(name)
    frame = _frame(*FRAMES[name])
    for _ in range(3 if PYTHON_MODE else 20):
        batch = _batch(frame, vlan)
        before = batch.meta[0].copy()
        for _ in range(6):
            port = rng.choice((NATIVE, OTHER, PLAIN))
            assert run_retag(batch.headers, batch.meta, 0, tables.ports, port) == Drop.NONE
            expected = _expected(frame, vlan, int(tables.ports["vlan"][port]))
            rec = batch.meta[0]
            assert batch.frame(0) == expected
            assert rec["frame_len"] == len(expected)
            assert rec["l3_offset"] == before["l3_offset"]
            assert rec["l3_offset"] - rec["l2_offset"] == 14 + 4 * rec["tags"]
            for field in ("header_end", "payload_addr", "payload_len", "vlan", "inner_tci", "csum_start"):
                assert rec[field] == before[field]


def test_popping_a_pushed_tag_leaves_no_trace():
    tables = _tables()
    batch = _batch(_frame(), VLAN)
    before = batch.meta[0].copy()
    run_retag(batch.headers, batch.meta, 0, tables.ports, OTHER)
    assert batch.meta[0]["vlan_tci"] == VLAN
    run_retag(batch.headers, batch.meta, 0, tables.ports, NATIVE)
    assert batch.meta[0] == before


def test_a_lying_tag_count_is_refused():
    """A header that ends inside the tag: unchanged, and a reason to drop."""
    tables = _tables()
    for tci, port in ((VLAN, NATIVE), (0, OTHER)):
        for length in range(18):
            batch = Batch([bytes(range(length))])
            batch.meta[0]["tags"] = 1
            batch.meta[0]["vlan"] = VLAN
            batch.meta[0]["vlan_tci"] = tci
            headers, meta = batch.headers.copy(), batch.meta.copy()
            assert run_retag(batch.headers, batch.meta, 0, tables.ports, port) == Drop.VLAN_TRUNCATED
            assert (batch.headers == headers).all()
            assert (batch.meta == meta).all()


@pytest.mark.parametrize(
    ("l2_offset", "frame_len", "reason"),
    [
        (0, 60, Drop.OVERSIZE),
        (3, 60, Drop.OVERSIZE),
        (4, 60, Drop.NONE),
        (128, FRAME_BYTES_MAX - 3, Drop.OVERSIZE),
        (128, FRAME_BYTES_MAX - 4, Drop.NONE),
    ],
)
def test_a_tag_needs_room(l2_offset, frame_len, reason):
    tables = _tables()
    batch = _batch(_frame(), VLAN)
    batch.meta[0]["l2_offset"] = l2_offset
    batch.meta[0]["frame_len"] = frame_len
    headers, meta = batch.headers.copy(), batch.meta.copy()
    assert run_retag(batch.headers, batch.meta, 0, tables.ports, OTHER) == reason
    assert ((batch.headers == headers).all() and (batch.meta == meta).all()) == (reason != Drop.NONE)


@pytest.mark.parametrize(
    ("tags", "tci", "native", "vlan"),
    [
        (0, 0, 0, 0),
        (0, 0, 5, 5),
        (1, 0x6000, 0, 0),
        (1, 0x6000, 5, 5),
        (1, 0x6064, 5, 100),
        (2, 0xF064, 0, 100),
        (1, 0xFFFF, 5, 4095),
    ],
)
def test_classification(tags, tci, native, vlan):
    tables = Tables(4)
    tables.ports["vlan"][2] = native
    batch = Batch([bytes(64)], in_port=2)
    batch.meta[0]["tags"] = tags
    batch.meta[0]["vlan_tci"] = tci
    assert run_classify(batch.meta, 0, tables.ports) == vlan


def test_membership():
    tables = Tables(4)
    access, trunk, plain = 0, 1, 2
    tables.ports["vlan"][:3] = (10, 10, 0)
    tables.ports["flags"][trunk] |= PORT_TRUNK
    tables.allow(trunk, 10, 63, 64, 4094)
    vlans = (0, 1, 10, 63, 64, 65, 4094, 4095)

    def members(port):
        return [v for v in vlans if is_member(tables.ports, tables.vlan_allowed, port, v)]

    assert members(access) == [10]
    assert members(trunk) == [10, 63, 64, 4094]
    assert members(plain) == list(vlans)
    tables.allow(trunk, 0)
    assert members(trunk)[0] == 0
