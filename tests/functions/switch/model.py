"""The switch in plain Python, slow and obvious: dictionaries, ageing, VLANs, floods."""

import enum

from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import PORT_SPOOF_CHECK, PORT_TRUNK, PORT_UP
from dpu_runtime.kernels.switch import drops as reasons
from dpu_runtime.kernels.switch.mac_table import (
    COUNTER_COPIES,
    COUNTER_FLOODED,
    COUNTER_LEARNED,
    COUNTER_MOVES,
    COUNTER_TABLE_FULL,
)
from tests.functions.stages import FIRST_DROP


class Why(enum.IntEnum):
    """Why a packet goes nowhere: the frame's reason, and the switch's own in their order."""

    NONE = 0
    PORT_DOWN = Drop.PORT_DOWN
    MAC_SPOOF = FIRST_DROP + reasons.MAC_SPOOF
    VLAN_DENIED = FIRST_DROP + reasons.VLAN_DENIED
    HAIRPIN = FIRST_DROP + reasons.HAIRPIN
    NO_EGRESS = FIRST_DROP + reasons.NO_EGRESS
    MTU_EXCEEDED = FIRST_DROP + reasons.MTU_EXCEEDED
    LINK_LOCAL = FIRST_DROP + reasons.LINK_LOCAL


class Model:
    """The switch over `tables`; addresses are forgotten after `ageing` ticks."""

    def __init__(self, tables, ageing):
        self.t = tables
        self.ageing = ageing
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
        return now - entry[2] < self.ageing and self.port(entry[0])["generation"] & 0xFFFF == entry[1]

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
            return Why.VLAN_DENIED
        if not port["flags"] & PORT_UP:
            return Why.PORT_DOWN
        size = rec["frame_len"] - 14 - 4 * rec["tags"]
        if rec["gso_type"]:
            size = max(0, rec["l5_offset"] - rec["l3_offset"]) + rec["gso_size"]
        return Why.MTU_EXCEEDED if port["mtu"] and size > port["mtu"] else Why.NONE

    def forward(self, rec, now):
        """Ports that the packet goes to and why it is dropped, for a record as a dictionary."""
        port = self.port(rec["in_port"])
        if not port["flags"] & PORT_UP:
            return [], Why.PORT_DOWN
        if port["flags"] & PORT_SPOOF_CHECK and port["mac"] != rec["src_mac"]:
            return [], Why.MAC_SPOOF
        vid = rec["vlan_tci"] & 0xFFF if rec["tags"] else 0
        rec["vlan"] = vid or port["vlan"]
        if not self.member(rec["in_port"], rec["vlan"]):
            return [], Why.VLAN_DENIED
        self.learn(rec["vlan"], rec["src_mac"], rec["in_port"], now)
        dst = rec["dst_mac"]
        if dst & ~0xF == 0x0180C2000000:
            return [], Why.LINK_LOCAL
        entry = self.table.get((rec["vlan"], dst))
        if entry and self.live(entry, now) and not dst >> 40 & 1:
            if entry[0] == rec["in_port"]:
                return [], Why.HAIRPIN
            reason = self.denied(rec, entry[0])
            return ([], reason) if reason else ([entry[0]], Why.NONE)
        active = [int(p) for p in self.t.active_ports[1 : 1 + int(self.t.active_ports[0])]]
        reasons = {p: self.denied(rec, p) for p in active if p != rec["in_port"]}
        taken = [p for p in reasons if not reasons[p]]
        if taken:
            self.counters[COUNTER_FLOODED] += 1
            self.counters[COUNTER_COPIES] += len(taken) - 1
            return taken, Why.NONE
        for reason in (Why.MTU_EXCEEDED, Why.PORT_DOWN, Why.VLAN_DENIED):
            if reason in reasons.values():
                return [], reason
        return [], Why.NO_EGRESS
