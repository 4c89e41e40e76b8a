"""Tables that the switch and VLAN tests share: ports, VLANs, an empty MAC table."""

import numpy as np

from dpu_runtime.kernels.layout import PORT_DTYPE, PORT_UP, PORTS_MAX, VLAN_WORDS
from dpu_runtime.kernels.switch import drops, mac_table
from dpu_runtime.kernels.switch.mac_learning import (
    home_bucket,
    learn_mac,
    lookup_mac,
    mac_hash,
    mac_key,
    other_bucket,
)
from dpu_runtime.kernels.switch.mac_table import (
    COUNTER_LEARNED,
    COUNTER_MOVES,
    COUNTER_TABLE_FULL,
    MAC_PORT_SHIFT,
    MAC_SLOTS,
    MAC_WORDS,
    SWITCH_COUNTERS,
    write_active_ports,
)
from tests.functions.stages import FIRST_DROP

AGEING = 1200  # ticks
BASE = 0x020000000000  # a locally administered unicast address


class Tables:
    """Tables of `count` ports that are up, without a VLAN or an MTU."""

    def __init__(self, count):
        self.ports = np.zeros(PORTS_MAX, PORT_DTYPE)
        self.ports["flags"][:count] = PORT_UP
        self.vlan_allowed = np.zeros((PORTS_MAX, VLAN_WORDS), np.uint64)
        self.active_ports = np.zeros(1 + PORTS_MAX, np.uint16)
        write_active_ports(self.active_ports, range(count))
        self.mac = np.zeros(MAC_WORDS, np.uint64)
        self.counters = np.zeros(len(SWITCH_COUNTERS), np.uint64)
        self.drops = np.zeros(FIRST_DROP + len(drops.NAMES), np.uint64)  # the frame's, then the switch's

    def allow(self, port, *vlans):
        """Let the trunk `port` take `vlans`."""
        for vlan in vlans:
            self.vlan_allowed[port, vlan // 64] |= np.uint64(1 << vlan % 64)


def key_of(address, vlan):
    """Key as compiled code has it: a call from Python returns an int, which would compile as signed."""
    return np.uint64(mac_key(np.uint64(address), vlan))


class MacTable(Tables):
    """A MAC table with its ports, called one address at a time."""

    def learn(self, address, vlan, port, now=1000, ageing=AGEING):
        key = key_of(address, vlan)
        learn_mac(self.mac, key, port, self.ports, np.uint64(now), np.uint64(ageing), self.counters)

    def lookup(self, address, vlan, now=1000, ageing=AGEING):
        key = key_of(address, vlan)
        return int(lookup_mac(self.mac, key, self.ports, np.uint64(now), np.uint64(ageing)))

    def entries(self, now=1000):
        return mac_table.entries(self.mac, self.ports, now, AGEING)

    def flush(self, now=1000, **match):
        return mac_table.flush(self.mac, self.ports, now, AGEING, **match)

    def buckets(self, address, vlan):
        word = np.uint64(mac_hash(key_of(address, vlan)))
        return int(home_bucket(word)), int(other_bucket(word))

    def fill(self, address, vlan, stamps, port=1):
        """Fill both buckets of an address with entries of port 1 that were seen at `stamps`."""
        slots = [base + s for base in self.buckets(address, vlan) for s in range(MAC_SLOTS)]
        for n, (slot, stamp) in enumerate(zip(slots, stamps, strict=True)):
            self.mac[slot] = 0xAA0000 + n
            self.mac[slot + MAC_SLOTS] = (port + 1) << MAC_PORT_SHIFT | stamp
        return slots

    def counted(self):
        return [int(self.counters[c]) for c in (COUNTER_LEARNED, COUNTER_MOVES, COUNTER_TABLE_FULL)]


def addresses(count, seed):
    """`count` different random unicast addresses, in order."""
    rng = np.random.default_rng(seed)
    return np.unique(rng.integers(0, 1 << 40, count + 100, dtype=np.uint64))[:count] + np.uint64(BASE)
