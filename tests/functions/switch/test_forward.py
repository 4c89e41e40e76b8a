"""Learning switch against a plain-Python one: dictionaries, ageing, VLANs, floods."""

import random

import numpy as np
import pytest

from dpu_runtime.kernels.compile.jit import PYTHON_MODE
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import (
    META_DTYPE,
    PARSED_MULTICAST,
    PORT_SPOOF_CHECK,
    PORT_TRUNK,
    PORT_UP,
    PORTS_MAX,
    ROW_BYTES,
    VERDICT_DROP,
    VERDICT_MERGED,
    VERDICT_PASS,
    VIRTIO_NET_HDR_GSO_TCPV4,
)
from dpu_runtime.kernels.switch.forward import admit, switch
from dpu_runtime.kernels.switch.mac_table import (
    COUNTER_COPIES,
    COUNTER_FLOODED,
    COUNTER_LEARNED,
    COUNTER_MOVES,
    COUNTER_TABLE_FULL,
    SWITCH_OUT_MAX,
    write_active_ports,
)
from tests.functions.switch.tables import Tables

AGEING = 40  # ticks
BROADCAST = 0xFFFFFFFFFFFF
HOST = 0x020000000000  # plus a number: a host's address


class Switch(Tables):
    """The switch with its tables, and its output lists of `out_max` entries."""

    def __init__(self, count, out_max=SWITCH_OUT_MAX):
        super().__init__(count)
        self.out_packet = np.full(out_max, 0xA5A5, np.uint16)
        self.out_port = np.full(out_max, 0xA5A5, np.uint16)
        self.calls = 0

    def call(self, meta, start, now, ageing=AGEING):
        headers = np.full((len(meta), ROW_BYTES), 0xA5, np.uint8)
        self.calls += 1
        tables = (self.ports, self.vlan_allowed, self.active_ports, self.mac)
        lists = (self.out_packet, self.out_port, self.counters, self.drops)
        following, n_out = switch(headers, meta, len(meta), start, *tables, now, ageing, *lists)
        assert start < following <= len(meta) or not len(meta)
        assert n_out <= len(self.out_packet)
        return following, list(
            zip(self.out_packet[:n_out].tolist(), self.out_port[:n_out].tolist(), strict=True)
        )

    def run(self, meta, now=1000):
        """All of the batch, with as many calls as the lists make necessary."""
        admit(meta, len(meta), self.ports, self.vlan_allowed, self.mac, self.drops)
        listed, following = [], 0
        while following < len(meta):
            following, part = self.call(meta, following, now)
            listed += part
        return listed

    def send(self, *packets, now=1000):
        """Run packets given as dictionaries of meta fields; returns (list, drop reasons)."""
        meta = batch_of(packets)
        listed = self.run(meta, now)
        return listed, [Drop(int(r)) for r in meta["drop_reason"]]


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


