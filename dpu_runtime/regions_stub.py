"""Regions of functions, made of today's shared memory: to be deleted with the first region.

Not: anything that stays. `shared.of(name)` takes the place of `tables_of`, `Drop` that of FRAME_DROPS.
"""

from types import SimpleNamespace

import numpy as np

from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import PER_WORKER, WORKERS_MAX

MOVED_DROPS = {
    "acl": ("acl_ingress", "acl_egress"),
    "meter": ("meter_rx", "meter_tx"),
    "switch": ("mac_spoof", "vlan_denied", "hairpin", "no_egress", "mtu_exceeded", "link_local"),
}
_MOVED = {name for names in MOVED_DROPS.values() for name in names}
FRAME_DROPS = tuple(drop for drop in Drop if drop.name.lower() not in _MOVED)
_STAGES = {"acl_ingress": 3, "switch": 4, "acl_egress": 5}  # rows of kernel_counters
_CALLED = {"hits": "rule_hits", "switch": "switch_counters"}
_MAC_AGEING_TICKS = 3  # word of `control`


def tables_of(shared, function):
    """A function's arrays; those that today's memory has not are private, and `drops` and `stages` copies."""
    from dpu_runtime.declarations import arrays  # noqa: PLC0415  (it needs FRAME_DROPS)

    made = {}
    for name, dtype, shape in arrays(function):
        there = getattr(shared, _CALLED.get(name, name), None)
        if function.name == "switch" and name == "settings":
            there = shared.control[_MAC_AGEING_TICKS : _MAC_AGEING_TICKS + 1]
        if there is None or function.name not in MOVED_DROPS:
            there = np.zeros([WORKERS_MAX if n == PER_WORKER else n for n in shape], dtype)
        made[name] = there
    made["drops"] = np.zeros((WORKERS_MAX, max(1, len(function.drops))), np.uint64)
    for column, name in enumerate(function.drops):
        if name in _MOVED:
            made["drops"][:, column] = shared.drops[:, Drop[name.upper()]]
    made["stages"] = np.zeros((WORKERS_MAX, max(1, len(function.stages)), 2), np.uint64)
    for row, stage in enumerate(function.stages):
        if stage.name in _STAGES:
            made["stages"][:, row] = shared.kernel_counters[:, _STAGES[stage.name]]
    return SimpleNamespace(**made)
