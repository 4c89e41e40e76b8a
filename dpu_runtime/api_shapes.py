"""What the API's methods take and return.

Not: ports and rules, whose shape is the configuration's (config.py).
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dpu_runtime.config import AnyPort, Config, RuleConfig
from dpu_runtime.config_types import PortName, RuleName


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class NoParams(_Shape):
    """Takes nothing."""


class PortRef(_Shape):
    """Names a port."""

    name: PortName = Field(description="name of the port")


class PortFilter(_Shape):
    """Names a port, or means all."""

    name: PortName | None = Field(None, description="name of the port; absent: all")


class RuleRef(_Shape):
    """Names a rule."""

    name: RuleName = Field(description="name of the rule")


class RuleFilter(_Shape):
    """How much to show of the rules."""

    stats: bool = Field(False, description="with hit counters")


class ApplyParams(_Shape):
    """A whole configuration."""

    toml: str = Field(description="the configuration's text")
    source: str = Field("", description="its file's name, for error messages")
    dry_run: bool = Field(False, description="only say what would change")


class Done(_Shape):
    """It is done."""

    name: str = Field(description="name of the port or rule")


class Changes(_Shape):
    """What changed, or would."""

    changes: list[str] = Field(description="a line each: + comes, - goes, ~ changes")
    dry_run: bool


class PortView(_Shape):
    """A port: what was asked for and what it got."""

    config: AnyPort
    info: dict[str, Any] = Field(description="what the port got, and why not more")


class RuleView(_Shape):
    """A rule, with its hits if they were asked for."""

    config: RuleConfig
    packets: int | None = Field(None, description="packets that matched")
    bytes: int | None = Field(None, description="octets of these packets")


class ConfigView(_Shape):
    """The running configuration."""

    toml: str = Field(description="as a file, without defaults")
    config: Config = Field(description="as data, with defaults")


class Status(_Shape):
    """How the daemon is."""

    version: str
    pid: int = Field(description="of the control process")
    uptime_s: float
    socket: str
    state_dir: str
    ports: int
    rules: int
    data_plane: dict[str, Any] = Field(description="process, workers, versions, start, whether adopted")


class Stats(BaseModel):
    """All counters."""

    model_config = ConfigDict(extra="allow")

    ports: dict[str, dict[str, int | float]]
    drops: dict[str, int] = Field(description="packets by drop reason")
    kernels: dict[str, dict[str, int | float]]
    workers: list[dict[str, Any]]
