"""VLANs: which one a packet belongs to, who is a member, tag push and pop at egress.

Spec: IEEE 802.1Q clause 6.9 (classification, tagging), 8.8.10 (member set), 9.6 (TCI).
In:   tags, vlan_tci, in_port.
Out:  vlan; at egress l2_offset, frame_len, tags, vlan_tci, PARSED_TAG_* and the tag's octets.
Not:  translation from one VLAN ID to another; a second tag is carried, never looked at.
"""

import numpy as np

from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import (
    FRAME_BYTES_MAX,
    PARSED_TAG_POPPED,
    PARSED_TAG_PUSHED,
    PARSED_TAG_SERVICE,
    PORT_TRUNK,
)
from dpu_runtime.kernels.octets.wire import be16, be32, put_be16, put_be32
from dpu_runtime.kernels.parse.ethernet import (
    ETHERTYPE_QINQ,
    ETHERTYPE_VLAN,
    VLAN_ID_MASK,
    VLAN_TAG_BYTES,
)
from dpu_runtime.kernels.switch.mac_table import PORTS_WITH_VLAN

_DROP_NONE = int(Drop.NONE)
_DROP_OVERSIZE = int(Drop.OVERSIZE)
_DROP_VLAN_TRUNCATED = int(Drop.VLAN_TRUNCATED)

_PORT_TRUNK = np.uint32(PORT_TRUNK)
_PUSHED = np.uint32(PARSED_TAG_PUSHED)
_POPPED = np.uint32(PARSED_TAG_POPPED)
_SERVICE = np.uint32(PARSED_TAG_SERVICE)
_TPID_OFFSET = np.uint64(12)  # octets, behind both addresses
_TCI_OFFSET = np.uint64(14)  # octets
_TAGGED_HEADER_BYTES = np.uint64(18)  # octets, addresses, one tag, EtherType
_TAG_BYTES = np.uint32(VLAN_TAG_BYTES)
_PRIORITY_MASK = np.uint32(0xF000)  # PCP and DEI, 802.1Q 9.6
_FRAME_BYTES_MAX = np.uint32(FRAME_BYTES_MAX)
_0 = np.uint32(0)
_1 = np.uint64(1)
_4 = np.uint64(4)
_8 = np.uint64(8)
_WORD_SHIFT = np.uint64(6)  # 64 VLANs a word
_BIT_MASK = np.uint64(63)


@helper
def is_member(ports, vlan_allowed, port, vlan):
    """Whether `port` takes packets of `vlan`.

    A trunk takes what its row of vlan_allowed says (bit 0: untagged frames without a VLAN), an access
    port its own VLAN, and a port without a VLAN all.
    """
    number = np.uint64(vlan)
    if np.uint32(ports[port]["flags"]) & _PORT_TRUNK:
        return (vlan_allowed[port, number >> _WORD_SHIFT] >> (number & _BIT_MASK)) & _1 == _1
    native = np.uint64(ports[port]["vlan"])
    return native == np.uint64(0) or native == number


@helper
def classify_vlan(rec, ports):
    """VLAN of a received packet, uint32: its outer tag's, or the port's without a tag or with VID 0."""
    vlan = _0
    if rec["tags"]:
        vlan = np.uint32(rec["vlan_tci"]) & VLAN_ID_MASK
    if vlan == _0:
        vlan = np.uint32(ports[rec["in_port"]]["vlan"])
    return vlan


@helper
def _pop(row, rec, parsed):
    """Take the outer tag off; its TCI stays in vlan_tci if the packet came with it."""
    l2 = np.uint64(rec["l2_offset"])
    if l2 + _TAGGED_HEADER_BYTES > np.uint64(rec["header_end"]):
        return _DROP_VLAN_TRUNCATED
    service = be16(row, l2 + _TPID_OFFSET) == ETHERTYPE_QINQ
    word0, word1, word2 = be32(row, l2), be32(row, l2 + _4), be32(row, l2 + _8)
    l2 = l2 + VLAN_TAG_BYTES
    put_be32(row, l2, word0)
    put_be32(row, l2 + _4, word1)
    put_be32(row, l2 + _8, word2)
    rec["l2_offset"] = l2
    rec["frame_len"] = np.uint32(rec["frame_len"]) - _TAG_BYTES
    rec["tags"] = np.uint32(rec["tags"]) - np.uint32(1)
    if parsed & _PUSHED:
        rec["parsed"] = parsed & ~_PUSHED
        rec["vlan_tci"] = _0
    else:
        rec["parsed"] = parsed | _POPPED | (_SERVICE if service else _0)
    return _DROP_NONE


