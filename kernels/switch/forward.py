"""Learning switch: which ports the packets of a burst go to.

Spec: IEEE 802.1Q clause 8.6 (forwarding), 8.6.3 (reserved addresses), 8.7 (learning).
In:   src_mac, dst_mac, vlan, tags, in_port, frame_len, gso_type, gso_size, l3_offset, l5_offset.
Out:  the list of (packet, port) to transmit; verdict, drop_reason.
Not:  spanning tree; multicast snooping (a group is flooded); the tag itself, see `kernels/switch/vlan.py`.
"""

import numpy as np

from dpu_runtime.kernels.burst import Service, Word
from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import PORT_NONE, PORT_UP, VIRTIO_NET_HDR_GSO_NONE
from dpu_runtime.kernels.parse.ethernet import ETHERNET_HEADER_BYTES, MAC_GROUP_BIT, VLAN_TAG_BYTES
from dpu_runtime.kernels.stage import drop
from dpu_runtime.kernels.switch.drops import HAIRPIN, LINK_LOCAL, MTU_EXCEEDED, NO_EGRESS, VLAN_DENIED
from dpu_runtime.kernels.switch.mac_learning import learn_mac, lookup_mac, mac_key, seen_lately
from dpu_runtime.kernels.switch.mac_table import AGEING_TICKS, COUNTER_COPIES, COUNTER_FLOODED, TICK_NS
from dpu_runtime.kernels.switch.vlan import is_member
from dpu_runtime.kernels.verdict import drop_packet

_MAY = np.int64(-1)
_PORT_IS_DOWN = np.int64(100)
# A flood that reaches nobody is dropped under the reason of the port that came closest.
_CLOSENESS = np.array([0, 1, 0, 0, 3, 0], np.int64)  # of VLAN_DENIED and MTU_EXCEEDED; a port that is down: 2
assert _CLOSENESS[VLAN_DENIED] < 2 < _CLOSENESS[MTU_EXCEEDED]

_0 = np.uint64(0)
_1 = np.uint64(1)
_NO_PORT = np.int64(PORT_NONE)
_LINK_LOCAL = np.uint64(0x0180C2000000)  # 01-80-C2-00-00-00 .. -0F, 802.1Q table 8-1
_LINK_LOCAL_SHIFT = np.uint64(4)
_PORT_UP = np.uint32(PORT_UP)
_ETHERNET_BYTES = np.int64(ETHERNET_HEADER_BYTES)
_TAG_BYTES = np.int64(VLAN_TAG_BYTES)
_TICK_NS = np.uint64(TICK_NS)


@helper
def _l3_bytes(rec):
    """Octets of layer 3 in the largest frame that the packet leaves in, segmented if it is GSO."""
    if rec["gso_type"] == VIRTIO_NET_HDR_GSO_NONE:
        return np.int64(rec["frame_len"]) - _ETHERNET_BYTES - _TAG_BYTES * np.int64(rec["tags"])
    header = np.int64(rec["l5_offset"]) - np.int64(rec["l3_offset"])
    return max(header, np.int64(0)) + np.int64(rec["gso_size"])


@helper
def egress_denied(rec, ports, vlan_allowed, port):
    """Why the packet may not leave by `port`: VLAN_DENIED, PORT_IS_DOWN, MTU_EXCEEDED, or MAY."""
    if not is_member(ports, vlan_allowed, port, rec["vlan"]):
        return np.int64(VLAN_DENIED)
    if not np.uint32(ports[port]["flags"]) & _PORT_UP:
        return _PORT_IS_DOWN
    mtu = np.int64(ports[port]["mtu"])
    if mtu != 0 and _l3_bytes(rec) > mtu:
        return np.int64(MTU_EXCEEDED)
    return _MAY


@helper
def _closer(reason, closest):
    """Whether a port that refuses for `reason` came closer than one that refused for `closest`."""
    return _closeness(reason) > _closeness(closest)


@helper
def _closeness(reason):
    if reason == _MAY:
        return np.int64(0)
    return np.int64(2) if reason == _PORT_IS_DOWN else _CLOSENESS[reason]


@helper
def _give_up(burst, state, packet, reason):
    """Drop a packet that may not leave."""
    if reason == _PORT_IS_DOWN:
        drop_packet(burst.meta[packet], Drop.PORT_DOWN, burst.drops)
    else:
        drop(burst, state, packet, reason)


