"""What the fuzzed packets meet: ports of all sorts, every stage, rules of all kinds at both hooks."""

import numpy as np

from bench.in_memory import ALL_OFFLOADS, InMemory, make_ready
from dpu_runtime.drivers.entry import Op, address_of_entry
from dpu_runtime.drivers.port import Kind
from dpu_runtime.kernels import layout
from dpu_runtime.kernels.acl.layout import ACTION_ALLOW, ACTION_DROP
from dpu_runtime.kernels.acl.table import AclRule
from dpu_runtime.kernels.burst import make_burst
from dpu_runtime.kernels.compile.entry import lent_address
from dpu_runtime.kernels.compile.reference import Lent
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.meter.table import (
    BURST_MAX,
    BURST_MIN,
    RATE_MAX,
    RATE_MIN,
    RX,
    TX,
    WORD_PAID,
    write_meter,
)
from dpu_runtime.plane.program import first_drops
from dpu_runtime.plane.worker_thread import make_worker
from dpu_runtime.registry import functions
from tests.fuzz.corpus import host_mac
from tests.fuzz.guarded import guarded_array, guarded_slots
from tests.fuzz.judge import VIOLATIONS, Judge, checked_tx

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
    {"flags": UP | GRO, "mtu": 576},
    {"flags": UP | ALL_OFFLOADS, "mtu": 68},
    {"flags": UP | CSUM | layout.PORT_TX_TSO4 | layout.PORT_TX_ECN | GRO | VERIFY, "mtu": 9000},
    {"flags": UP | CSUM | layout.PORT_TX_TSO6 | layout.PORT_TX_USO, "mtu": 65535},
    {"flags": ALL_OFFLOADS},  # down
)
SLOW_PORT, MUTE_PORT = 8, 9  # takes few packets; what is to leave by it is owed for years
RULES = 300  # a hook
PROTOCOLS = (1, 6, 6, 6, 17, 17, 47, 58, 132, 255)
DPORTS = (53, 80, 443, 2152, 4789, 6081, 40002, 40004)
PREFIXES = {4: (0xC0000201, 0xC633_64C8, 0x0A010203, 0x0A000001), 6: (0x20010DB8 << 96 | 1,)}


def _range(rng, ports):
    first = rng.choice(ports) if rng.random() < 0.7 else rng.randrange(65536)
    return first, rng.choice((first, min(first + rng.randrange(3000), 65535), 65535))


def _random_rule(rng, hook, number):
    rule = AclRule(rng.randrange(100), ACTION_DROP if rng.random() < 0.1 else ACTION_ALLOW, 8 + number)
    kinds = ("port", "mac", "vlan", "ethertype", "address", "proto", "flags", "port range")
    for kind in rng.sample(kinds, rng.randrange(1, 4)):
        if kind == "port":
            name = "out_port" if hook == "egress" and rng.random() < 0.5 else "in_port"
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


def reasons():
    """uint8[256], 1: for this reason a packet may be dropped."""
    given = np.zeros(256, np.uint8)
    given[list(Drop)] = 1
    given[Drop.NONE] = 0
    for function in functions():
        first = first_drops(functions())[function.name]
        given[first : first + len(function.drops)] = 1
    return given


def _guarded(array):
    """An array like this one, whose end is followed by a page that faults."""
    return guarded_array(array.nbytes).view(array.dtype).reshape(array.shape)


class FuzzDevice(InMemory):
    """Ports and tables; every buffer that is reached by address ends at a page that faults.

    judge  Judge, lent: what packets on their way out are judged by
    """

    def __init__(self):
        super().__init__(on=[stage.name for function in functions() for stage in function.stages])
        self.slots, self.ends = payload_slots()
        for index, port in enumerate(PORTS):
            self.add_port(index, mac=host_mac(index), **port)
            for meter in self.shared.of("meter").meters[index]:
                write_meter(meter, RATE_MAX, BURST_MAX)
        self._pay()

    def make_private(self, workers):
        """A worker whose null ports judge what they are to send."""
        burst = make_burst(0, self.shared)
        burst = Lent(burst._replace(headers=_guarded(burst.headers)))
        worker, frame = make_worker(self.shared, 0, workers, burst)
        segments = frame.segments._replace(headers=_guarded(frame.segments.headers))
        lists = {name: _guarded(getattr(frame, name)) for name in ("segment_iov", "gro_iov")}
        frame = Lent(frame.value._replace(segments=segments, **lists))
        worker = Lent(worker.value._replace(frame=frame.value))
        ready = make_ready(self.shared, burst, worker, frame)
        self.judge = Lent(
            Judge(
                counters=worker.io.counters,
                reasons=reasons(),
                violations=np.zeros(len(VIOLATIONS), np.uint64),
                seen=np.zeros(1, np.uint64),
            )
        )
        worker.io.entries[Kind.NULL, Op.TX] = address_of_entry(Op.TX, checked_tx, burst, self.judge)
        worker.io.states[Kind.NULL] = lent_address(self.judge)
        return ready

    def _pay(self):
        """Fill the buckets; one holds little, one is in debt."""
        meters = self.shared.of("meter").meters
        meters[:, :, WORD_PAID] = 0
        write_meter(meters[SLOW_PORT, RX], RATE_MIN, BURST_MIN)
        meters[MUTE_PORT, TX, WORD_PAID] = np.uint64(1 << 63)

    def change(self, rng):
        """Move one port's VLAN, fill buckets, replace the rules; one time in eight a hook has hardly any."""
        index = rng.randrange(len(PORTS))
        row = self.shared.ports[index]
        row["vlan"] = rng.choice((0, 0, 7, 9))
        row["generation"] += 1
        self._pay()
        for hook in ("ingress", "egress"):
            count = RULES if rng.randrange(8) else rng.randrange(4)
            self.set_rules(hook, [_random_rule(rng, hook, number) for number in range(count)])
