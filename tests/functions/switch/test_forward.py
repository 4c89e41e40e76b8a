"""Learning switch against a plain-Python one, model.py."""

import random

import numpy as np
import pytest

from dpu_runtime.kernels.burst import FORWARD, INGRESS, OUT_MAX, Service, Word
from dpu_runtime.kernels.compile.jit import PYTHON_MODE
from dpu_runtime.kernels.drops import DROP_REASON_COUNT
from dpu_runtime.kernels.layout import (
    META_DTYPE,
    PARSED_MULTICAST,
    PORT_SPOOF_CHECK,
    PORT_TRUNK,
    PORT_UP,
    PORTS_MAX,
    VERDICT_DROP,
    VERDICT_MERGED,
    VERDICT_PASS,
    VIRTIO_NET_HDR_GSO_TCPV4,
)
from dpu_runtime.kernels.switch.admit import admit
from dpu_runtime.kernels.switch.forward import forward
from dpu_runtime.kernels.switch.mac_table import (
    AGEING_TICKS,
    COUNTER_COPIES,
    COUNTER_FLOODED,
    COUNTER_LEARNED,
    TICK_NS,
    write_active_ports,
)
from tests.functions.stages import FIRST_DROP, burst_of, run, state_of
from tests.functions.switch.model import Model, Why
from tests.functions.switch.tables import Tables

AGEING = 40  # ticks
BROADCAST = 0xFFFFFFFFFFFF
HOST = 0x020000000000  # plus a number: a host's address


class Switch(Tables):
    """The switch with its tables, and its output lists of `out_max` entries."""

    def __init__(self, count, out_max=OUT_MAX):
        super().__init__(count)
        self.out_max = out_max
        self.calls = 0

    def state(self, ageing=AGEING):
        settings = np.zeros(8, np.uint64)
        settings[AGEING_TICKS] = ageing
        tables = {"mac": self.mac, "vlan_allowed": self.vlan_allowed, "settings": settings}
        return state_of(tables, self.drops[FIRST_DROP:], switch=self.counters)

    def forward(self, meta, rows, now=1000, ageing=AGEING):
        """One call of the kernel over `rows`, of one port; returns (rows left, list of copies)."""
        burst = burst_of(
            meta, FORWARD, self.ports, self.active_ports, rows, coarse_ns=now * TICK_NS, received=len(rows)
        )
        lists = {name: np.full(self.out_max, 0xA5A5, np.uint16) for name in ("out_packet", "out_port")}
        burst = burst._replace(drops=self.drops[:DROP_REASON_COUNT], **lists)
        self.calls += 1
        copied = int(self.counters[COUNTER_COPIES])
        in_port = int(meta[rows[0]]["in_port"]) if len(rows) else 0
        left = run(forward, burst, self.state(ageing), in_port)
        meta[:] = burst.meta[: len(meta)]
        out = int(burst.words[Word.OUT])
        assert out <= self.out_max
        assert int(burst.services[Service.COPIES]) == int(self.counters[COUNTER_COPIES]) - copied
        copies = zip(burst.out_packet[:out].tolist(), burst.out_port[:out].tolist(), strict=True)
        return left, list(copies)

    def run(self, meta, now=1000):
        """All of the batch, port by port in runs, with as many calls as the lists make necessary."""
        listed, first = [], 0
        while first < len(meta):
            end = first
            while end < len(meta) and meta[end]["in_port"] == meta[first]["in_port"]:
                end += 1
            rows = [i for i in range(first, end) if meta[i]["verdict"] == VERDICT_PASS]
            burst = burst_of(meta, INGRESS, self.ports, packets=rows, received=len(rows))
            burst = burst._replace(drops=self.drops[:DROP_REASON_COUNT])
            rows = run(admit, burst, self.state(), int(meta[first]["in_port"]))
            meta[:] = burst.meta[: len(meta)]
            while rows:
                left, part = self.forward(meta, rows, now)
                assert len(left) < len(rows) and rows[len(rows) - len(left) :] == left
                listed, rows = listed + part, left
            first = end
        return listed

    def send(self, *packets, now=1000):
        """Run packets given as dictionaries of meta fields; returns (list, drop reasons)."""
        meta = batch_of(packets)
        listed = self.run(meta, now)
        return listed, [Why(int(r)) for r in meta["drop_reason"]]


