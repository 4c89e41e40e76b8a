"""Admission: give each packet its VLAN, and drop those that may not come in at their port.

Spec: IEEE 802.1Q clause 8.6.2 (ingress).
In:   src_mac, dst_mac, tags, vlan_tci, in_port.   Out: vlan, verdict, drop_reason.
"""

import numpy as np

from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import PORT_SPOOF_CHECK, PORT_UP
from dpu_runtime.kernels.octets.memory import address_of, prefetch
from dpu_runtime.kernels.stage import drop
from dpu_runtime.kernels.switch.drops import MAC_SPOOF, VLAN_DENIED
from dpu_runtime.kernels.switch.mac_learning import home_bucket, mac_hash, mac_key
from dpu_runtime.kernels.switch.vlan import classify_vlan, is_member
from dpu_runtime.kernels.verdict import drop_packet

_0 = np.uint64(0)
_1 = np.uint64(1)
_WORD_BYTES = np.uint64(8)
_PORT_SPOOF_CHECK = np.uint32(PORT_SPOOF_CHECK)
_PORT_UP = np.uint32(PORT_UP)


@kernel
def admit(burst, state, port, count):
    """Give each packet its VLAN, and drop those that may not come in at `port`.

    burst  Burst                 in parsed fields of meta, ports; out vlan, verdict, drop_reason, packets
    state  State, SWITCH_LAYOUT  vlan_allowed; of mac the cache lines that `forward` will need are prefetched

    Comes before the rules, which match the VLAN. A port that is not PORT_UP takes nothing, as its rules may
    not be there yet. Returns packets left.
    """
    tables = state.tables
    flags = np.uint32(burst.ports[port]["flags"])
    if not flags & _PORT_UP:
        for k in range(count):
            drop_packet(burst.meta[np.int64(burst.packets[k])], Drop.PORT_DOWN, burst.drops)
        return np.int64(0)
    owner = burst.ports[port]["mac"]
    spoof_check = flags & _PORT_SPOOF_CHECK != 0
    table = address_of(tables.mac)
    src_before, dst_before = _0, _0
    kept = _0
    for k in range(np.uint64(count)):
        packet = np.uint64(burst.packets[k])
        rec = burst.meta[packet]
        if spoof_check and rec["src_mac"] != owner:
            drop(burst, state, packet, MAC_SPOOF)
            continue
        vlan = classify_vlan(rec, burst.ports)
        rec["vlan"] = vlan
        if not is_member(burst.ports, tables.vlan_allowed, port, vlan):
            drop(burst, state, packet, VLAN_DENIED)
            continue
        burst.packets[kept] = packet
        kept += _1
        src, dst = mac_key(rec["src_mac"], vlan), mac_key(rec["dst_mac"], vlan)
        if src != src_before or dst != dst_before:
            prefetch(table + home_bucket(mac_hash(src)) * _WORD_BYTES)
            prefetch(table + home_bucket(mac_hash(dst)) * _WORD_BYTES)
            src_before, dst_before = src, dst
    return np.int64(kept)
