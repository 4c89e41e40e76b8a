"""MAC table of the learning switch: layout, and the control process's readers.

Spec: IEEE 802.1Q clause 8.8 (filtering database), table 8-6 (ageing time).
Not:  anything of numba; `kernels/switch/mac_learning.py` is the compiled half that looks up and learns.

`mac: uint64[MAC_WORDS]`, aligned to a cache line, all zero at first. A bucket is one cache line:

    word  0..3  keys    MAC << 16 | VLAN, 0: empty
    word  4..7  values  (port + 1) << 48 | port generation << 32 | time stamp in ticks

A key hashes to two buckets. Workers write without locks, by these rules:

  - a slot whose value has no port is empty, or owned by the one worker that is filling it;
  - who changes a value found under a key compare-exchanges it, so a slot that was reused is left alone;
  - who reuses a dead entry first compare-exchanges its value by 0, and so owns the slot;
  - who reads a value reads the key again behind it.

The control process writes time stamps only (the low half of a value): that makes an entry old,
whoever owns its slot, and can break no rule above.
"""

import time
from typing import NamedTuple

import numpy as np

from dpu_runtime.kernels.layout import PORTS_MAX, VLAN_WORDS

MAC_SLOTS = 4  # entries a bucket
MAC_BUCKET_WORDS = 2 * MAC_SLOTS
MAC_BUCKET_BITS = 16
MAC_BUCKETS = 1 << MAC_BUCKET_BITS
MAC_WORDS = MAC_BUCKETS * MAC_BUCKET_WORDS
MAC_ENTRIES = 65536  # entries it holds at a load of a quarter, where two full buckets are one in a million
assert MAC_BUCKET_WORDS * 8 == 64, "a bucket is one cache line"
assert MAC_ENTRIES * 4 <= MAC_BUCKETS * MAC_SLOTS

MAC_VLAN_BITS = 16  # of the key
MAC_PORT_SHIFT = 48
MAC_GENERATION_SHIFT = 32
MAC_GENERATION_MASK = 0xFFFF  # the low half of PORT_DTYPE's generation
MAC_STAMP_MASK = 0xFFFFFFFF
assert PORTS_MAX < 0xFFFF

TICK_NS = 250_000_000  # a tick of 1/4 s: 32 bits last 34 years
TICKS_PER_SECOND = 1_000_000_000 // TICK_NS
MAC_REFRESH_TICKS = TICKS_PER_SECOND  # a younger stamp is not written again
MAC_AGEING_SECONDS = 300  # the default; 0 learns nothing, so that all is flooded
MAC_AGEING_SECONDS_MIN = 10
MAC_AGEING_SECONDS_MAX = 1_000_000
_FLUSHED_TICKS = 1 << 30  # age that a flush gives: past any ageing time, below half the range
assert MAC_AGEING_SECONDS_MAX * TICKS_PER_SECOND < _FLUSHED_TICKS < MAC_STAMP_MASK // 2
assert MAC_REFRESH_TICKS < MAC_AGEING_SECONDS_MIN * TICKS_PER_SECOND

# the switch's arrays in shared memory
SWITCH_LAYOUT = {
    "mac": ("u8", (MAC_WORDS,)),
    "vlan_allowed": ("u8", (PORTS_MAX, VLAN_WORDS)),  # one bit a VLAN ID, for trunks
    "settings": ("u8", (8,)),
}
AGEING_TICKS, PORTS_WITH_VLAN = 0, 1  # words of `settings`

# counters: uint64[len(SWITCH_COUNTERS)], one array a worker
SWITCH_COUNTERS = ("mac_learned", "mac_moves", "mac_table_full", "flooded", "copies")
COUNTER_LEARNED = 0  # entries made, also in place of a dead one of the same address
COUNTER_MOVES = 1  # live entries that changed port
COUNTER_TABLE_FULL = 2  # packets whose source found no slot
COUNTER_FLOODED = 3  # packets sent to all members of their VLAN
COUNTER_COPIES = 4  # packets made: copies beyond a packet's first


class MacEntry(NamedTuple):
    """One live entry."""

    mac: int
    vlan: int
    port: int
    age_seconds: float


