"""Rules: what is forwarded and what is dropped, before and behind the switch."""

from dpu_runtime.function import EGRESS, INGRESS, MATCH, Function, Noun, Private, Stage, Tables
from dpu_runtime.functions.acl.config import AclSettings, RuleConfig
from dpu_runtime.kernels.acl import layout

FUNCTION = Function(
    name="acl",
    summary="drop packets by rules over their headers",
    sections={"rule": RuleConfig},
    settings=AclSettings,
    changing=("default_ingress", "default_egress"),
    tables=Tables(layout.ACL_LAYOUT, each=(INGRESS, EGRESS)),
    private=Private("dpu_runtime.kernels.acl.verdict_cache:new_verdict_cache", each=(INGRESS, EGRESS)),
    counters={"hits": ("u8", (layout.HITS_MAX, 2))},
    drops=("acl_ingress", "acl_egress"),
    stages=(
        Stage("acl_ingress", INGRESS, "dpu_runtime.kernels.acl.filter:judge"),
        Stage("acl_egress", EGRESS, "dpu_runtime.kernels.acl.filter:judge"),
    ),
    active="dpu_runtime.functions.acl.book:active",
    book="dpu_runtime.functions.acl.book:RuleBook",
    nouns={
        "rule": Noun(
            "rule",
            columns=("name", "stage", "priority", MATCH, "action"),
            stats=("packets", "bytes"),
            order="dpu_runtime.functions.acl.config:order",
            counted=True,
        )
    },
    explain={"acl_ingress": "rule {name}: {action}", "acl_egress": "rule {name}: {action}"},
)
