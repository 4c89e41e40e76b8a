"""`[[mirror]]`: whose packets are copied, and where to."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dpu_runtime.config import types
from dpu_runtime.config.model import Model, refuse
from dpu_runtime.config.types import Allowed, Cli, Refers
from dpu_runtime.kernels.layout import FRAME_BYTES_MAX

OCTETS_MIN = 14  # an Ethernet header


class MirrorConfig(Model):
    """`[[mirror]]`: copies of a port's or a rule's packets, to another port."""

    name: Annotated[types.ItemName, Cli("M")] | None = Field(
        None, description="name of the mirror, unique; default: mirror-N"
    )
    port: types.PortRef | None = Field(None, description="port whose packets are copied")
    rule: Annotated[types.ItemName, Refers("rule"), Cli("R")] | None = Field(
        None, description="rule whose packets are copied, those that it drops too, instead of a port's"
    )
    to: types.PortRef = Field(description="port that the copies leave by")
    direction: Annotated[Literal["in", "out", "both"], Allowed("in, out, both")] = Field(
        "both", description="what comes in at `port`, what goes out there, or both"
    )
    octets: (
        Annotated[int, Field(ge=OCTETS_MIN, le=FRAME_BYTES_MAX), Allowed(f"{OCTETS_MIN}..{FRAME_BYTES_MAX}")]
        | None
    ) = Field(None, description="octets that are copied of each packet; default: all")

    @model_validator(mode="after")
    def _one_source(self):
        problems = []
        if (self.port is None) == (self.rule is None):
            problems.append((("port",), "give either `port` or `rule`, and not both", self.port))
        if self.port is not None and self.port == self.to:
            problems.append((("to",), "is the port that is mirrored", self.to))
        if self.rule is not None and self.direction != "both":
            problems.append(
                (("direction",), "needs `port`: a rule says itself where it stands", self.direction)
            )
        refuse(self, problems)
        return self
