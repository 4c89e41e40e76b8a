"""Who made what runs: a configuration file, or somebody at run time.

A name that the last configuration file has is the file's; all other ports and items were made at run time, by
`port.add` and its like, and are kept in the state directory until they are deleted. A port of
`dpu vhost-user` is not: that program makes it again.

The last file is the one that the daemon was started with, or one that was applied since: that is kept in the
state directory too, and which file a later daemon goes by is `in_force`.
Not:  the files they are kept in, state.py; ports with an owner among them, plan.py.
"""

from dataclasses import dataclass, field
from typing import Any

from dpu_runtime.config.models import PortConfig
from dpu_runtime.control.plan import names
from dpu_runtime.drivers.linux.netns import process_identity
from dpu_runtime.programs import vhost_program


@dataclass
class Kept:
    """Ports and items that were made at run time.

    items      {section: models}, sections that have some
    applied    {section: names} of those that were applied
    processes  port name -> process_identity of drivers/linux/netns.py, of ports in the namespace of a process
    refused    why entries of the state directory's file are not among them
    """

    ports: list[PortConfig] = field(default_factory=list)
    items: dict[str, list] = field(default_factory=dict)
    processes: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    applied: dict[str, set] = field(default_factory=dict)

    def of(self, section):
        """Those of one section."""
        return self.ports if section == "port" else self.items.get(section, [])

    def add(self, section, item):
        """One more."""
        (self.ports if section == "port" else self.items.setdefault(section, [])).append(item)

    def tables(self):
        """{section: models}, ports too."""
        return {"port": self.ports, **self.items}

    def behind(self, applied):
        """These behind what was `applied`, which keeps names that both have, after a kill amid `apply`."""
        names = {key: {item.name for item in own} for key, own in applied.tables().items()}
        both = Kept(processes=self.processes, applied=names)
        for key, own in applied.tables().items():
            for item in own:
                both.add(key, item)
        for key, own in self.tables().items():
            for item in own:
                if item.name not in names.get(key, ()):
                    both.add(key, item)
        return both

    def gone(self, port):
        """Why the port cannot be made again, None if nothing is known against it."""
        process = self.processes.get(port.name)
        if process and process != process_identity(port.netns):
            return f"the process of netns {port.netns!r} is gone"
        return None


@dataclass(frozen=True)
class Applied:
    """What `dpu apply` made run, as far as it still runs.

    file      digest (config/file.py) of the file that the daemon had been started with; None: with none
    kept      ports and items
    settings  keys of [runtime] that change while the daemon runs
    """

    file: str | None = None
    kept: Kept = field(default_factory=Kept)
    settings: dict[str, Any] = field(default_factory=dict)

    def in_force(self, file):
        """Whether a daemon started with `file`, a digest, goes on with this: with the same or none."""
        return file in (None, self.file)


class Origin:
    """Which ports and items of the running configuration are the file's.

    applied  the `Applied` if that file was applied, None if the daemon was started with it
    """

    def __init__(self):
        self.applied = None
        self._names = {"port": set()}  # section -> names
        self._processes = {}

    def of_file(self, config, applied=None):
        """Take what `config` names for the file's, all else for made at run time."""
        self.of_names(names(config.parts()), applied)

    def of_names(self, own, applied=None):
        """Take these names, {section: names}, for the file's."""
        self._names, self.applied = {"port": set(), **own}, applied

    def from_file(self, name):
        """Whether the port `name` is the file's."""
        return name in self._names["port"]

    def processes(self, identities):
        """Take over what an earlier daemon noted by `note`."""
        self._processes = dict(identities)

    def note(self, port):
        """Remember which process the namespace of a port belongs to, before the port is made."""
        self._processes[port.name] = process_identity(getattr(port, "netns", None))

    def split(self, running):
        """Return the file's part of `running`, and what is to be kept of the rest."""
        there = names(running.parts())
        # one that was deleted may come again otherwise
        self._names = {section: own & self._names.get(section, set()) for section, own in there.items()}
        file, rest = {}, {}
        for section, own in self._names.items():
            items = getattr(running, section)
            file[section] = [item for item in items if item.name in own]
            rest[section] = [item for item in items if item.name not in own]
        ports = [port for port in rest.pop("port") if port.owner != vhost_program.OWNER]
        self._processes = {
            name: found for name, found in self._processes.items() if found and name in there["port"]
        }
        kept = Kept(ports, {section: own for section, own in rest.items() if own}, self._processes)
        return running.model_copy(update=file), kept
