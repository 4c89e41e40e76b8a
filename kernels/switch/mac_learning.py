"""MAC table, compiled: look up a destination, learn a source.

Spec: IEEE 802.1Q clause 8.7 (learning), 8.8 (filtering database).
Not:  static entries; eviction of live entries when both buckets of an address are full.

The rules by which workers share the table without locks are in `kernels/switch/mac_table.py`.
"""

import numpy as np

from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.layout import PORT_NONE
from dpu_runtime.kernels.octets.memory import compare_exchange, load_acquire, store_release
from dpu_runtime.kernels.switch.mac_table import (
    COUNTER_LEARNED,
    COUNTER_MOVES,
    COUNTER_TABLE_FULL,
    MAC_BUCKET_BITS,
    MAC_BUCKET_WORDS,
    MAC_GENERATION_MASK,
    MAC_GENERATION_SHIFT,
    MAC_PORT_SHIFT,
    MAC_REFRESH_TICKS,
    MAC_SLOTS,
    MAC_STAMP_MASK,
    MAC_VLAN_BITS,
)

_0 = np.uint64(0)
_1 = np.uint64(1)
_BUCKET_WORDS = np.uint64(MAC_BUCKET_WORDS)
_HOME_SHIFT = np.uint64(64 - MAC_BUCKET_BITS)
_OTHER_SHIFT = np.uint64(64 - 2 * MAC_BUCKET_BITS)
_BUCKET_MASK = np.uint64((1 << MAC_BUCKET_BITS) - 1)
_HASH_1 = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio, Knuth 6.4
_HASH_2 = np.uint64(0xD6E8FEB86659FD93)  # odd, half its bits set; spreads the low bits that _HASH_1 leaves
_HASH_FOLD = np.uint64(32)
_VLAN_BITS = np.uint64(MAC_VLAN_BITS)
_PORT_SHIFT = np.uint64(MAC_PORT_SHIFT)
_GENERATION_SHIFT = np.uint64(MAC_GENERATION_SHIFT)
_GENERATION_MASK = np.uint64(MAC_GENERATION_MASK)
_STAMP_MASK = np.uint64(MAC_STAMP_MASK)
_STAMP_AHEAD = np.uint64(MAC_STAMP_MASK // 2)
_REFRESH_TICKS = np.uint64(MAC_REFRESH_TICKS)
_ADDRESS_GROUP = np.uint64(1 << 40)  # individual/group bit, IEEE 802 8.2.2
_INSERT_TRIES = 4  # lost races after which a source is left to its next packet


@helper
def mac_key(address, vlan):
    """Key of `address` in `vlan`."""
    return (np.uint64(address) << _VLAN_BITS) | np.uint64(vlan)


@helper
def mac_hash(key):
    """Hash that both buckets of `key` come from."""
    word = key * _HASH_1
    return (word ^ (word >> _HASH_FOLD)) * _HASH_2


@helper
def home_bucket(word):
    """First word of the bucket that hash `word` is looked for first."""
    return (word >> _HOME_SHIFT) * _BUCKET_WORDS


@helper
def other_bucket(word):
    """First word of the second bucket; never the first one's."""
    home = word >> _HOME_SHIFT
    other = (word >> _OTHER_SHIFT) & _BUCKET_MASK
    return (other ^ _1 if other == home else other) * _BUCKET_WORDS


@helper
def _find_in(mac, base, key):
    """Slot of `key` in the bucket at `base`, -1 without one; a slot is its key's index in `mac`."""
    first = np.int64(base)
    for slot in range(first, first + MAC_SLOTS):
        if load_acquire(mac, slot) == key:
            return slot
    return np.int64(-1)


@helper
def _find(mac, key):
    """Slot of `key` in either of its buckets, or -1."""
    word = mac_hash(key)
    slot = _find_in(mac, home_bucket(word), key)
    if slot < 0:
        slot = _find_in(mac, other_bucket(word), key)
    return slot


@helper
def _age(value, now):
    """Ticks since the stamp of `value`; 0 for a stamp ahead of `now`, from another CPU's clock."""
    age = (now - value) & _STAMP_MASK
    return _0 if age > _STAMP_AHEAD else age


@helper
def _pack(port, ports, now):
    """Value of an entry on `port`, stamped `now`."""
    generation = np.uint64(ports[port]["generation"]) & _GENERATION_MASK
    return ((np.uint64(port) + _1) << _PORT_SHIFT) | (generation << _GENERATION_SHIFT) | (now & _STAMP_MASK)


@helper
def _is_live(value, ports, now, ageing):
    """Whether `value` has a port, of the port's present generation, and is young enough."""
    port = value >> _PORT_SHIFT
    if port == _0:
        return False
    generation = np.uint64(ports[np.int64(port - _1)]["generation"]) & _GENERATION_MASK
    if (value >> _GENERATION_SHIFT) & _GENERATION_MASK != generation:
        return False
    return _age(value, now) < ageing


@helper
def lookup_mac(mac, key, ports, now, ageing):
    """Port that `key` was learned on, or PORT_NONE; `now` and `ageing` are uint64 ticks."""
    slot = _find(mac, key)
    if slot < 0:
        return np.int64(PORT_NONE)
    value = load_acquire(mac, slot + MAC_SLOTS)
    if load_acquire(mac, slot) != key or not _is_live(value, ports, now, ageing):
        return np.int64(PORT_NONE)
    return np.int64(value >> _PORT_SHIFT) - 1


@helper
def seen_lately(mac, key, port, ports, now):
    """Whether `key` has a fresh entry on `port` in its home bucket, so that `learn_mac` need not be called.

    Nearly every packet ends here, after one cache line. It is apart from `learn_mac` so that the common
    path stays short in the caller.
    """
    slot = _find_in(mac, home_bucket(mac_hash(key)), key)
    if slot < 0:
        return False
    value = load_acquire(mac, slot + MAC_SLOTS)
    fresh = _pack(port, ports, now)
    return value >> _GENERATION_SHIFT == fresh >> _GENERATION_SHIFT and _age(value, now) < _REFRESH_TICKS


@helper
def learn_mac(mac, key, port, ports, now, ageing, counters):
    """Note that the address of `key` was seen on `port`; `now` and `ageing` are uint64 ticks.

    mac       uint64[MAC_WORDS]              in/out, shared
    ports     PORT_DTYPE[PORTS_MAX]          in
    counters  uint64[len(SWITCH_COUNTERS)]   in/out

    Address 0 and group addresses are not learned, and nothing is when `ageing` is 0.
    """
    address = key >> _VLAN_BITS
    if address == _0 or address & _ADDRESS_GROUP != _0 or ageing == _0:
        return
    slot = _find(mac, key)
    fresh = _pack(port, ports, now)
    if slot < 0:
        _insert(mac, key, fresh, ports, now, ageing, counters)
        return
    value = load_acquire(mac, slot + MAC_SLOTS)
    same_port = value >> _GENERATION_SHIFT == fresh >> _GENERATION_SHIFT
    if same_port and _age(value, now) < _REFRESH_TICKS:
        return
    # No port: another worker is filling the slot. Another key: the slot was reused.
    if value >> _PORT_SHIFT == _0 or load_acquire(mac, slot) != key:
        return
    if compare_exchange(mac, slot + MAC_SLOTS, value, fresh):
        if not _is_live(value, ports, now, ageing):
            counters[COUNTER_LEARNED] += _1
        elif not same_port:
            counters[COUNTER_MOVES] += _1


@helper
def _empty_slot(mac, base):
    """First empty slot of a bucket and how many are in front of it; (-1, MAC_SLOTS) without one."""
    first = np.int64(base)
    for used in range(MAC_SLOTS):
        if load_acquire(mac, first + used) == _0:
            return first + used, used
    return np.int64(-1), MAC_SLOTS


@helper
def _oldest_dead(mac, base, ports, now, ageing):
    """Slot of the oldest entry of a bucket that is not live and nobody's, or -1."""
    first = np.int64(base)
    oldest = np.int64(-1)
    oldest_age = _0
    for slot in range(first, first + MAC_SLOTS):
        value = load_acquire(mac, slot + MAC_SLOTS)
        if value >> _PORT_SHIFT == _0 or _is_live(value, ports, now, ageing):
            continue
        if oldest < 0 or _age(value, now) > oldest_age:
            oldest = slot
            oldest_age = _age(value, now)
    return oldest


@helper
def _own_empty(mac, home, other, key):
    """Put `key` into an empty slot of the emptier bucket, the home one while it has two.

    Filling evenly leaves no pair of full buckets at MAC_ENTRIES. Returns (slot, tried): slot -1 and
    tried True when the slot was lost to another worker.
    """
    slot, used = _empty_slot(mac, home)
    if used >= MAC_SLOTS - 1:
        other_slot, other_used = _empty_slot(mac, other)
        if other_used < used:
            slot = other_slot
    if slot < 0:
        return slot, False
    if compare_exchange(mac, slot, _0, key):
        return slot, True
    return np.int64(-1), True


@helper
def _own_dead(mac, home, other, key, ports, now, ageing):
    """Put `key` into the slot of a dead entry; returns (slot, tried) as `_own_empty` does."""
    slot = _oldest_dead(mac, home, ports, now, ageing)
    if slot < 0:
        slot = _oldest_dead(mac, other, ports, now, ageing)
    if slot < 0:
        return slot, False
    old = load_acquire(mac, slot)
    value = load_acquire(mac, slot + MAC_SLOTS)
    if value >> _PORT_SHIFT == _0 or _is_live(value, ports, now, ageing):
        return np.int64(-1), True
    if not compare_exchange(mac, slot + MAC_SLOTS, value, _0):
        return np.int64(-1), True
    if compare_exchange(mac, slot, old, key):  # not a plain store: `_holds_twice` needs the full barrier
        return slot, True
    # Reused between the loads of key and value: owned by us all the same, so make it empty.
    store_release(mac, slot, _0)
    return np.int64(-1), True


@helper
def _holds_twice(mac, home, other, key, own):
    """Whether a slot other than `own` holds `key` too."""
    for base in (home, other):
        first = np.int64(base)
        for slot in range(first, first + MAC_SLOTS):
            if slot != own and load_acquire(mac, slot) == key:
                return True
    return False


@helper
def _insert(mac, key, fresh, ports, now, ageing, counters):
    """Add `key`, which was not found, with value `fresh`.

    Two workers may add the same key to different slots at once. Each looks for the other behind its
    own compare-exchange, so one at least sees both, and withdraws: the next packet learns.
    """
    word = mac_hash(key)
    home = home_bucket(word)
    other = other_bucket(word)
    for _ in range(_INSERT_TRIES):
        slot, tried = _own_empty(mac, home, other, key)
        if not tried:
            slot, tried = _own_dead(mac, home, other, key, ports, now, ageing)
        if not tried:
            counters[COUNTER_TABLE_FULL] += _1
            return
        if slot >= 0:
            if _holds_twice(mac, home, other, key, slot):
                store_release(mac, slot, _0)
                return
            store_release(mac, slot + MAC_SLOTS, fresh)
            counters[COUNTER_LEARNED] += _1
            return
        if _find(mac, key) >= 0:
            return
