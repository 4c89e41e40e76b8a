"""Mirrors: copies of a port's or a rule's packets, to another port."""

from dpu_runtime.function import EGRESS, INGRESS, Function, Noun, Stage, Tables
from dpu_runtime.functions.mirror.config import MirrorConfig
from dpu_runtime.kernels.mirror import layout

FUNCTION = Function(
    name="mirror",
    summary="copy packets of a port or a rule to another port",
    sections={"mirror": MirrorConfig},
    tables=Tables(layout.MIRROR_LAYOUT),
    counters={"copied": ("u8", (layout.MIRRORS_MAX, 2))},
    drops=("mirror_no_room",),
    stages=(
        Stage(
            "mirror_in",
            INGRESS,
            "dpu_runtime.kernels.mirror.copy:copy_port",
            after=("switch_admit",),
            before=("meter_rx", "acl_ingress"),
        ),
        Stage(
            "mirror_rule_in",
            INGRESS,
            "dpu_runtime.kernels.mirror.copy:copy_rule",
            after=("acl_ingress",),
            reads=("rule",),
        ),
        Stage(
            "mirror_rule_out",
            EGRESS,
            "dpu_runtime.kernels.mirror.copy:copy_rule",
            after=("acl_egress",),
            before=("switch_tags",),
            reads=("rule",),
        ),
        Stage("mirror_out", EGRESS, "dpu_runtime.kernels.mirror.copy:copy_port", after=("meter_tx",)),
    ),
    active="dpu_runtime.functions.mirror.book:active",
    book="dpu_runtime.functions.mirror.book:MirrorBook",
    nouns={
        "mirror": Noun(
            "mirror",
            columns=("name", "port", "rule", "to", "direction", "octets"),
            stats=("packets", "bytes"),
        )
    },
)