def batch_of(packets):
    """META_DTYPE records as the parser leaves them."""
    meta = np.zeros(len(packets), META_DTYPE)
    meta["frame_len"] = 64
    meta["l3_offset"] = 142
    for rec, fields in zip(meta, packets, strict=True):
        for name, value in fields.items():
            rec[name] = value
        if int(rec["dst_mac"]) >> 40 & 1:
            rec["parsed"] |= PARSED_MULTICAST
    return meta


def packet(src, dst, in_port, **fields):
    return {"src_mac": src, "dst_mac": dst, "in_port": in_port, **fields}


PORTS = 8


def _wire(tables):
    """Two plain ports, two access ports of VLAN 10, two trunks, one checked, one with a small MTU."""
    flags, vlan = tables.ports["flags"], tables.ports["vlan"]
    vlan[2] = vlan[3] = 10
    vlan[4] = 10
    flags[4:6] |= PORT_TRUNK
    tables.allow(4, 10, 20)
    tables.allow(5, 20, 4094)
    flags[6] |= PORT_SPOOF_CHECK
    tables.ports["mac"][6] = HOST + 6
    tables.ports["mtu"][7] = 100


def _random_packet(rng):
    src = rng.choice([HOST + rng.randrange(8)] * 12 + [0, 0x010000000001, 0xFEFFFFFFFFFF])
    dst = rng.choice(
        [HOST + rng.randrange(8)] * 12 + [BROADCAST, 0x333300000001, 0x0180C2000000 + rng.randrange(18), 0]
    )
    tags = rng.choice((0, 0, 0, 1, 1, 2))
    fields = {"tags": tags, "frame_len": rng.choice((60, 114, 118, 122, 1514))}
    fields["l3_offset"] = 142 + 4 * tags
    if tags:
        fields["vlan_tci"] = rng.choice((0, 10, 20, 4094, 30)) | rng.choice((0, 0xF000))
    if rng.random() < 0.2:
        fields |= {"gso_type": VIRTIO_NET_HDR_GSO_TCPV4, "gso_size": rng.choice((60, 61, 1448))}
        fields |= {"frame_len": 60000, "l5_offset": rng.choice((0, fields["l3_offset"] + 40))}
    if rng.random() < 0.1:
        fields["verdict"] = rng.choice((VERDICT_DROP, VERDICT_MERGED))
    return packet(src, dst, rng.randrange(PORTS), **fields)


def _disturb(rng, tables):
    """Now and then the control process changes a port."""
    if rng.random() < 0.2:
        tables.ports["flags"][rng.randrange(PORTS)] ^= np.uint32(PORT_UP)
    if rng.random() < 0.1:
        tables.ports["generation"][rng.randrange(PORTS)] += np.uint32(rng.choice((1, 0x10000)))
    if rng.random() < 0.1:
        numbers = rng.sample(range(PORTS), rng.randrange(PORTS + 1))
        write_active_ports(tables.active_ports, numbers)