@helper
def _push(row, rec, parsed, vlan):
    """Put a tag of `vlan` in front: the one that was popped, else 802.1Q with priority 0."""
    l2 = np.uint64(rec["l2_offset"])
    frame_len = np.uint32(rec["frame_len"])
    if l2 < VLAN_TAG_BYTES or frame_len + _TAG_BYTES > _FRAME_BYTES_MAX:
        return _DROP_OVERSIZE
    tpid = ETHERTYPE_VLAN
    tci = vlan
    if parsed & _POPPED:
        tci = vlan | (np.uint32(rec["vlan_tci"]) & _PRIORITY_MASK)
        if parsed & _SERVICE:
            tpid = ETHERTYPE_QINQ
        rec["parsed"] = parsed & ~(_POPPED | _SERVICE)
    else:
        rec["parsed"] = parsed | _PUSHED
    word0, word1, word2 = be32(row, l2), be32(row, l2 + _4), be32(row, l2 + _8)
    l2 = l2 - VLAN_TAG_BYTES
    put_be32(row, l2, word0)
    put_be32(row, l2 + _4, word1)
    put_be32(row, l2 + _8, word2)
    put_be16(row, l2 + _TPID_OFFSET, tpid)
    put_be16(row, l2 + _TCI_OFFSET, tci)
    rec["l2_offset"] = l2
    rec["frame_len"] = frame_len + _TAG_BYTES
    rec["tags"] = np.uint32(rec["tags"]) + np.uint32(1)
    rec["vlan_tci"] = tci
    return _DROP_NONE


@helper
def retag(headers, meta, i, ports, out_port):
    """Make packet `i` tagged or untagged as `out_port` wants it; in/out are its row and meta.

    The port's own VLAN goes untagged, another one tagged, VLAN 0 as it came. May be called again for
    the next port of the same packet: a tag that came with it returns with its TPID, PCP and DEI; a
    priority tag (VID 0) becomes the VLAN's.

    Returns a DROP_* code: 0, or OVERSIZE when a tag has no room, VLAN_TRUNCATED when `tags` is a lie;
    the packet is unchanged then.
    """
    rec = meta[i]
    vlan = np.uint32(rec["vlan"])
    if vlan == _0:
        return _DROP_NONE
    parsed = np.uint32(rec["parsed"])
    tagged = rec["tags"] != 0 and parsed & _POPPED == _0
    if np.uint32(ports[out_port]["vlan"]) == vlan:
        return _pop(headers[i], rec, parsed) if tagged else _DROP_NONE
    if not tagged:
        return _push(headers[i], rec, parsed, vlan)
    tci = np.uint32(rec["vlan_tci"])
    if tci & VLAN_ID_MASK == _0:
        l2 = np.uint64(rec["l2_offset"])
        if l2 + _TAGGED_HEADER_BYTES > np.uint64(rec["header_end"]):
            return _DROP_VLAN_TRUNCATED
        put_be16(headers[i], l2 + _TCI_OFFSET, tci | vlan)
        rec["vlan_tci"] = tci | vlan
    return _DROP_NONE


@kernel
def retag_all(burst, state, port, count):
    """Tag or untag the packets at hand as `port` wants them, and drop those that have no room for a tag.

    burst  Burst                 in/out headers, meta, packets; a row may be shared: retagged for each port
    state  State, SWITCH_LAYOUT  settings: where no port has a VLAN of its own, tags stay as they came
    """
    if state.tables.settings[PORTS_WITH_VLAN] == np.uint64(0):
        return count
    kept = np.uint64(0)
    for k in range(np.uint64(count)):
        packet = np.uint64(burst.packets[k])
        reason = np.int64(retag(burst.headers, burst.meta, packet, burst.ports, port))
        if reason != Drop.NONE:
            burst.drops[reason] += _1
            continue
        burst.packets[kept] = packet
        kept += _1
    return np.int64(kept)