class Model:
    """The same switch, slow and obvious."""

    def __init__(self, tables):
        self.t = tables
        self.table = {}  # (vlan, mac): [port, generation, stamp]
        self.counters = dict.fromkeys(
            (COUNTER_LEARNED, COUNTER_MOVES, COUNTER_TABLE_FULL, COUNTER_FLOODED, COUNTER_COPIES), 0
        )

    def port(self, number):
        return {name: int(self.t.ports[number][name]) for name in self.t.ports.dtype.names}

    def member(self, number, vlan):
        port = self.port(number)
        if port["flags"] & PORT_TRUNK:
            return bool(int(self.t.vlan_allowed[number, vlan // 64]) >> vlan % 64 & 1)
        return port["vlan"] in (0, vlan)

    def live(self, entry, now):
        return now - entry[2] < AGEING and self.port(entry[0])["generation"] & 0xFFFF == entry[1]

    def learn(self, vlan, mac, number, now):
        if mac == 0 or mac >> 40 & 1:
            return
        generation = self.port(number)["generation"] & 0xFFFF
        entry = self.table.get((vlan, mac))
        if entry is None or not self.live(entry, now):
            self.counters[COUNTER_LEARNED] += 1
        elif entry[0] != number:
            self.counters[COUNTER_MOVES] += 1
        elif now - entry[2] < 4:
            return
        self.table[vlan, mac] = [number, generation, now]

    def denied(self, rec, number):
        port = self.port(number)
        if not self.member(number, rec["vlan"]):
            return Drop.VLAN_DENIED
        if not port["flags"] & PORT_UP:
            return Drop.PORT_DOWN
        size = rec["frame_len"] - 14 - 4 * rec["tags"]
        if rec["gso_type"]:
            size = max(0, rec["l5_offset"] - rec["l3_offset"]) + rec["gso_size"]
        return Drop.MTU_EXCEEDED if port["mtu"] and size > port["mtu"] else Drop.NONE

    def forward(self, rec, now):
        """Ports that the packet goes to and why it is dropped, for a record as a dictionary."""
        port = self.port(rec["in_port"])
        if not port["flags"] & PORT_UP:
            return [], Drop.PORT_DOWN
        if port["flags"] & PORT_SPOOF_CHECK and port["mac"] != rec["src_mac"]:
            return [], Drop.MAC_SPOOF
        vid = rec["vlan_tci"] & 0xFFF if rec["tags"] else 0
        rec["vlan"] = vid or port["vlan"]
        if not self.member(rec["in_port"], rec["vlan"]):
            return [], Drop.VLAN_DENIED
        self.learn(rec["vlan"], rec["src_mac"], rec["in_port"], now)
        dst = rec["dst_mac"]
        if dst & ~0xF == 0x0180C2000000:
            return [], Drop.LINK_LOCAL
        entry = self.table.get((rec["vlan"], dst))
        if entry and self.live(entry, now) and not dst >> 40 & 1:
            if entry[0] == rec["in_port"]:
                return [], Drop.HAIRPIN
            reason = self.denied(rec, entry[0])
            return ([], reason) if reason else ([entry[0]], Drop.NONE)
        active = [int(p) for p in self.t.active_ports[1 : 1 + int(self.t.active_ports[0])]]
        reasons = {p: self.denied(rec, p) for p in active if p != rec["in_port"]}
        taken = [p for p in reasons if not reasons[p]]
        if taken:
            self.counters[COUNTER_FLOODED] += 1
            self.counters[COUNTER_COPIES] += len(taken) - 1
            return taken, Drop.NONE
        for reason in (Drop.MTU_EXCEEDED, Drop.PORT_DOWN, Drop.VLAN_DENIED):
            if reason in reasons.values():
                return [], reason
        return [], Drop.NO_EGRESS


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
    tables = Switch(PORTS, out_max=rng.choice((PORTS, PORTS + 3, SWITCH_OUT_MAX)))
    _wire(tables)
    model = Model(tables)
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
            assert rec["vlan"] == before["vlan"] or reason == Drop.MAC_SPOOF
        for reason in Drop:
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
    assert tables.send(packet(HOST, HOST + 1, 0)) == ([(0, 1), (0, 2), (0, 3)], [Drop.NONE])
    assert tables.send(packet(HOST + 1, HOST, 1)) == ([(0, 0)], [Drop.NONE])
    assert tables.send(packet(HOST, HOST + 1, 0)) == ([(0, 1)], [Drop.NONE])
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
    assert (listed, reasons) == (([], [Drop.LINK_LOCAL]) if last < 16 else ([(0, 1)], [Drop.NONE]))
    assert tables.counters[COUNTER_LEARNED] == 1


def test_hairpin_and_nobody_there():
    tables = Switch(1)
    assert tables.send(packet(HOST, BROADCAST, 0)) == ([], [Drop.NO_EGRESS])
    assert tables.send(packet(HOST + 1, HOST, 0)) == ([], [Drop.HAIRPIN])
    write_active_ports(tables.active_ports, [])
    assert tables.send(packet(HOST, BROADCAST, 0)) == ([], [Drop.NO_EGRESS])


def test_a_spoofed_source_is_not_learned():
    tables = Switch(2)
    tables.ports["flags"][0] |= PORT_SPOOF_CHECK
    tables.ports["mac"][0] = HOST
    assert tables.send(packet(HOST + 1, BROADCAST, 0)) == ([], [Drop.MAC_SPOOF])
    assert not tables.mac.any()
    assert tables.send(packet(HOST, BROADCAST, 0)) == ([(0, 1)], [Drop.NONE])


def test_a_port_that_is_not_up_takes_nothing_and_learns_nothing():
    tables = Switch(2)
    tables.ports["flags"][0] = 0
    assert tables.send(packet(HOST, BROADCAST, 0)) == ([], [Drop.PORT_DOWN])
    assert not tables.mac.any()


def test_a_flood_is_dropped_under_the_reason_of_the_closest_port():
    tables = Switch(4)
    tables.ports["vlan"][:4] = (10, 20, 10, 10)
    tables.ports["flags"][2] = 0
    tables.ports["mtu"][3] = 40
    for count, reason in (
        (1, Drop.NO_EGRESS),
        (2, Drop.VLAN_DENIED),
        (3, Drop.PORT_DOWN),
        (4, Drop.MTU_EXCEEDED),
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
    assert (listed, reasons) == (([(0, 1)], [Drop.NONE]) if fits else ([], [Drop.MTU_EXCEEDED]))


def test_a_full_list_stops_the_batch_and_the_next_call_goes_on():
    tables = Switch(5, out_max=6)
    meta = batch_of([packet(HOST + n, BROADCAST, n) for n in range(3)] + [packet(HOST + 9, HOST, 4)] * 5)
    following, listed = tables.call(meta, 0, 1000)
    assert (following, listed) == (1, [(0, 1), (0, 2), (0, 3), (0, 4)])
    assert tables.run(meta[1:].copy())[-5:] == [(n, 0) for n in range(2, 7)]
    assert tables.counters[COUNTER_LEARNED] == 4, "a packet that waited is learned once"
    assert not tables.drops.any()


def test_the_widest_flood_fits():
    tables = Switch(PORTS_MAX)
    meta = batch_of([packet(HOST, BROADCAST, 7)])
    following, listed = tables.call(meta, 0, 1000)
    assert following == 1
    assert listed == [(0, port) for port in range(PORTS_MAX) if port != 7]


def test_a_list_of_ports_that_lies_stays_in_bounds():
    tables = Switch(3, out_max=4)
    tables.active_ports[0] = 0xFFFF
    meta = batch_of([packet(HOST, BROADCAST, 1)] * 2)
    assert tables.call(meta, 0, 1000)[0] == 1


def test_an_empty_batch():
    tables = Switch(2)
    assert tables.call(np.zeros(0, META_DTYPE), 0, 1000) == (0, [])


def test_ageing_time_0_makes_a_hub():
    tables = Switch(3)
    meta = batch_of([packet(HOST, HOST + 1, 0), packet(HOST + 1, HOST, 1)])
    assert tables.call(meta, 0, 1000, ageing=0)[1] == [(0, 1), (0, 2), (1, 0), (1, 2)]
