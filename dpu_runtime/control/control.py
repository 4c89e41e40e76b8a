"""What runs, and how it becomes something else: all of it or nothing.

In:   configurations; a `Device` that does the work. Out: `running`, which is what the device has.
Not:  how requests come in (api.py), the process around it (daemon.py).
"""

import asyncio
import logging
from typing import Protocol

from pydantic import ValidationError

from dpu_runtime.config.errors import ApplyError, ConfigError, DataPlaneError
from dpu_runtime.config.file import problems
from dpu_runtime.config.models import Config, PortConfig
from dpu_runtime.control import plan
from dpu_runtime.control.origin import Origin
from dpu_runtime.drivers.port import PortError
from dpu_runtime.functions.acl.config import RuleConfig

log = logging.getLogger("dpu.control")

REFUSALS = (PortError, DataPlaneError, OSError)  # what a device says no with; all else is a bug


class Device(Protocol):
    """What does the work: ports, rules and the data plane. One call at a time."""

    async def start(self) -> None:
        """Bring up the data plane, or adopt one that runs."""

    async def stop(self) -> None:
        """Take everything down."""

    async def add_port(self, port: PortConfig) -> None:
        """Make a port, closed to packets; raises PortError with nothing changed."""

    def open_ports(self) -> None:
        """Let packets through to every port: the rules that name them are set."""

    def close_port(self, name: str) -> None:
        """Let no packet through to a port any more: its rules are about to go."""

    async def del_port(self, name: str) -> None:
        """Take a port down."""

    async def update_port(self, old: PortConfig, new: PortConfig) -> bool:
        """Change a port in place, or return False: it must go and come again."""

    def lost_ports(self) -> list[str]:
        """Names of the ports whose interface the device made and somebody else took away."""

    async def relocate_port(self, old: PortConfig, new: PortConfig) -> None:
        """Take `new` as the place of the interface; raises PortError when it is elsewhere."""

    async def set_rules(self, rules: list[RuleConfig], default_ingress: str, default_egress: str) -> None:
        """Replace all rules at once, without losing a packet."""

    def port_configs(self) -> list[PortConfig]:
        """Return the ports there are."""

    def port_info(self, name: str) -> dict:
        """Return what a port got: offloads, queues, and why not more."""

    def stats(self) -> dict:
        """Return the counters, as `dpu stats -j` prints them."""

    async def profile(self, seconds: float) -> dict:
        """Return where the workers' time went, after `seconds`. Raises ApplyError."""

    def rule_hits(self) -> dict[str, tuple[int, int]]:
        """Return (packets, octets) by rule name."""

    def status(self) -> dict:
        """Return the data plane's process, workers, versions, start, and whether it was adopted."""

    async def healthy(self) -> bool:
        """Whether the data plane moves packets."""


