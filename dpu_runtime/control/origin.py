"""Who made what runs: the configuration file, or somebody at run time.

A name that the last configuration file has is the file's; all other ports and rules were made at run time, by
`port.add` and `rule.add`, and are kept in the state directory until they are deleted. A port of
`dpu vhost-user` is not: that program makes it again.
Not:  the file they are kept in, state.py; ports with an owner among them, plan.py.
"""

from dataclasses import dataclass, field

from dpu_runtime.config.models import PortConfig
from dpu_runtime.drivers.linux.netns import process_identity
from dpu_runtime.functions.acl.config import RuleConfig
from dpu_runtime.programs import vhost_program


@dataclass
class Kept:
    """Ports and rules that were made at run time.

    processes  port name -> process_identity of drivers/linux/netns.py, of ports in the namespace of a process
    refused    why entries of the state directory's file are not among them
    """

    ports: list[PortConfig] = field(default_factory=list)
    rules: list[RuleConfig] = field(default_factory=list)
    processes: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    def gone(self, port):
        """Why the port cannot be made again, None if nothing is known against it."""
        process = self.processes.get(port.name)
        if process and process != process_identity(port.netns):
            return f"the process of netns {port.netns!r} is gone"
        return None


class Origin:
    """Which ports and rules of the running configuration are the file's."""

    def __init__(self):
        self._ports = set()
        self._rules = set()
        self._processes = {}

    def of_file(self, config):
        """Take what `config` names for the file's, all else for made at run time."""
        self._ports = {port.name for port in config.port}
        self._rules = {rule.name for rule in config.rule}

    def from_file(self, name):
        """Whether the port `name` is the file's."""
        return name in self._ports

    def processes(self, identities):
        """Take over what an earlier daemon noted by `note`."""
        self._processes = dict(identities)

    def note(self, port):
        """Remember which process the namespace of a port belongs to, before the port is made."""
        self._processes[port.name] = process_identity(getattr(port, "netns", None))

    def split(self, running):
        """Return the file's part of `running`, and what is to be kept of the rest."""
        names = {port.name for port in running.port}
        self._ports &= names  # one that was deleted may come again otherwise
        self._rules &= {rule.name for rule in running.rule}
        kept = Kept(
            [p for p in running.port if p.name not in self._ports and p.owner != vhost_program.OWNER],
            [r for r in running.rule if r.name not in self._rules],
        )
        self._processes = {name: found for name, found in self._processes.items() if found and name in names}
        kept.processes = self._processes
        ports = [port for port in running.port if port.name in self._ports]
        rules = [rule for rule in running.rule if rule.name in self._rules]
        return running.model_copy(update={"port": ports, "rule": rules}), kept