@pytest.mark.parametrize("seed", range(4 if PYTHON_MODE else 40))
def test_against_the_model(seed):
    rng = random.Random(seed)
    tables = Switch(PORTS, out_max=rng.choice((PORTS, PORTS + 3, OUT_MAX)))
    _wire(tables)
    model = Model(tables, AGEING)
    now, received, sent = 5, 0, 0
    for _ in range(60):
        meta = batch_of([_random_packet(rng) for _ in range(rng.randrange(1, 12))])
        records = [{name: int(rec[name]) for name in META_DTYPE.names} for rec in meta]
        expected, reasons = [], []
        for i, rec in enumerate(records):
            taken, reason = model.forward(rec, now) if rec["verdict"] == VERDICT_PASS else ([], None)
            expected += [(i, port) for port in taken]
            reasons.append(reason)
        drops_before = tables.drops.copy()
        assert tables.run(meta, now) == expected
        part = [reason for reason in reasons if reason is not None]
        for rec, before, reason in zip(meta, records, reasons, strict=True):
            if reason is None:
                assert rec["verdict"] == before["verdict"]
                continue
            assert rec["drop_reason"] == reason
            assert rec["verdict"] == (VERDICT_DROP if reason else VERDICT_PASS)
            assert rec["vlan"] == before["vlan"] or reason == Why.MAC_SPOOF
        for reason in Why:
            counted = int(tables.drops[reason] - drops_before[reason])
            assert counted == (part.count(reason) if reason else 0), reason
        received += len(part)
        sent += len(expected)
        assert received + int(tables.counters[COUNTER_COPIES]) == sent + int(tables.drops.sum())
        assert {n: int(v) for n, v in enumerate(tables.counters)} == model.counters
        _disturb(rng, tables)
        now += rng.choice((0, 0, 1, 3, 4, 15, AGEING))
    assert tables.calls >= 60


def test_unknown_is_flooded_and_known_is_not():
    tables = Switch(4)
    assert tables.send(packet(HOST, HOST + 1, 0)) == ([(0, 1), (0, 2), (0, 3)], [Why.NONE])
    assert tables.send(packet(HOST + 1, HOST, 1)) == ([(0, 0)], [Why.NONE])
    assert tables.send(packet(HOST, HOST + 1, 0)) == ([(0, 1)], [Why.NONE])
    assert tables.counters[COUNTER_FLOODED] == 1
    assert tables.counters[COUNTER_COPIES] == 2


def test_a_packet_sees_what_the_one_before_taught():
    tables = Switch(3)
    listed, _ = tables.send(packet(HOST, BROADCAST, 0), packet(HOST + 1, HOST, 1), packet(HOST, HOST + 1, 0))
    assert listed == [(0, 1), (0, 2), (1, 0), (2, 1)]


@pytest.mark.parametrize("last", range(18))
def test_reserved_addresses_are_not_forwarded(last):
    tables = Switch(2)
    listed, reasons = tables.send(packet(HOST, 0x0180C2000000 + last, 0))
    assert (listed, reasons) == (([], [Why.LINK_LOCAL]) if last < 16 else ([(0, 1)], [Why.NONE]))
    assert tables.counters[COUNTER_LEARNED] == 1


def test_hairpin_and_nobody_there():
    tables = Switch(1)
    assert tables.send(packet(HOST, BROADCAST, 0)) == ([], [Why.NO_EGRESS])
    assert tables.send(packet(HOST + 1, HOST, 0)) == ([], [Why.HAIRPIN])
    write_active_ports(tables.active_ports, [])
    assert tables.send(packet(HOST, BROADCAST, 0)) == ([], [Why.NO_EGRESS])


def test_a_spoofed_source_is_not_learned():
    tables = Switch(2)
    tables.ports["flags"][0] |= PORT_SPOOF_CHECK
    tables.ports["mac"][0] = HOST
    assert tables.send(packet(HOST + 1, BROADCAST, 0)) == ([], [Why.MAC_SPOOF])
    assert not tables.mac.any()
    assert tables.send(packet(HOST, BROADCAST, 0)) == ([(0, 1)], [Why.NONE])


def test_a_port_that_is_not_up_takes_nothing_and_learns_nothing():
    tables = Switch(2)
    tables.ports["flags"][0] = 0
    assert tables.send(packet(HOST, BROADCAST, 0)) == ([], [Why.PORT_DOWN])
    assert not tables.mac.any()


