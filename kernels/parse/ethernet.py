"""Ethernet II and VLAN tags.

Spec: IEEE 802.3 clause 3.2 (frame), IEEE 802.1Q clause 9.6 (C-TAG 0x8100, S-TAG 0x88A8).
In:   l2_offset, header_end, frame_len.
Out:  src_mac, dst_mac, ethertype, vlan_tci, inner_tci, vlan, tags, l3_offset.
Not:  LLC and SNAP: an `ethertype` below 0x0600 is the length field of an 802.3 frame (STP, for one).
      A third tag is not passed: `ethertype` is then its TPID.
"""

import numpy as np

from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import FRAME_BYTES_MAX
from dpu_runtime.kernels.octets.wire import be16, be64

ETHERNET_HEADER_BYTES = np.uint64(14)  # octets
ETHERNET_SRC_OFFSET = np.uint64(6)  # octets
ETHERNET_TYPE_OFFSET = np.uint64(12)  # octets
ETHERTYPE_IPV4 = np.uint32(0x0800)
ETHERTYPE_ARP = np.uint32(0x0806)
ETHERTYPE_VLAN = np.uint32(0x8100)
ETHERTYPE_QINQ = np.uint32(0x88A8)
ETHERTYPE_IPV6 = np.uint32(0x86DD)
VLAN_TAG_BYTES = np.uint64(4)  # octets
VLAN_TYPE_OFFSET = np.uint64(2)  # octets, from the TCI
VLAN_ID_MASK = np.uint32(0x0FFF)
MAC_GROUP_BIT = np.uint64(1 << 40)  # least significant bit of the first octet

_DROP_RUNT = int(Drop.RUNT)
_DROP_OVERSIZE = int(Drop.OVERSIZE)
_DROP_VLAN_TRUNCATED = int(Drop.VLAN_TRUNCATED)
_DROP_SOURCE_MULTICAST = int(Drop.SOURCE_MULTICAST)
_FRAME_BYTES_MAX = np.uint32(FRAME_BYTES_MAX)
_16 = np.uint64(16)
_NO_ETHERTYPE = np.uint32(0)


@helper
def is_vlan_tpid(ethertype):
    """Whether a VLAN tag follows."""
    return ethertype in (ETHERTYPE_VLAN, ETHERTYPE_QINQ)


@helper
def parse_tags(row, rec, ethertype, l3, end):
    """Pass one or two tags; `l3` is where the first TCI lies.

    Returns (drop code, ethertype behind the tags, l3 offset behind the tags).
    """
    if l3 + VLAN_TAG_BYTES > end:
        return _DROP_VLAN_TRUNCATED, ethertype, l3
    tci = be16(row, l3)
    rec["vlan_tci"] = tci
    rec["vlan"] = tci & VLAN_ID_MASK
    rec["tags"] = 1
    ethertype = be16(row, l3 + VLAN_TYPE_OFFSET)
    l3 = l3 + VLAN_TAG_BYTES
    if is_vlan_tpid(ethertype):
        if l3 + VLAN_TAG_BYTES > end:
            return _DROP_VLAN_TRUNCATED, ethertype, l3
        rec["inner_tci"] = be16(row, l3)
        rec["tags"] = 2
        ethertype = be16(row, l3 + VLAN_TYPE_OFFSET)
        l3 = l3 + VLAN_TAG_BYTES
    return 0, ethertype, l3


@helper
def parse_ethernet(row, rec, l2, end):
    """Parse the Ethernet header and its tags.

    Expects vlan_tci, inner_tci, vlan and tags to be 0.
    Returns (drop code, destination is a group, ethertype, l3 offset).
    """
    l3 = l2 + ETHERNET_HEADER_BYTES
    if l3 > end:
        return _DROP_RUNT, False, _NO_ETHERTYPE, l3
    # Words of eight octets: both end inside the header, and it is one load each.
    dst_mac = be64(row, l2) >> _16
    src_mac = be64(row, l2 + ETHERNET_SRC_OFFSET) >> _16
    ethertype = be16(row, l2 + ETHERNET_TYPE_OFFSET)
    reason = 0
    if is_vlan_tpid(ethertype):
        reason, ethertype, l3 = parse_tags(row, rec, ethertype, l3, end)
    rec["dst_mac"] = dst_mac
    rec["src_mac"] = src_mac
    rec["ethertype"] = ethertype
    rec["l3_offset"] = l3
    if src_mac & MAC_GROUP_BIT:
        reason = _DROP_SOURCE_MULTICAST
    if rec["frame_len"] > _FRAME_BYTES_MAX:
        reason = _DROP_OVERSIZE
    return reason, (dst_mac & MAC_GROUP_BIT) != 0, ethertype, l3