def ticks_now():
    """Time of the table's stamps: CLOCK_MONOTONIC in ticks, modulo 2**32."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // TICK_NS & MAC_STAMP_MASK


def ageing_ticks(seconds):
    """Ageing time in ticks."""
    return int(seconds * TICKS_PER_SECOND)


def write_active_ports(active_ports, numbers):
    """Write the list of ports that floods visit.

    active_ports  uint16[1 + PORTS_MAX]  out, how many there are, then the ports

    A worker that floods meanwhile may miss a port, or send to one twice.
    """
    active_ports[1 : 1 + len(numbers)] = numbers
    active_ports[0] = len(numbers)


def _snapshot(mac):
    """Keys and values of all slots, uint64[MAC_BUCKETS * MAC_SLOTS] each; key 0 where a slot just changed."""
    buckets = mac.reshape(-1, MAC_BUCKET_WORDS)
    keys = buckets[:, :MAC_SLOTS].copy()
    values = buckets[:, MAC_SLOTS:].copy()
    keys[keys != buckets[:, :MAC_SLOTS]] = 0
    return keys.ravel(), values.ravel()


def _age(values, now):
    """Ages in ticks; a stamp ahead of `now` (another CPU's clock reading) is 0 ticks old."""
    age = (np.uint64(now) - values) & np.uint64(MAC_STAMP_MASK)
    return np.where(age > MAC_STAMP_MASK // 2, np.uint64(0), age)


def _live_slots(mac, ports, now, ageing):
    """Slot numbers, keys, values and ports of the live entries."""
    keys, values = _snapshot(mac)
    slots = np.flatnonzero((keys != 0) & (values >> np.uint64(MAC_PORT_SHIFT) != 0))
    keys, values = keys[slots], values[slots]
    numbers = (values >> np.uint64(MAC_PORT_SHIFT)).astype(np.int64) - 1
    generation = (values >> np.uint64(MAC_GENERATION_SHIFT)) & np.uint64(MAC_GENERATION_MASK)
    live = generation == ports["generation"][numbers] & np.uint32(MAC_GENERATION_MASK)
    live &= _age(values, now) < np.uint64(ageing)
    return slots[live], keys[live], values[live], numbers[live]


def entries(mac, ports, now, ageing):
    """List the live entries, in order of VLAN and MAC.

    mac     uint64[MAC_WORDS]
    ports   PORT_DTYPE[PORTS_MAX]
    now     ticks, see `ticks_now`
    ageing  ticks, see `ageing_ticks`
    """
    _, keys, values, numbers = _live_slots(mac, ports, now, ageing)
    ages = _age(values, now) / TICKS_PER_SECOND
    macs, vlans = keys >> np.uint64(MAC_VLAN_BITS), keys & np.uint64((1 << MAC_VLAN_BITS) - 1)
    order = np.lexsort((macs, vlans))
    columns = (macs, vlans, numbers, ages)
    return [MacEntry(*row) for row in zip(*(column[order].tolist() for column in columns), strict=True)]


def flush(mac, ports, now, ageing, *, address=None, vlan=None, port=None):
    """Age out the live entries that match all that is given; returns how many.

    Safe while workers learn. A packet that is under way may bring its source back.
    """
    slots, keys, _, numbers = _live_slots(mac, ports, now, ageing)
    match = np.ones(len(slots), bool)
    if address is not None:
        match &= keys >> np.uint64(MAC_VLAN_BITS) == address
    if vlan is not None:
        match &= keys & np.uint64((1 << MAC_VLAN_BITS) - 1) == vlan
    if port is not None:
        match &= numbers == port
    slots = slots[match]
    words = slots // MAC_SLOTS * MAC_BUCKET_WORDS + MAC_SLOTS + slots % MAC_SLOTS
    stamps = mac.view(np.uint32)[::2]  # the low half of each word: x86-64 is little-endian
    stamps[words] = (now - _FLUSHED_TICKS) & MAC_STAMP_MASK
    return len(slots)


def repair(mac):
    """Free the slots that a dead data plane owned, with no worker running; returns how many."""
    buckets = mac.reshape(-1, MAC_BUCKET_WORDS)
    owned = (buckets[:, :MAC_SLOTS] != 0) & (buckets[:, MAC_SLOTS:] >> np.uint64(MAC_PORT_SHIFT) == 0)
    buckets[:, :MAC_SLOTS][owned] = 0
    return int(owned.sum())
