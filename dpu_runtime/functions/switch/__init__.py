"""The learning switch: VLANs, learned addresses, spoof check."""

from dpu_runtime.function import EGRESS, FORWARD, INGRESS, Function, Stage, Tables
from dpu_runtime.functions.switch.config import SwitchKeys, SwitchSettings
from dpu_runtime.kernels.switch import drops, mac_table

FUNCTION = Function(
    name="switch",
    summary="learn addresses and forward by them, within VLANs",
    settings=SwitchSettings,
    port=SwitchKeys,
    tables=Tables(mac_table.SWITCH_LAYOUT),
    counters={"switch": ("u8", (len(mac_table.SWITCH_COUNTERS),))},
    shown={"switch": mac_table.SWITCH_COUNTERS},
    drops=drops.NAMES,
    stages=(
        Stage("switch_admit", INGRESS, "dpu_runtime.kernels.switch.admit:admit", before=("acl_ingress",)),
        Stage("switch", FORWARD, "dpu_runtime.kernels.switch.forward:forward"),
        Stage(
            "switch_tags",
            EGRESS,
            "dpu_runtime.kernels.switch.vlan:retag_all",
            after=("acl_egress",),
            made=True,
        ),
    ),
    active="dpu_runtime.functions.switch.book:active",
    book="dpu_runtime.functions.switch.book:SwitchBook",
)
