"""Regions of functions, made of today's shared memory: to be deleted with the first region.

Not: anything that stays. `shared.of(name)` takes the place of `tables_of`, `Drop` that of FRAME_DROPS.
"""

from dpu_runtime.kernels.drops import Drop

MOVED_DROPS = {
    "acl": ("acl_ingress", "acl_egress"),
    "meter": ("meter_rx", "meter_tx"),
    "switch": ("mac_spoof", "vlan_denied", "hairpin", "no_egress", "mtu_exceeded", "link_local"),
}
_MOVED = {name for names in MOVED_DROPS.values() for name in names}
FRAME_DROPS = tuple(drop for drop in Drop if drop.name.lower() not in _MOVED)
