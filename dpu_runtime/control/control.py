"""What runs, and how it becomes something else: all of it or nothing.

In:   configurations; a `Device` that does the work. Out: `running`, which is what the device has.
Not:  how requests come in (api.py), the process around it (daemon.py).
"""

import asyncio
import logging

from pydantic import ValidationError

from dpu_runtime.config.errors import ApplyError, ConfigError, DataPlaneError
from dpu_runtime.config.file import problems
from dpu_runtime.config.models import Config
from dpu_runtime.config.references import cleared, missing, renamed, standing
from dpu_runtime.control import plan
from dpu_runtime.control.origin import Origin
from dpu_runtime.control.words import by_section, enumeration, how_many, in_numbers
from dpu_runtime.drivers.port import PortError

log = logging.getLogger("dpu.control")

REFUSALS = (PortError, DataPlaneError, OSError)  # what a device says no with; all else is a bug


class _StoppedError(Exception):
    """The daemon is to stop in the middle of a change."""


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
            came = []
            for port in kept.ports:
                if why := await self._bring_back(port, kept.gone(port)):
                    _dropped("port", port.name, why)
                else:
                    came.append(port)
            parts = {**self.running.parts(), **self._to_come(kept, came)}
            asked, there = how_many(config.parts()), how_many(parts)
            await self._move(_fitting(parts))
            self._keeping = True
            self._save()
            if there != asked:
                more = {key: number - asked[key] for key, number in there.items()}
                log.info("%s made at run time are back", in_numbers(more, self.running.SECTIONS))

    async def _bring_back(self, port, gone):
        """Make a port again, closed until `_move` has set what names it; returns why it cannot come.

        What the port names may come later: it is made without.
        """
        if gone:
            return gone
        if any(other.name == port.name for other in self.running.port):
            return "the configuration file has a port of this name now"
        try:
            parts = self.running.parts()
            parts["port"] = [*self.running.port, port]
            bare = cleared(port, plan.names(parts))
            target = _fitting({**parts, "port": [*self.running.port, bare]})
            self._origin.note(port)
            await self.device.add_port(bare)
        except (ConfigError, *REFUSALS) as error:
            return str(error)
        self.running = target
        return None

    def _to_come(self, kept, ports):
        """{section: items} of what runs and of what can be brought back; a line says what cannot.

        ports  that came back, with all that they name

        Where the file has taken a name that was only made up, another is made up.
        """
        config, parts, renames = self.running, {}, {}
        there = {"port": {port.name for port in config.port}}
        for function in config.FUNCTIONS:
            running = config.items(function)
            there |= {key: {item.name for item in own} for key, own in running.items()}
            free = plan.beside(config, {key: kept.of(key) for key in running}, running, renames)
            come = standing(free, there)
            for key, own in running.items():
                stay = {item.name for item in free[key]}
                for item in kept.of(key):
                    if item.name not in stay and (key, item.name) not in renames:
                        _dropped(key, item.name, f"the configuration file has a {key} of this name now")
                for item in free[key]:
                    if lost := missing(item, there):
                        _dropped(key, item.name, "it names " + enumeration(by_section(lost)))
                parts[key] = [*own, *come[key]]
        again = {port.name: renamed(port, renames) for port in ports}
        parts["port"] = [again.get(port.name, port) for port in config.port]
        return plan.cleared_parts(parts, there)

    async def adopt(self, config, kept):
        """Take over a running data plane; `config` and `kept` were saved last. Returns what runs now.

        The control process may have died between a step and its saving, so the ports are the
        device's own, all items are set once more, and what names a port that is gone goes too.
        """
        self._origin.of_file(config)
        self._origin.processes(kept.processes)
        ports = self.device.port_configs()
        there, parts, renames = {"port": {port.name for port in ports}}, {}, {}
        for function in config.FUNCTIONS:
            own = config.items(function)
            came = plan.beside(config, {key: kept.of(key) for key in own}, own, renames)
            parts |= standing({key: [*items, *came[key]] for key, items in own.items()}, there)
        whole = plan.cleared_parts({**parts, "port": ports}, there)
        self.running = config.model_copy(update={**whole, "port": ports})
        for function in config.FUNCTIONS:
            if function.sections or function.settings:
                items, settings = self.running.items(function), self.running.settings(function)
                await self.device.set_section(function.name, items, settings)
        await self._move(self.running.model_copy(update=whole))
        return self.running

    async def apply(self, wanted, dry_run=False):
        """Make `wanted`, a file, run; returns the changes in lines. Raises ConfigError, ApplyError.

        Keys of [runtime] that `wanted` does not name stay as they run, and so do ports with an owner.
        """
        async with self._lock:
            fixed = plan.fixed_changes(self.running.runtime, wanted.runtime)
            if fixed:
                raise ConfigError(fixed)
            changing = {key: getattr(wanted.runtime, key) for key in wanted.runtime.CHANGING}
            parts = plan.beside_owned(self.running, wanted)
            parts["runtime"] = self.running.runtime.model_copy(update=changing)
            return await self._apply(parts, wanted, dry_run)

    async def add_port(self, port):
        """Add a port. Raises ConfigError when its name is taken, ApplyError when the device refuses."""
        async with self._lock:
            await self._reap()  # one that is gone does not keep its name
            self._origin.note(port)
            await self._edit(port=[*self.running.port, port], new=f"port[{len(self.running.port)}].")

    async def del_port(self, name):
        """Delete a port. Raises ApplyError when there is none, or something names it."""
        await self.del_item("port", name)

    async def add_item(self, section, item):
        """Add an item to a section; returns its name, made up if it had none. Raises as `add_port` does."""
        async with self._lock:
            there = getattr(self.running, section)
            await self._edit(new=f"{section}[{len(there)}].", **{section: [*there, item]})
            return getattr(self.running, section)[-1].name

    async def del_item(self, section, name):
        """Delete an item. Raises ApplyError when there is none, or something names it."""
        async with self._lock:
            gone = self._one(section, name)
            if others := plan.named_by(self.running, section, name):
                raise ApplyError(f"{section} {name!r} is named by {others}")
            await self._edit(
                **{section: [item for item in getattr(self.running, section) if item is not gone]}
            )

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
            old = self._one("port", name)
            if old.kind != "tap":
                raise ApplyError(f"port {name!r} is of kind {old.kind}, only a tap port can be relocated")
            if self._origin.from_file(name):
                raise ApplyError(f"port {name!r} is in the configuration file, which says where it is")
            try:
                new = type(old).model_validate(old.model_dump(exclude_unset=True) | place)
            except ValidationError as error:
                raise ConfigError(problems(error, type(old))) from None
            ports = [new if port is old else port for port in self.running.port]
            target = _fitting({**self.running.parts(), "port": ports})
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

    async def stop(self):
        """Have a change that is under way end at its next step, refuse further ones, take everything down."""
        self._stopping = True
        self.device.give_up()
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
        gone = []
        for section in before.SECTIONS:
            there = {item.name for item in getattr(self.running, section.key)}
            if names := [item.name for item in getattr(before, section.key) if item.name not in there]:
                gone.append(f"{section.words} {', '.join(names)}")
        along = f"; with {enumeration(gone)}" if gone else ""
        for port in ports:
            owner = f" of {port.owner}" if port.owner else ""
            log.info("port %s%s is detached: %s%s", port.name, owner, why, along)

    def _one(self, section, name):
        """The port or item of that name. Raises ApplyError when there is none."""
        there = {item.name: item for item in getattr(self.running, section)}
        if name not in there:
            raise ApplyError(f"no {section} {name!r}, there are: {', '.join(there) or 'none'}")
        return there[name]

    async def _edit(self, new="", **lists):
        """Change one list; `new` is the place of an added item, whose keys the caller knows without it."""
        try:
            await self._apply({**self.running.parts(), **lists})
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
        except _StoppedError:
            self.running = before  # what a later daemon is to know of: nothing was changed
            raise ApplyError("the daemon is stopping; nothing was changed") from None
        except Exception as error:
            reason = _reason(error)
            try:
                await self._move(before)
            except _StoppedError:
                self.running = before
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
        """Walk the steps to `target`; wherever it ends, `running` is what the device has.

        Raises _StoppedError between two steps, then all is taken down anyway.
        """
        while steps := plan.diff(self.running, target):
            for step in steps:
                if isinstance(step, plan.DelPort):
                    self.device.close_port(step.port.name)
            for step in steps:
                if self._stopping:
                    raise _StoppedError
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


def _fitting(parts):
    """Make a configuration of models. Raises ConfigError when they do not fit each other."""
    try:
        return Config.of_models(**parts)
    except ValidationError as error:
        raise ConfigError(problems(error, Config)) from None


def _dropped(section, name, why):
    log.warning("%s %s, made at run time, is dropped: %s", section, name, why)


def _reason(error):
    """Say why a step failed; a bug gets its trace into the log, and is rolled back like a refusal."""
    if isinstance(error, REFUSALS):
        return str(error)
    log.error("a step failed", exc_info=error)
    return f"internal error: {error!r}"
