"""Learning switch: which ports a batch of packets goes to.

Spec: IEEE 802.1Q clause 8.6 (forwarding), 8.6.3 (reserved addresses), 8.7 (learning).
In:   src_mac, dst_mac, tags, vlan_tci, in_port, frame_len, gso_type, gso_size, l3_offset, l5_offset.
Out:  vlan, verdict, drop_reason, and the list of (packet, port) to transmit.
Not:  spanning tree; multicast snooping (a group is flooded); the tag itself, see `kernels/switch/vlan.py`.
"""

import numpy as np

from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import (
    PORT_NONE,
    PORT_SPOOF_CHECK,
    PORT_UP,
    VERDICT_PASS,
    VIRTIO_NET_HDR_GSO_NONE,
)
from dpu_runtime.kernels.octets.memory import address_of, prefetch
from dpu_runtime.kernels.parse.ethernet import ETHERNET_HEADER_BYTES, MAC_GROUP_BIT, VLAN_TAG_BYTES
from dpu_runtime.kernels.switch.mac_learning import (
    home_bucket,
    learn_mac,
    lookup_mac,
    mac_hash,
    mac_key,
    seen_lately,
)
from dpu_runtime.kernels.switch.mac_table import COUNTER_COPIES, COUNTER_FLOODED
from dpu_runtime.kernels.switch.vlan import classify_vlan, is_member
from dpu_runtime.kernels.verdict import drop_packet

_DROP_NONE = int(Drop.NONE)
_DROP_MAC_SPOOF = int(Drop.MAC_SPOOF)
_DROP_VLAN_DENIED = int(Drop.VLAN_DENIED)
_DROP_HAIRPIN = int(Drop.HAIRPIN)
_DROP_NO_EGRESS = int(Drop.NO_EGRESS)
_DROP_PORT_DOWN = int(Drop.PORT_DOWN)
_DROP_MTU_EXCEEDED = int(Drop.MTU_EXCEEDED)
_DROP_LINK_LOCAL = int(Drop.LINK_LOCAL)
# A flood that reaches nobody is dropped under the reason of the port that came closest.
assert _DROP_VLAN_DENIED < _DROP_PORT_DOWN < _DROP_MTU_EXCEEDED

_0 = np.uint64(0)
_1 = np.uint64(1)
_WORD_BYTES = np.uint64(8)
_NO_PORT = np.int64(PORT_NONE)
_LINK_LOCAL = np.uint64(0x0180C2000000)  # 01-80-C2-00-00-00 .. -0F, 802.1Q table 8-1
_LINK_LOCAL_SHIFT = np.uint64(4)
_PORT_UP = np.uint32(PORT_UP)
_PORT_SPOOF_CHECK = np.uint32(PORT_SPOOF_CHECK)
_ETHERNET_BYTES = np.int64(ETHERNET_HEADER_BYTES)
_TAG_BYTES = np.int64(VLAN_TAG_BYTES)


@helper
def _admit(rec, ports, vlan_allowed):
    """Ingress checks; sets meta.vlan and returns a DROP_* code."""
    port = ports[rec["in_port"]]
    if not np.uint32(port["flags"]) & _PORT_UP:
        return _DROP_PORT_DOWN
    if np.uint32(port["flags"]) & _PORT_SPOOF_CHECK and rec["src_mac"] != port["mac"]:
        return _DROP_MAC_SPOOF
    vlan = classify_vlan(rec, ports)
    rec["vlan"] = vlan
    return _DROP_NONE if is_member(ports, vlan_allowed, rec["in_port"], vlan) else _DROP_VLAN_DENIED


@kernel
def admit(meta, count, ports, vlan_allowed, mac, drops):
    """Give each packet its VLAN, and drop those that may not come in at their port.

    meta          META_DTYPE[n]                    in parsed fields, out vlan, verdict, drop_reason
    ports         PORT_DTYPE[PORTS_MAX]            in
    vlan_allowed  uint64[PORTS_MAX, VLAN_WORDS]    in, one bit a VLAN ID, for trunks
    mac           uint64[MAC_WORDS]                prefetched: the cache lines that `switch` will need
    drops         uint64[DROP_REASON_COUNT]        in/out

    Comes before the ingress ACL, whose rules match the VLAN. A port that is not PORT_UP takes nothing,
    as its rules may not be there yet. Returns packets passed.
    """
    passed = 0
    table = address_of(mac)
    src_before, dst_before = _0, _0
    for i in range(count):
        rec = meta[i]
        if rec["verdict"] != VERDICT_PASS:
            continue
        reason = _admit(rec, ports, vlan_allowed)
        if reason != _DROP_NONE:
            drop_packet(rec, reason, drops)
            continue
        passed += 1
        src, dst = mac_key(rec["src_mac"], rec["vlan"]), mac_key(rec["dst_mac"], rec["vlan"])
        if src != src_before or dst != dst_before:
            prefetch(table + home_bucket(mac_hash(src)) * _WORD_BYTES)
            prefetch(table + home_bucket(mac_hash(dst)) * _WORD_BYTES)
            src_before, dst_before = src, dst
    return passed


@helper
def _l3_bytes(rec):
    """Octets of layer 3 in the largest frame that the packet leaves in, segmented if it is GSO."""
    if rec["gso_type"] == VIRTIO_NET_HDR_GSO_NONE:
        return np.int64(rec["frame_len"]) - _ETHERNET_BYTES - _TAG_BYTES * np.int64(rec["tags"])
    header = np.int64(rec["l5_offset"]) - np.int64(rec["l3_offset"])
    return max(header, np.int64(0)) + np.int64(rec["gso_size"])


