"""A function of another package: frames over a length are dropped, all are counted."""

from typing import Annotated

from pydantic import Field

from dpu_runtime.config import types
from dpu_runtime.config.model import Model
from dpu_runtime.config.types import Allowed
from dpu_runtime.function import INGRESS, Function, Noun, Stage, Tables
from dpu_weigh.tables import LAYOUT, SCALES_MAX


class ScaleConfig(Model):
    """`[[scale]]`: weighs what comes in at a port."""

    name: types.ItemName | None = Field(None, description="name of the scale, unique; default: scale-N")
    port: types.PortRef = Field(description="port whose packets are weighed")
    heavy: Annotated[int, Field(ge=60, le=65535), Allowed("60..65535")] = Field(
        65535, description="octets of the longest frame that passes"
    )
    report: bool = Field(False, description="have the daemon say of heavy packets, and keep them")


FUNCTION = Function(
    name="weigh",
    summary="weigh packets of a port, and drop heavy ones",
    sections={"scale": ScaleConfig},
    tables=Tables(LAYOUT),
    counters={"weighed": ("u8", (SCALES_MAX, 2))},
    drops=("too_heavy", "report_full"),
    stages=(Stage("weigh", INGRESS, "dpu_weigh.stage:weigh", before=("acl_ingress",)),),
    active="dpu_weigh.book:active",
    book="dpu_weigh.book:ScaleBook",
    punted="dpu_weigh.book:say",
    nouns={"scale": Noun("scale", columns=("name", "port", "heavy"), stats=("packets", "bytes"))},
)
