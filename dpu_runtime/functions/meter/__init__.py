"""Rate limits: what may come in at a port and go out there."""

from dpu_runtime.function import EGRESS, INGRESS, Function, Stage, Tables
from dpu_runtime.functions.meter.config import MeterKeys
from dpu_runtime.kernels.meter.table import METER_LAYOUT

FUNCTION = Function(
    name="meter",
    summary="limit the rate of what comes in at a port and of what goes out",
    port=MeterKeys,
    tables=Tables(METER_LAYOUT),
    drops=("meter_rx", "meter_tx"),
    stages=(
        Stage(
            "meter_rx",
            INGRESS,
            "dpu_runtime.kernels.meter.bucket:limit",
            after=("switch_admit",),
            before=("acl_ingress",),
            reads=("clock",),
        ),
        Stage(
            "meter_tx",
            EGRESS,
            "dpu_runtime.kernels.meter.bucket:limit",
            after=("switch_tags",),
            reads=("clock",),
            made=True,
        ),
    ),
    active="dpu_runtime.functions.meter.book:active",
    book="dpu_runtime.functions.meter.book:MeterBook",
    wire="dpu_runtime.functions.meter.shaper:wire",
)
