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
)
from dpu_runtime.observe.profile import SECONDS_MAX, SECONDS_MIN


class Shape(BaseModel):
    """Params and results: no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", strict=True)


class NoParams(Shape):
    """Takes nothing."""


class PortRef(Shape):
    """Names a port."""

    name: PortName = Field(description="name of the port")


class PortFilter(Shape):
    """Names a port, or means all."""

    name: PortName | None = Field(None, description="name of the port; absent: all")


class DetachParams(Shape):
    """Names a port, or whose ports are meant."""

    name: PortName | None = Field(None, description="name of the port")
    owner: Owner | None = Field(None, description="owner whose ports are meant, all of them")

    @model_validator(mode="after")
    def _one_of_them(self):
        if (self.name is None) == (self.owner is None):
            refuse(self, [(("name",), "either `name` or `owner` must be given", self.name)])
        return self


class RelocateParams(Shape):
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


class ApplyParams(Shape):
    """A whole configuration."""

    toml: str = Field(description="the configuration's text")
    source: str = Field("", description="its file's name, for error messages")
    dry_run: bool = Field(False, description="only say what would change")


class ReloadParams(Shape):
    """The file is the daemon's own."""

    dry_run: bool = Field(False, description="only say what would change")


class Change(Shape):
    """What a change answers."""

    not_kept: str | None = Field(
        None, description="why a restart undoes what is in force, such as a full disk; absent: it does not"
    )


class Done(Change):
    """It is done."""

    name: str = Field(description="name of what came, went or changed")


class Names(Change):
    """These are done."""

    names: list[str] = Field(description="names of the ports; none is fine")


class Changes(Change):
    """What changed, or would."""

    changes: list[str] = Field(description="a line each: + comes, - goes, ~ changes")
    dry_run: bool


class PortView(Shape):
    """A port: what was asked for and what it got."""

    config: AnyPort
    info: dict[str, Any] = Field(description="what the port got, and why not more")


class ProfileParams(Shape):
    """How long to look."""

    seconds: Annotated[
        float,
        Field(ge=SECONDS_MIN, le=SECONDS_MAX),
        Allowed(f"{SECONDS_MIN:g}..{SECONDS_MAX:g} seconds"),
    ] = Field(1.0, description="how long to look")


class StageView(Shape):
    """A stage of a worker."""

    share: float = Field(description="of all the time, 1 is all of it")
    packets: int = Field(description="it saw; copies count in those behind the switch")
    cycles_per_packet: float | None = Field(description="by each of them")
    cycles_per_received: float | None = Field(description="by each packet that the worker received")


class SyscallView(Shape):
    """A system call of a worker."""

    share: float = Field(description="of all the time, inside of it")
    per_second: float
    us_mean: float | None = Field(description="microseconds inside, by call; null: none has ended")


class WorkerProfile(Shape):
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


class ProfileView(Shape):
    """Where the time of the workers went."""

    seconds: float
    notes: list[str] = Field(description="what this host does not tell, and why")
    workers: list[WorkerProfile]


class ConfigView(Shape):
    """The running configuration."""

    toml: str = Field(description="as a file, without defaults")
    config: Config = Field(description="as data, with defaults")


class Status(Shape):
    """How the daemon is."""

    version: str
    pid: int = Field(description="of the control process")
    uptime_s: float
    socket: str
    state_dir: str
    applied: bool = Field(
        description="what was applied comes back after a restart; false: what the file says"
    )
    not_kept: str | None = Field(None, description="why a restart undoes changes; absent: it does not")
    ports: int
    data_plane: dict[str, Any] = Field(description="process, workers, versions, start, whether adopted")


class Stats(BaseModel):
    """All counters."""

    model_config = ConfigDict(extra="allow")

    ports: dict[str, dict[str, int | float]]
    drops: dict[str, int] = Field(description="packets by drop reason")
    kernels: dict[str, dict[str, int | float]]
    workers: list[dict[str, Any]]


def plain(model):
    """A model as a result has it: without what is not said."""
    return model.model_dump(mode="json", exclude_none=True)
