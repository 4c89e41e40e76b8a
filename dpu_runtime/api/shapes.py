"""What the API's methods take and return.

Not: ports and rules, whose shape is the configuration's (config.py).
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dpu_runtime.config.model import refuse
from dpu_runtime.config.models import AnyPort, Config, RouteConfig
from dpu_runtime.config.types import (
    Allowed,
    InterfaceAddress,
    InterfaceName,
    NetworkNamespace,
    Owner,
    PortName,
    RuleName,
)
from dpu_runtime.functions.acl.config import RuleConfig
from dpu_runtime.observe.profile import SECONDS_MAX, SECONDS_MIN


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


class DetachParams(_Shape):
    """Names a port, or whose ports are meant."""

    name: PortName | None = Field(None, description="name of the port")
    owner: Owner | None = Field(None, description="owner whose ports are meant, all of them")

    @model_validator(mode="after")
    def _one_of_them(self):
        if (self.name is None) == (self.owner is None):
            refuse(self, [(("name",), "either `name` or `owner` must be given", self.name)])
        return self


class RelocateParams(_Shape):
    """Where somebody else has put the interface of a tap port."""

    name: PortName = Field(description="name of the port")
    netns: NetworkNamespace | None = Field(
        None, description="network namespace the interface is in now; default: the host's own"
    )
    ifname: InterfaceName = Field(description="name the interface has there")
    address: list[InterfaceAddress] | None = Field(
        None, description="addresses it has there; default: those the port was made with"
    )
    route: list[RouteConfig] | None = Field(
        None, description="routes it has there; default: those the port was made with"
    )


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


class Names(_Shape):
    """These are done."""

    names: list[str] = Field(description="names of the ports; none is fine")


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


class ProfileParams(_Shape):
    """How long to look."""

    seconds: Annotated[
        float,
        Field(ge=SECONDS_MIN, le=SECONDS_MAX),
        Allowed(f"{SECONDS_MIN:g}..{SECONDS_MAX:g} seconds"),
    ] = Field(1.0, description="how long to look")


class StageView(_Shape):
    """A stage of a worker."""

    share: float = Field(description="of all the time, 1 is all of it")
    packets: int = Field(description="it saw; copies count in those behind the switch")
    cycles_per_packet: float | None = Field(description="by each of them")
    cycles_per_received: float | None = Field(description="by each packet that the worker received")


class SyscallView(_Shape):
    """A system call of a worker."""

    share: float = Field(description="of all the time, inside of it")
    per_second: float
    us_mean: float | None = Field(description="microseconds inside, by call; null: none has ended")


class WorkerProfile(_Shape):
    """Where the time of a worker went; stages, polling and sleep are all of it."""

    number: int
    cpu: int
    thread: int
    packets: int = Field(description="received")
    bursts: int
    stages: dict[str, StageView]
    polling: float | None = Field(None, description="rounds that found nothing")
    sleeping: float | None = Field(None, description="in epoll, without the CPU")
    waiting_for_cpu: float | None = Field(None, description="within all of these: others had its CPU")
    polling_or_sleeping: float | None = Field(None, description="instead of the two, where they are not told")
    syscalls: dict[str, SyscallView] | None = Field(
        None,
        description="they lie within the stages, polling and sleep; absent: not counted, `notes` say why",
    )
    notes: list[str]


class ProfileView(_Shape):
    """Where the time of the workers went."""

    seconds: float
    notes: list[str] = Field(description="what this host does not tell, and why")
    workers: list[WorkerProfile]


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