@helper
def _flood(burst, state, packet, active, first):
    """List a packet for all ports that take it but its own, from entry `first` on.

    Returns (MAY, or why nobody takes it; entries of the list).
    """
    rec = burst.meta[packet]
    out = first
    closest = _MAY
    for k in range(1, 1 + active):
        port = np.int64(burst.active_ports[k])
        if port == np.int64(rec["in_port"]):
            continue
        reason = egress_denied(rec, burst.ports, state.tables.vlan_allowed, port)
        if reason != _MAY:
            closest = reason if _closer(reason, closest) else closest
            continue
        burst.out_packet[out] = packet
        burst.out_port[out] = port
        out += _1
    if out == first:
        return (np.int64(NO_EGRESS) if closest == _MAY else closest), out
    copies = out - first - _1
    state.counters.switch[COUNTER_FLOODED] += _1
    state.counters.switch[COUNTER_COPIES] += copies
    burst.services[Service.COPIES] += copies
    return _MAY, out


@helper
def _is_link_local(address):
    """Whether `address` is one of the 16 that bridges do not forward."""
    return address >> _LINK_LOCAL_SHIFT == _LINK_LOCAL >> _LINK_LOCAL_SHIFT


@kernel
def forward(burst, state, in_port, count):
    """Learn the sources of the packets at hand and list where each of them goes.

    burst    Burst                 in parsed fields and vlan of meta, ports, active_ports, words[COARSE_NS];
                                   out out_packet, out_port, words[OUT] (added to), verdict, drop_reason
    state    State, SWITCH_LAYOUT  mac in/out, shared between workers; vlan_allowed, settings in
    in_port  int                   the port they came from

    Returns packets left: 0, or those for which the list might be too short, moved to the front. Drain the
    list and call again.
    """
    tables = state.tables
    now = burst.words[Word.COARSE_NS] // _TICK_NS
    ageing = tables.settings[AGEING_TICKS]
    out_max = len(burst.out_packet)
    # Read once: the control process may write the list meanwhile.
    active = min(np.int64(burst.active_ports[0]), len(burst.active_ports) - 1, out_max)
    # Packets of one flow come in runs: what the table said of the one before is true of its successor.
    src_before, dst_before, port_before = _0, _0, _NO_PORT
    out = np.uint64(burst.words[Word.OUT])
    for k in range(np.uint64(count)):
        packet = np.uint64(burst.packets[k])
        rec = burst.meta[packet]
        vlan, dst = rec["vlan"], np.uint64(rec["dst_mac"])
        src_key = mac_key(rec["src_mac"], vlan)
        if src_key != src_before:
            if not seen_lately(tables.mac, src_key, in_port, burst.ports, now):
                learn_mac(tables.mac, src_key, in_port, burst.ports, now, ageing, state.counters.switch)
                port_before = _NO_PORT  # it may be the one that was learned
            src_before = src_key
        port = _NO_PORT
        if dst & MAC_GROUP_BIT == _0:
            dst_key = mac_key(dst, vlan)
            if dst_key != dst_before or port_before == PORT_NONE:
                dst_before = dst_key
                port_before = lookup_mac(tables.mac, dst_key, burst.ports, now, ageing)
            port = port_before
        elif _is_link_local(dst):
            drop(burst, state, packet, LINK_LOCAL)
            continue
        if np.int64(out) + (active if port == PORT_NONE else 1) > out_max:
            burst.words[Word.OUT] = out
            return _rest(burst, k, count)
        if port == PORT_NONE:
            reason, out = _flood(burst, state, packet, active, out)
        elif port == in_port:
            reason = np.int64(HAIRPIN)
        else:
            reason = egress_denied(rec, burst.ports, tables.vlan_allowed, port)
            if reason == _MAY:
                burst.out_packet[out] = packet
                burst.out_port[out] = port
                out += _1
        if reason != _MAY:
            _give_up(burst, state, packet, reason)
    burst.words[Word.OUT] = out
    return np.int64(0)


@helper
def _rest(burst, first, count):
    """Move `packets[first:count]` to the front; returns how many."""
    left = np.uint64(count) - first
    for k in range(left):
        burst.packets[k] = burst.packets[first + k]
    return np.int64(left)
