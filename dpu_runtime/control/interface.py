"""What the control half needs done: the interface of a device.

Not: the one that does it, dpu_runtime/device/device.py; tests have one in memory.
"""

from typing import Any, Protocol

from dpu_runtime.config.errors import DataPlaneError
from dpu_runtime.config.models import Config, PortConfig
from dpu_runtime.drivers.port import PortError

REFUSALS = (PortError, DataPlaneError, OSError)  # what a device says no with; all else is a bug


class Device(Protocol):
    """What does the work: ports, functions and the data plane. One call at a time."""

    async def runs_already(self) -> int | None:
        """Return the process number of the data plane that `start` would adopt."""

    async def start(self, config: Config) -> None:
        """Bring up the data plane, or adopt one that runs; functions have their settings and no items.

        config  what is to run soon: its machine code is there from the start
        """

    async def take_over(self) -> None:
        """End what `start` began where a data plane of another version runs; all functions are set."""

    def give_up(self) -> None:
        """Give up what takes long: `stop` is to follow."""

    async def stop(self) -> None:
        """Take everything down."""

    async def add_port(self, port: PortConfig) -> None:
        """Make a port, closed to packets; raises PortError with nothing changed."""

    def open_ports(self) -> None:
        """Let packets through to every port: the items that name them are set."""

    def close_port(self, name: str) -> None:
        """Let no packet through to a port any more: what names it is about to go."""

    async def del_port(self, name: str) -> None:
        """Take a port down."""

    async def update_port(self, old: PortConfig, new: PortConfig) -> bool:
        """Change a port in place, or return False: it must go and come again."""

    def lost_ports(self) -> list[str]:
        """Names of the ports whose interface the device made and somebody else took away."""

    async def relocate_port(self, old: PortConfig, new: PortConfig) -> None:
        """Take `new` as the place of the interface; raises PortError when it is elsewhere."""

    async def set_section(self, function: str, items: dict[str, list], settings: Any) -> None:
        """Replace all items and the settings of a function at once, without losing a packet.

        items  {section: models}; settings  Function.settings, None without
        """

    def port_configs(self) -> list[PortConfig]:
        """Return the ports there are."""

    def port_info(self, name: str) -> dict:
        """Return what a port got: offloads, queues, and why not more."""

    def stats(self) -> dict:
        """Return the counters, as `dpu stats -j` prints them."""

    async def profile(self, seconds: float) -> dict:
        """Return where the workers' time went, after `seconds`. Raises ApplyError."""

    def item_counters(self, function: str) -> dict[str, dict[str, tuple]]:
        """Return {section: {item: counters}} of a function, those of Noun.stats."""

    def status(self) -> dict:
        """Return the data plane's process, workers, versions, start, and whether it was adopted."""

    async def healthy(self) -> bool:
        """Whether the data plane moves packets."""
