"""What the fuzzed packets meet: ports of all sorts, and rules of all kinds in both stages."""

import numpy as np

from bench.in_memory import ALL_OFFLOADS, InMemory
from dpu_runtime.drivers.entries import DRIVERS
from dpu_runtime.drivers.entry import Op
from dpu_runtime.drivers.port import Kind
from dpu_runtime.kernels import layout
from dpu_runtime.kernels.acl.layout import ACTION_ALLOW, ACTION_DROP
from dpu_runtime.kernels.acl.table import AclRule
from dpu_runtime.kernels.compile.reference import Lent
from dpu_runtime.kernels.meter.table import BURST_MAX, RATE_MIN, RX, TX, WORD_PAID, write_meter
from tests.fuzz.corpus import host_mac
from tests.fuzz.guarded import guarded_array, guarded_slots
from tests.fuzz.loop import IOV_WORDS, MTU_AT, PORT_FLAGS_AT, VIOLATIONS_AT, checked_tx

UP, CSUM, GRO = layout.PORT_UP, layout.PORT_TX_CSUM, layout.PORT_RX_GRO
VERIFY, SPOOF, OWED = layout.PORT_RX_VERIFY, layout.PORT_SPOOF_CHECK, layout.PORT_RX_OWED
PORTS = (
    {"flags": UP | ALL_OFFLOADS},
    {"flags": UP | GRO | OWED},
    {"flags": UP | CSUM | GRO | VERIFY},
    {"flags": UP | ALL_OFFLOADS, "vlan": 7},
    {"flags": UP | GRO | OWED | VERIFY, "vlan": 7},
    {"flags": UP | ALL_OFFLOADS, "trunk": (0, 7, 9, 100)},
    {"flags": UP | GRO, "trunk": (7, 9, 300), "vlan": 9},
    {"flags": UP | ALL_OFFLOADS | GRO | SPOOF},
    {"flags": UP | GRO | layout.PORT_RX_METER, "mtu": 576},  # with a burst that is never used up
    {"flags": UP | ALL_OFFLOADS | layout.PORT_TX_METER, "mtu": 68},  # in debt for years
    {"flags": UP | CSUM | layout.PORT_TX_TSO4 | layout.PORT_TX_ECN | GRO | VERIFY, "mtu": 9000},
    {"flags": UP | CSUM | layout.PORT_TX_TSO6 | layout.PORT_TX_USO, "mtu": 65535},
    {"flags": ALL_OFFLOADS},  # down
)
RULES = 300  # a stage
PROTOCOLS = (1, 6, 6, 6, 17, 17, 47, 58, 132, 255)
DPORTS = (53, 80, 443, 2152, 4789, 6081, 40002, 40004)
PREFIXES = {4: (0xC0000201, 0xC633_64C8, 0x0A010203, 0x0A000001), 6: (0x20010DB8 << 96 | 1,)}


def _range(rng, ports):
    first = rng.choice(ports) if rng.random() < 0.7 else rng.randrange(65536)
    return first, rng.choice((first, min(first + rng.randrange(3000), 65535), 65535))


def _random_rule(rng, stage, number):
    rule = AclRule(rng.randrange(100), ACTION_DROP if rng.random() < 0.1 else ACTION_ALLOW, 8 + number)
    kinds = ("port", "mac", "vlan", "ethertype", "address", "proto", "flags", "port range")
    for kind in rng.sample(kinds, rng.randrange(1, 4)):
        if kind == "port":
            name = "out_port" if stage == "egress" and rng.random() < 0.5 else "in_port"
            setattr(rule, name, rng.randrange(len(PORTS)))
        elif kind == "mac":
            name = rng.choice(("src_mac", "dst_mac"))
            setattr(rule, name, host_mac(rng.randrange(len(PORTS))))
            setattr(rule, name + "_mask", rng.choice(((1 << 48) - 1, 0xFFFFFF000000, 1 << 40, 0xF)))
        elif kind == "vlan":
            rule.vlan, rule.vlan_mask = rng.choice((0, 7, 9, 100)), 0xFFF
        elif kind == "ethertype":
            rule.ethertype = rng.choice((0x0800, 0x86DD, 0x0806, 0x88CC))
        elif kind == "address":
            _set_addresses(rng, rule)
        elif kind == "proto":
            rule.proto = rng.choice(PROTOCOLS)
        elif kind == "flags":
            rule.tcp_flags, rule.tcp_flags_mask = rng.randrange(256), rng.choice((2, 0x12, 1, 0xFF))
        else:
            setattr(rule, rng.choice(("sport", "dport")), _range(rng, DPORTS))
    return rule


def _set_addresses(rng, rule):
    rule.ip_version = rng.choice((4, 6))
    width = 32 if rule.ip_version == 4 else 128
    for name in rng.choice((("src",), ("dst",), ("src", "dst"))):
        length = rng.choice((0, 8, 16, 24, 31, 32, width))
        setattr(rule, name, rng.choice(PREFIXES[rule.ip_version]))
        setattr(rule, name + "_mask", ((1 << length) - 1) << (width - length))


def payload_slots():
    """Memory for the payloads of a batch and for their lists; and where it ends: uint64[BATCH_SIZE, 2]."""
    sizes = (layout.FRAME_BYTES_MAX, 16 * (layout.PAYLOAD_PIECES_MAX + 1))
    slots = [guarded_slots(size, layout.BATCH_SIZE) for size in sizes]
    return slots, np.array([[slot.ctypes.data + slot.size for slot in kind] for kind in slots], np.uint64).T


class FuzzDevice(InMemory):
    """Ports and tables; every buffer that is reached by address ends at a page that faults."""

    def __init__(self):
        DRIVERS[Kind.NULL][Op.TX] = checked_tx
        super().__init__()
        rows = (layout.BATCH_SIZE, layout.ROW_BYTES)
        self.slots, self.ends = payload_slots()
        batch = self.batch._replace(
            headers=guarded_array(rows),
            segment_headers=guarded_array(rows),
            segment_iov=guarded_array(8 * self.batch.segment_iov.size).view("u8").reshape(-1, 2),
            gro_iov=guarded_array(8 * self.batch.gro_iov.size).view("u8").reshape(-1, 2),
            iov=guarded_array(8 * IOV_WORDS).view("u8"),
        )
        self.batch = Lent(batch)
        self.worker = Lent(self.worker._replace(io=self.worker.io._replace(iov=batch.iov)))
        for index, port in enumerate(PORTS):
            self.add_port(index, mac=host_mac(index), **port)
            self.batch.iov[PORT_FLAGS_AT + index] = self.shared.ports[index]["flags"]
            self.batch.iov[MTU_AT + index] = self.shared.ports[index]["mtu"]
            write_meter(self.shared.of("meter").meters[index, RX], RATE_MIN, BURST_MAX)
            self.shared.of("meter").meters[index, TX, WORD_PAID] = np.uint64(1 << 63)

    @property
    def violations(self):
        """uint64[VIOLATIONS], how often each was found."""
        return self.batch.iov[VIOLATIONS_AT:]

    def change(self, rng):
        """Move one port's VLAN, and replace the rules; one time in eight a stage has hardly any."""
        index = rng.randrange(len(PORTS))
        row = self.shared.ports[index]
        row["vlan"] = rng.choice((0, 0, 7, 9))
        row["generation"] += 1
        for stage in ("ingress", "egress"):
            count = RULES if rng.randrange(8) else rng.randrange(4)
            self.set_rules(stage, [_random_rule(rng, stage, number) for number in range(count)])