class Control:
    """The running configuration and the only way to change it."""

    def __init__(self, device, state, runtime):
        self.device = device
        self.running = Config(runtime=runtime)
        self._state = state
        self._origin = Origin()
        self._lock = asyncio.Lock()
        self._keeping = True  # what is made at run time
        self._stopping = False

    async def start(self, config, kept):
        """Make `config` run, then bring back what was made at run time; a line says what cannot come."""
        self._keeping = False  # the state directory has all of it, until all of it was tried
        await self.apply(config)
        async with self._lock:
            for port in kept.ports:
                if why := await self._bring_back(port, kept.gone(port)):
                    log.warning("port %s, made at run time, is dropped: %s", port.name, why)
            rules = [*self.running.rule, *self._rules_to_come(kept.rules)]
            came = len(self.running.port) - len(config.port), len(rules) - len(config.rule)
            await self._move(_fitting({**_parts(self.running), "rule": rules}))
            self._keeping = True
            self._save()
            if any(came):
                log.info("%d ports and %d rules made at run time are back", *came)

    async def _bring_back(self, port, gone):
        """Make a port again, closed until `_move` has set the rules; returns why it cannot come."""
        if gone:
            return gone
        if any(other.name == port.name for other in self.running.port):
            return "the configuration file has a port of this name now"
        try:
            target = _fitting({**_parts(self.running), "port": [*self.running.port, port]})
            self._origin.note(port)
            await self.device.add_port(port)
        except (ConfigError, *REFUSALS) as error:
            return str(error)
        self.running = target
        return None

    def _rules_to_come(self, rules):
        """Those of `rules` whose ports are there, named anew where the file has taken a made-up name."""
        names = {None, *(port.name for port in self.running.port)}
        for rule in rules:
            if missing := {rule.in_port, rule.out_port} - names:
                why = f"it names port {', '.join(missing)}"
                log.warning("rule %s, made at run time, is dropped: %s", rule.name, why)
            elif beside := plan.beside([rule], self.running.rule):
                yield beside[0]
            else:
                why = "the configuration file has a rule of this name now"
                log.warning("rule %s, made at run time, is dropped: %s", rule.name, why)

    async def adopt(self, config, kept):
        """Take over a running data plane; `config` and `kept` were saved last. Returns what runs now.

        The control process may have died between a step and its saving, so the ports are the
        device's own, the rules are set once more, and what names a port that is gone goes too.
        """
        self._origin.of_file(config)
        self._origin.processes(kept.processes)
        ports = self.device.port_configs()
        names = {None, *(port.name for port in ports)}
        rules = [*config.rule, *plan.beside(kept.rules, config.rule)]
        rules = [rule for rule in rules if {rule.in_port, rule.out_port} <= names]
        runtime = config.runtime
        await self.device.set_rules(rules, runtime.default_ingress, runtime.default_egress)
        self.running = config.model_copy(update={"port": ports, "rule": rules})
        whole = [p if plan.xconnect(p) in names else p.model_copy(update={"xconnect": None}) for p in ports]
        await self._move(self.running.model_copy(update={"port": whole}))
        return self.running

    async def apply(self, wanted, dry_run=False):
        """Make `wanted`, a file, run; returns the changes in lines. Raises ConfigError, ApplyError.

        Keys of [runtime] that `wanted` does not name stay as they run, and so do ports with an owner.
        """
        async with self._lock:
            fixed = plan.fixed_changes(self.running.runtime, wanted.runtime)
            if fixed:
                raise ConfigError(fixed)
            defaults = {key: getattr(wanted.runtime, key) for key in plan.STAGE_DEFAULTS}
            parts = plan.beside_owned(self.running, wanted)
            parts["runtime"] = self.running.runtime.model_copy(update=defaults)
            return await self._apply(parts, wanted, dry_run)

    async def add_port(self, port):
        """Add a port. Raises ConfigError when its name is taken, ApplyError when the device refuses."""
        async with self._lock:
            await self._reap()  # one that is gone does not keep its name
            self._origin.note(port)
            await self._edit(port=[*self.running.port, port], new=f"port[{len(self.running.port)}].")

    async def del_port(self, name):
        """Delete a port. Raises ApplyError when there is none, or a rule or another port names it."""
        async with self._lock:
            self._named("port", name)
            rules = [r.name for r in self.running.rule if name in (r.in_port, r.out_port)]
            if rules:
                raise ApplyError(f"port {name!r} is named by rule {', '.join(rules)}")
            ports = [p.name for p in self.running.port if p.name != name == plan.xconnect(p)]
            if ports:
                raise ApplyError(f"port {name!r} is named by xconnect of port {', '.join(ports)}")
            await self._edit(port=[port for port in self.running.port if port.name != name])

    async def detach(self, name=None, owner=None):
        """Delete the port `name`, or all ports of `owner`, with all that names them; returns their names."""
        async with self._lock:
            ports = [p for p in self.running.port if (p.name == name if owner is None else p.owner == owner)]
            await self._detach(ports, "asked to")
            return [port.name for port in ports]

    async def reap(self):
        """Delete the ports with an owner whose interface is gone, and all that names them."""
        async with self._lock:
            await self._reap()

    async def relocate(self, name, place):
        """Change where a tap port's interface is: {netns, ifname, address, route}, after it was moved.

        Raises ConfigError for a bad place, ApplyError when the interface is not there.
        """
        async with self._lock:
            self._named("port", name)
            old = next(port for port in self.running.port if port.name == name)
            if old.kind != "tap":
                raise ApplyError(f"port {name!r} is of kind {old.kind}, only a tap port can be relocated")
            if self._origin.from_file(name):
                raise ApplyError(f"port {name!r} is in the configuration file, which says where it is")
            try:
                new = type(old).model_validate(old.model_dump(exclude_unset=True) | place)
            except ValidationError as error:
                raise ConfigError(problems(error, type(old))) from None
            ports = [new if port is old else port for port in self.running.port]
            target = _fitting({**_parts(self.running), "port": ports})
            if self._stopping:
                raise ApplyError("the daemon is stopping")
            try:
                await self.device.relocate_port(old, new)
            except REFUSALS as error:
                raise ApplyError(f"{error}; nothing was changed") from error
            self.running = target
            self._origin.note(new)
            self._save()
            log.info(
                "port %s: its interface is %s in netns %s now", name, new.ifname, new.netns or "of the host"
            )

    async def add_rule(self, rule):
        """Add a rule; returns its name, made up if it had none."""
        async with self._lock:
            await self._edit(rule=[*self.running.rule, rule], new=f"rule[{len(self.running.rule)}].")
            return self.running.rule[-1].name

    async def del_rule(self, name):
        """Delete a rule. Raises ApplyError when there is none."""
        async with self._lock:
            self._named("rule", name)
            await self._edit(rule=[rule for rule in self.running.rule if rule.name != name])

    async def stop(self):
        """Wait for a change that is under way, refuse further ones, take everything down."""
        self._stopping = True
        async with self._lock:
            await self.device.stop()
            self._state.clear()

    async def _reap(self):
        lost = set(self.device.lost_ports())
        if lost:
            ports = [port for port in self.running.port if port.owner and port.name in lost]
            await self._detach(ports, "its interface is gone")

    async def _detach(self, ports, why):
        if not ports:
            return
        before = self.running
        await self._change(_fitting(plan.without_ports(before, {port.name for port in ports})))
        there = {rule.name for rule in self.running.rule}
        rules = ", ".join(rule.name for rule in before.rule if rule.name not in there)
        for port in ports:
            owner = f" of {port.owner}" if port.owner else ""
            log.info("port %s%s is detached: %s%s", port.name, owner, why, rules and f"; with rules {rules}")

    def _named(self, noun, name):
        there = [item.name for item in getattr(self.running, noun)]
        if name not in there:
            raise ApplyError(f"no {noun} {name!r}, there are: {', '.join(there) or 'none'}")

    async def _edit(self, new="", **lists):
        """Change one list; `new` is the place of an added item, whose keys the caller knows without it."""
        try:
            await self._apply({**_parts(self.running), **lists})
        except ConfigError as error:
            for problem in error.problems:
                problem.key = problem.key.removeprefix(new)
            raise ConfigError(error.problems) from None

    async def _apply(self, parts, file=None, dry_run=False):
        """Make `parts` run; `file` is the configuration file that asks for it, if one does."""
        target = _fitting(parts)
        lines = plan.summary(self.running, target)
        if not dry_run:
            await self._change(target, file)
            for line in lines:
                log.info("%s", line)
        return lines

    async def _change(self, target, file=None):
        if self._stopping:
            raise ApplyError("the daemon is stopping")
        before = self.running
        try:
            await self._move(target)
        except Exception as error:
            reason = _reason(error)
            try:
                await self._move(before)
            except Exception as second:
                text = f"{reason}; rolling back failed too: {_reason(second)}; `dpu save -` shows what runs"
                raise ApplyError(text, rolled_back=False) from error
            raise ApplyError(f"{reason}; nothing was changed") from error
        else:
            if file is not None:
                self._origin.of_file(file)
        finally:
            if self.running is not before:
                self._save()

    async def _move(self, target):
        """Walk the steps to `target`; wherever it ends, `running` is what the device has."""
        while steps := plan.diff(self.running, target):
            for step in steps:
                if isinstance(step, plan.DelPort):
                    self.device.close_port(step.port.name)
            for step in steps:
                if await step.do(self.device):
                    self.running = step.applied(self.running)
                    continue
                self.device.close_port(step.old.name)
                for other in step.instead(self.running):
                    await other.do(self.device)
                    self.running = other.applied(self.running)
                break
        self.device.open_ports()
        self.running = target

    def _save(self):
        file, kept = self._origin.split(self.running)
        try:
            self._state.save(file)
            if self._keeping:
                self._state.keep(kept)
        except OSError as error:
            log.error("%s: %s; a later daemon would not know of this change", error.filename, error.strerror)


def _parts(config):
    """What a configuration is made of, to be changed and validated anew."""
    return {"runtime": config.runtime, "port": config.port, "rule": config.rule}


def _fitting(parts):
    """Make a configuration of models. Raises ConfigError when they do not fit each other."""
    try:
        return Config.of_models(**parts)
    except ValidationError as error:
        raise ConfigError(problems(error, Config)) from None


def _reason(error):
    """Say why a step failed; a bug gets its trace into the log, and is rolled back like a refusal."""
    if isinstance(error, REFUSALS):
        return str(error)
    log.error("a step failed", exc_info=error)
    return f"internal error: {error!r}"