@helper
def egress_denied(rec, ports, vlan_allowed, port):
    """Why the packet may not leave by `port`: a DROP_* code, 0 if it may."""
    if not is_member(ports, vlan_allowed, port, rec["vlan"]):
        return _DROP_VLAN_DENIED
    if not np.uint32(ports[port]["flags"]) & _PORT_UP:
        return _DROP_PORT_DOWN
    mtu = np.int64(ports[port]["mtu"])
    if mtu != 0 and _l3_bytes(rec) > mtu:
        return _DROP_MTU_EXCEEDED
    return _DROP_NONE


@helper
def _flood(meta, i, ports, vlan_allowed, active_ports, active, out_packet, out_port, n_out, counters):
    """List packet `i` for all ports that take it but its own; returns (DROP_* code, new n_out)."""
    rec = meta[i]
    first = n_out
    closest = _DROP_NONE
    for k in range(1, 1 + active):
        port = np.int64(active_ports[k])
        if port == np.int64(rec["in_port"]):
            continue
        reason = egress_denied(rec, ports, vlan_allowed, port)
        if reason != _DROP_NONE:
            closest = max(closest, reason)
            continue
        out_packet[n_out] = i
        out_port[n_out] = port
        n_out += 1
    if n_out > first:
        counters[COUNTER_FLOODED] += _1
        counters[COUNTER_COPIES] += np.uint64(n_out - first - 1)
        return _DROP_NONE, n_out
    return (closest if closest != _DROP_NONE else _DROP_NO_EGRESS), n_out


@helper
def _is_link_local(address):
    """Whether `address` is one of the 16 that bridges do not forward."""
    return address >> _LINK_LOCAL_SHIFT == _LINK_LOCAL >> _LINK_LOCAL_SHIFT


@kernel
def switch(
    headers,
    meta,
    count,
    start,
    ports,
    vlan_allowed,
    active_ports,
    mac,
    now,
    ageing,
    out_packet,
    out_port,
    counters,
    drops,
):
    """Learn the sources of packets `start` .. `count` - 1 and list where each of them goes.

    headers       uint8[n, ROW_BYTES]              untouched
    meta          META_DTYPE[n]                    in parsed fields, vlan, out verdict, drop_reason
    count, start  int, 0 <= start <= count <= n
    ports         PORT_DTYPE[PORTS_MAX]            in
    vlan_allowed  uint64[PORTS_MAX, VLAN_WORDS]    in, one bit a VLAN ID, for trunks
    active_ports  uint16[1 + PORTS_MAX]            in, how many, then the ports that floods visit
    mac           uint64[MAC_WORDS]                in/out, shared between workers
    now, ageing   int                              ticks, see kernels/switch/mac_table.py
    out_packet    uint16[SWITCH_OUT_MAX]           out, index of the packet
    out_port      uint16[SWITCH_OUT_MAX]           out, port to transmit it on
    counters      uint64[len(SWITCH_COUNTERS)]     in/out
    drops         uint64[DROP_REASON_COUNT]        in/out

    Returns (next, n_out). `next` is `count`, or the first packet for which the list might be too
    short: drain the list and call again with `start = next`. Packets whose verdict is not PASS take
    no part.
    """
    now_ticks, ageing_ticks = np.uint64(now), np.uint64(ageing)
    out_max = len(out_packet)
    # Read once: the control process may write the list meanwhile.
    active = min(np.int64(active_ports[0]), len(active_ports) - 1, out_max)
    n_out = 0
    # Packets of one flow come in runs: what the table said of the one before is true of its successor.
    src_before, in_port_before, dst_before, port_before = _0, _NO_PORT, _0, _NO_PORT
    for i in range(start, count):
        rec = meta[i]
        if rec["verdict"] != VERDICT_PASS:
            continue
        in_port, vlan, dst = np.int64(rec["in_port"]), rec["vlan"], np.uint64(rec["dst_mac"])
        src_key = mac_key(rec["src_mac"], vlan)
        if src_key != src_before or in_port != in_port_before:
            if not seen_lately(mac, src_key, in_port, ports, now_ticks):
                learn_mac(mac, src_key, in_port, ports, now_ticks, ageing_ticks, counters)
                port_before = _NO_PORT  # it may be the one that was learned
            src_before, in_port_before = src_key, in_port
        port = _NO_PORT
        if dst & MAC_GROUP_BIT == _0:
            dst_key = mac_key(dst, vlan)
            if dst_key != dst_before or port_before == PORT_NONE:
                dst_before = dst_key
                port_before = lookup_mac(mac, dst_key, ports, now_ticks, ageing_ticks)
            port = port_before
        elif _is_link_local(dst):
            drop_packet(rec, _DROP_LINK_LOCAL, drops)
            continue
        if n_out + (active if port == PORT_NONE else 1) > out_max:
            return i, n_out
        if port == PORT_NONE:
            reason, n_out = _flood(
                meta, i, ports, vlan_allowed, active_ports, active, out_packet, out_port, n_out, counters
            )
        elif port == in_port:
            reason = _DROP_HAIRPIN
        else:
            reason = egress_denied(rec, ports, vlan_allowed, port)
            if reason == _DROP_NONE:
                out_packet[n_out] = i
                out_port[n_out] = port
                n_out += 1
        if reason != _DROP_NONE:
            drop_packet(rec, reason, drops)
    return count, n_out
