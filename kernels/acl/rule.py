"""One ACL rule as the control process knows it, and its encoding as words.

Spec: kernels/acl/layout.py (key words).
In:   AclRule objects, any order.
Out:  EncodedRules, in rank order: descending priority, earlier in the list first.
Not:  names and text forms; what a rule is called and how it was written is the configuration's.
"""

from dataclasses import dataclass, fields
from operator import attrgetter

import numpy as np

from dpu_runtime.kernels.acl.layout import (
    ACTION_ALLOW,
    ACTION_DROP,
    DPORT_SHIFT,
    DST_HI,
    DST_MAC,
    ETHERTYPE_SHIFT,
    FLAGS_SHIFT,
    HITS_MAX,
    IN_PORT_SHIFT,
    KEY_IP,
    KEY_IPV4,
    KEY_PORTS,
    KEY_TCP,
    KEY_WORDS,
    L2,
    L4,
    OUT_PORT_SHIFT,
    PROTO_SHIFT,
    RULES_MAX,
    SPORT_SHIFT,
    SRC_HI,
    SRC_MAC,
    TCP_FLAGS_SHIFT,
    VLAN_SHIFT,
)
from dpu_runtime.kernels.layout import PORTS_MAX

_ADDRESS_BITS = {0: 0, 4: 32, 6: 128}
_LOW_64 = (1 << 64) - 1


@dataclass(slots=True)
class AclRule:
    """Match and action. A mask of 0, or None, matches anything; all given fields must match.

    Value bits outside the mask are ignored. A rule with a port range matches only packets whose
    ports are known (never a later fragment), also when the range is 0-65535.
    """

    priority: int
    action: int  # ACTION_ALLOW, ACTION_DROP
    hit: int  # its counter in hits[HITS_MAX], the same over rebuilds
    in_port: int | None = None
    out_port: int | None = None  # egress stage only; never matches in the ingress stage
    src_mac: int = 0  # 48 bits
    src_mac_mask: int = 0
    dst_mac: int = 0
    dst_mac_mask: int = 0
    vlan: int = 0  # 12 bits; 0 under a full mask: packets of no VLAN
    vlan_mask: int = 0
    ethertype: int | None = None
    ip_version: int = 0  # 4 or 6: IP packets of this version only; 0: no addresses given
    src: int = 0  # 32 or 128 bits, host order
    src_mask: int = 0
    dst: int = 0
    dst_mask: int = 0
    proto: int | None = None  # IP packets only
    sport: tuple[int, int] | None = None  # first and last port
    dport: tuple[int, int] | None = None
    tcp_flags: int = 0  # 8 bits, RFC 9293 3.1; TCP packets only
    tcp_flags_mask: int = 0


@dataclass(slots=True)
class EncodedRules:
    """Rules as arrays, row r is the rule of rank r."""

    values: np.ndarray  # uint64[n, KEY_WORDS], no bit outside masks
    masks: np.ndarray  # uint64[n, KEY_WORDS]; of a port range the bits common to both ends
    ports: np.ndarray  # int64[n, 4]: sport_lo, sport_hi, dport_lo, dport_hi; 0..65535 for any
    actions: np.ndarray  # int64[n]
    hits: np.ndarray  # int64[n]


_FIELD_NAMES = tuple(field.name for field in fields(AclRule))
_all_fields = attrgetter(*_FIELD_NAMES)


def _integers(columns, name, low, high, none=None):
    """Column `name` as int64; None becomes `none`, which is out of bounds. Raises ValueError for others."""
    column = columns[name]
    if none is not None:
        column = [none if value is None else value for value in column]
    try:
        array = np.array(column, np.int64)
    except (OverflowError, TypeError, ValueError):
        array = None
    if array is not None:
        bad = (array < low) | (array > high)
        wildcards = columns[name].count(None) if none is not None else 0
        if np.count_nonzero(bad) == wildcards:
            return array
    for index, value in enumerate(columns[name]):
        known = value is None and none is not None
        if not known and not (isinstance(value, int | np.integer) and low <= value <= high):
            raise ValueError(f"rule {index}: {name} {value!r} is not a number from {low} to {high}")
    raise AssertionError(name)


def _addresses(columns, name):
    """Address column `name` as uint64 high and low halves, checked against the rule's IP version."""
    column = [int(value) for value in columns[name]]
    for index, (value, version) in enumerate(zip(column, columns["ip_version"], strict=True)):
        if value and (value < 0 or value >> _ADDRESS_BITS[version]):
            bits = _ADDRESS_BITS[version]
            raise ValueError(
                f"rule {index}: {name} {value:#x} does not fit {bits} bits of ip_version {version}"
            )
    high = np.array([value >> 64 for value in column], np.uint64)
    low = np.array([value & _LOW_64 for value in column], np.uint64)
    return high, low


def _port_ranges(columns, name):
    """Range column `name` as (given, first, last)."""
    column = columns[name]
    given = np.array([value is not None for value in column], bool)
    try:
        ends = np.array([(0, 65535) if value is None else value for value in column], np.int64)
        ends = ends.reshape(len(column), 2)
        valid = True
    except (OverflowError, TypeError, ValueError):
        valid = False
    if not valid or ((ends[:, 0] < 0) | (ends[:, 0] > ends[:, 1]) | (ends[:, 1] > 65535)).any():
        for index, value in enumerate(column):
            if value is not None and not (len(value) == 2 and 0 <= value[0] <= value[1] <= 65535):
                raise ValueError(
                    f"rule {index}: {name} {value!r} is not (first, last) with 0 <= first <= last <= 65535"
                )
    return given, ends[:, 0], ends[:, 1]