def test_a_flood_is_dropped_under_the_reason_of_the_closest_port():
    tables = Switch(4)
    tables.ports["vlan"][:4] = (10, 20, 10, 10)
    tables.ports["flags"][2] = 0
    tables.ports["mtu"][3] = 40
    for count, reason in (
        (1, Why.NO_EGRESS),
        (2, Why.VLAN_DENIED),
        (3, Why.PORT_DOWN),
        (4, Why.MTU_EXCEEDED),
    ):
        write_active_ports(tables.active_ports, range(count))
        assert tables.send(packet(HOST, BROADCAST, 0)) == ([], [reason])
        assert tables.drops[reason] == 1


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        ({"frame_len": 1514}, True),
        ({"frame_len": 1515}, False),
        ({"frame_len": 1518, "tags": 1, "vlan_tci": 0}, True),
        ({"frame_len": 1519, "tags": 1, "vlan_tci": 0}, False),
        ({"frame_len": 65000, "gso_type": 1, "gso_size": 1460, "l3_offset": 142, "l5_offset": 182}, True),
        ({"frame_len": 65000, "gso_type": 1, "gso_size": 1461, "l3_offset": 142, "l5_offset": 182}, False),
        ({"frame_len": 65000, "gso_type": 1, "gso_size": 1500, "l3_offset": 142, "l5_offset": 0}, True),
        ({"frame_len": 0}, True),
    ],
)
@pytest.mark.parametrize("known", [False, True])
def test_mtu(fields, fits, known):
    tables = Switch(2)
    if known:
        tables.send(packet(HOST + 1, BROADCAST, 1))
    tables.ports["mtu"][1] = 1500
    listed, reasons = tables.send(packet(HOST, HOST + 1, 0, **fields))
    assert (listed, reasons) == (([(0, 1)], [Why.NONE]) if fits else ([], [Why.MTU_EXCEEDED]))


def test_a_full_list_stops_the_batch_and_the_next_call_goes_on():
    tables = Switch(5, out_max=6)
    tables.send(*(packet(HOST + n, BROADCAST, n) for n in (1, 2, 3)))
    meta = batch_of([packet(HOST, BROADCAST, 0)] * 2 + [packet(HOST, HOST + 1, 0)] * 5)
    rows = list(range(len(meta)))
    left, listed = tables.forward(meta, rows)
    assert (left, listed) == (rows[1:], [(0, 1), (0, 2), (0, 3), (0, 4)])
    left, listed = tables.forward(meta, left)
    assert (left, listed) == (rows[4:], [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (3, 1)])
    assert tables.forward(meta, left) == ([], [(n, 1) for n in rows[4:]])
    assert tables.counters[COUNTER_LEARNED] == 4, "a packet that waited is learned once"
    assert not tables.drops.any()


def test_the_widest_flood_fits():
    tables = Switch(PORTS_MAX)
    left, listed = tables.forward(batch_of([packet(HOST, BROADCAST, 7)]), [0])
    assert left == []
    assert listed == [(0, port) for port in range(PORTS_MAX) if port != 7]


def test_a_list_of_ports_that_lies_stays_in_bounds():
    tables = Switch(3, out_max=4)
    tables.active_ports[0] = 0xFFFF
    assert tables.forward(batch_of([packet(HOST, BROADCAST, 1)] * 2), [0, 1])[0] == [1]


def test_an_empty_batch():
    assert Switch(2).forward(np.zeros(0, META_DTYPE), []) == ([], [])


def test_ageing_time_0_makes_a_hub():
    tables = Switch(3)
    meta = batch_of([packet(HOST, HOST + 1, 0), packet(HOST + 1, HOST, 0)])
    assert tables.forward(meta, [0, 1], ageing=0)[1] == [(0, 1), (0, 2), (1, 1), (1, 2)]
