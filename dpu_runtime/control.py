"""What runs, and how it becomes something else: all of it or nothing.

In:   configurations; a `Device` that does the work. Out: `running`, which is what the device has.
Not:  how requests come in (api.py), the process around it (daemon.py).
"""

import asyncio
import logging
from typing import Protocol

from pydantic import ValidationError

from dpu_runtime import plan
from dpu_runtime.config import Config, PortConfig
from dpu_runtime.config_file import problems
from dpu_runtime.config_rule import RuleConfig
from dpu_runtime.errors import ApplyError, ConfigError
from dpu_runtime.supervisor import DataPlaneError
from drivers.port import PortError

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
        self._lock = asyncio.Lock()
        self._stopping = False

    async def adopt(self, config):
        """Take over a running data plane; `config` is what was saved last. Returns what runs now.

        The control process may have died between a step and its saving, so the ports are the
        device's own, the rules are set once more, and what names a port that is gone goes too.
        """
        ports = self.device.port_configs()
        names = {None, *(port.name for port in ports)}
        rules = [rule for rule in config.rule if {rule.in_port, rule.out_port} <= names]
        runtime = config.runtime
        await self.device.set_rules(rules, runtime.default_ingress, runtime.default_egress)
        self.running = config.model_copy(update={"port": ports, "rule": rules})
        whole = [p if _xconnect(p) in names else p.model_copy(update={"xconnect": None}) for p in ports]
        await self._move(self.running.model_copy(update={"port": whole}))
        return self.running

    async def apply(self, wanted, dry_run=False):
        """Make `wanted` run; returns the changes in lines. Raises ConfigError, ApplyError.

        Keys of [runtime] that `wanted` does not name stay as they run.
        """
        async with self._lock:
            fixed = plan.fixed_changes(self.running.runtime, wanted.runtime)
            if fixed:
                raise ConfigError(fixed)
            defaults = {key: getattr(wanted.runtime, key) for key in plan.STAGE_DEFAULTS}
            runtime = self.running.runtime.model_copy(update=defaults)
            return await self._apply({"runtime": runtime, "port": wanted.port, "rule": wanted.rule}, dry_run)

    async def add_port(self, port):
        """Add a port. Raises ConfigError when its name is taken, ApplyError when the device refuses."""
        async with self._lock:
            await self._edit(port=[*self.running.port, port], new=f"port[{len(self.running.port)}].")

    async def del_port(self, name):
        """Delete a port. Raises ApplyError when there is none, or a rule or another port names it."""
        async with self._lock:
            self._named("port", name)
            rules = [r.name for r in self.running.rule if name in (r.in_port, r.out_port)]
            if rules:
                raise ApplyError(f"port {name!r} is named by rule {', '.join(rules)}")
            ports = [p.name for p in self.running.port if p.name != name == _xconnect(p)]
            if ports:
                raise ApplyError(f"port {name!r} is named by xconnect of port {', '.join(ports)}")
            await self._edit(port=[port for port in self.running.port if port.name != name])

    async def detach(self, name=None, owner=None):
        """Delete the port `name`, or all ports of `owner`, with all that names them; returns their names."""
        async with self._lock:
            names = [
                p.name
                for p in self.running.port
                if name == p.name or (owner is not None and owner == p.owner)
            ]
            if names:
                await self._apply(plan.without_ports(self.running, set(names)))
            return names

    async def relocate(self, name, place):
        """Change where a tap port's interface is: {netns, ifname, address, route}, after it was moved.

        Raises ConfigError for a bad place, ApplyError when the interface is not there.
        """
        async with self._lock:
            self._named("port", name)
            old = next(port for port in self.running.port if port.name == name)
            if old.kind != "tap":
                raise ApplyError(
                    f"port {name!r} is of kind {old.kind}; only a tap port has an interface to move"
                )
            new = _validated(type(old), old.model_dump(exclude_unset=True) | place)
            ports = [new if port is old else port for port in self.running.port]
            target = _validated(Config, {**_parts(self.running), "port": ports})
            if self._stopping:
                raise ApplyError("the daemon is stopping")
            try:
                await self.device.relocate_port(old, new)
            except REFUSALS as error:
                raise ApplyError(f"{error}; nothing was changed") from error
            self.running = target
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

    async def _apply(self, parts, dry_run=False):
        target = _validated(Config, parts)
        lines = plan.summary(self.running, target)
        if not dry_run:
            await self._change(target)
            for line in lines:
                log.info("%s", line)
        return lines

    async def _change(self, target):
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
        try:
            self._state.save(self.running)
        except OSError as error:
            log.error(
                "%s: %s; a later adoption would not know of this change", error.filename, error.strerror
            )


def _parts(config):
    """What a configuration is made of, to be changed and validated anew."""
    return {"runtime": config.runtime, "port": config.port, "rule": config.rule}


def _validated(model, data):
    """Make a model. Raises ConfigError."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(problems(error, model)) from None


def _xconnect(port):
    """Name of the port that `port` is cross-connected to, None if it is not or cannot be."""
    return getattr(port, "xconnect", None)


def _reason(error):
    """Say why a step failed; a bug gets its trace into the log, and is rolled back like a refusal."""
    if isinstance(error, REFUSALS):
        return str(error)
    log.error("a step failed", exc_info=error)
    return f"internal error: {error!r}"