def _common_bits(first, last):
    """Mask of the leading bits that all ports of each range share."""
    differing = first ^ last
    for shift in (1, 2, 4, 8):
        differing |= differing >> shift
    return 0xFFFF & ~differing


class _Words:
    """Value and mask words of all rules, filled field by field."""

    def __init__(self, count):
        self.values = np.zeros((count, KEY_WORDS), np.uint64)
        self.masks = np.zeros((count, KEY_WORDS), np.uint64)

    def put(self, word, shift, value, mask):
        """Give each rule's field at `shift` of `word` the value and mask of the int64 arrays."""
        mask = np.asarray(mask).astype(np.uint64)
        self.values[:, word] |= (np.asarray(value).astype(np.uint64) & mask) << np.uint64(shift)
        self.masks[:, word] |= mask << np.uint64(shift)

    def need(self, given, bits):
        """Want key flags `bits` set where `given`."""
        mask = np.where(given, bits, 0)
        self.put(L4, FLAGS_SHIFT, mask, mask)


def encode_rules(rules):
    """Encode `rules` in rank order. Raises ValueError naming the rule's index, the field and its bounds."""
    if len(rules) > RULES_MAX:
        raise ValueError(f"{len(rules)} rules in one stage, at most {RULES_MAX} are possible")
    columns = dict(zip(_FIELD_NAMES, zip(*map(_all_fields, rules), strict=True), strict=False))
    if not rules:
        columns = {name: () for name in _FIELD_NAMES}
    words = _Words(len(rules))
    actions = _integers(columns, "action", ACTION_ALLOW, ACTION_DROP)
    hits = _integers(columns, "hit", 0, HITS_MAX - 1)
    priorities = _integers(columns, "priority", -(2**62), 2**62)
    _put_layer2(words, columns)
    _put_layer3(words, columns)
    ports = _put_layer4(words, columns)
    order = np.argsort(-priorities, kind="stable")
    return EncodedRules(words.values[order], words.masks[order], ports[order], actions[order], hits[order])


def _put_layer2(words, columns):
    in_port = _integers(columns, "in_port", 0, PORTS_MAX - 1, none=-1)
    words.put(L2, IN_PORT_SHIFT, in_port, np.where(in_port >= 0, 0xFFFF, 0))
    out_port = _integers(columns, "out_port", 0, PORTS_MAX - 1, none=-1)
    words.put(L2, OUT_PORT_SHIFT, out_port, np.where(out_port >= 0, 0xFFFF, 0))
    mac_max = (1 << 48) - 1
    for word, name in ((SRC_MAC, "src_mac"), (DST_MAC, "dst_mac")):
        value = _integers(columns, name, 0, mac_max)
        words.put(word, 0, value, _integers(columns, name + "_mask", 0, mac_max))
    vlan_mask = _integers(columns, "vlan_mask", 0, 0xFFF)
    words.put(L2, VLAN_SHIFT, _integers(columns, "vlan", 0, 0xFFF), vlan_mask)
    ethertype = _integers(columns, "ethertype", 0, 0xFFFF, none=-1)
    words.put(L2, ETHERTYPE_SHIFT, ethertype, np.where(ethertype >= 0, 0xFFFF, 0))


def _put_layer3(words, columns):
    for index, version in enumerate(columns["ip_version"]):
        if version not in _ADDRESS_BITS:
            raise ValueError(f"rule {index}: ip_version {version!r} is not one of 0, 4, 6")
    version = np.array(columns["ip_version"], np.int64)
    for word, name in ((SRC_HI, "src"), (DST_HI, "dst")):
        value, mask = _addresses(columns, name), _addresses(columns, name + "_mask")
        for half in range(2):
            words.put(word + half, 0, value[half], mask[half])
    # IPv6 is "IP, but not IPv4"
    flags = np.where(version == 4, KEY_IP | KEY_IPV4, np.where(version == 6, KEY_IP, 0))
    words.put(L4, FLAGS_SHIFT, flags, np.where(version != 0, KEY_IP | KEY_IPV4, 0))
    proto = _integers(columns, "proto", 0, 0xFF, none=-1)
    words.put(L4, PROTO_SHIFT, proto, np.where(proto >= 0, 0xFF, 0))
    words.need(proto >= 0, KEY_IP)


def _put_layer4(words, columns):
    ports = np.empty((len(columns["proto"]), 4), np.int64)
    for pair, (shift, name) in enumerate(((SPORT_SHIFT, "sport"), (DPORT_SHIFT, "dport"))):
        given, first, last = _port_ranges(columns, name)
        words.put(L4, shift, first, _common_bits(first, last))
        words.need(given, KEY_PORTS)
        ports[:, 2 * pair], ports[:, 2 * pair + 1] = first, last
    mask = _integers(columns, "tcp_flags_mask", 0, 0xFF)
    words.put(L4, TCP_FLAGS_SHIFT, _integers(columns, "tcp_flags", 0, 0xFF), mask)
    words.need(mask != 0, KEY_TCP)
    return ports
