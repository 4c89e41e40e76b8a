"""What runs, and how it becomes something else: all of it or nothing.

In:   configurations; a `Device` that does the work. Out: `running`, which is what the device has.
Not:  how requests come in (api.py), the process around it (daemon.py).
"""

import asyncio
import logging
import time

from pydantic import ValidationError

from dpu_runtime.config.errors import ApplyError, ConfigError
from dpu_runtime.config.file import problems
from dpu_runtime.config.models import Config
from dpu_runtime.config.references import standing
from dpu_runtime.control import comeback, plan
from dpu_runtime.control.interface import REFUSALS
from dpu_runtime.control.origin import Applied, Origin
from dpu_runtime.control.words import enumeration

log = logging.getLogger("dpu.control")

RETRY_S = 5.0  # between attempts to write what could not be written


class _StoppedError(Exception):
    """The daemon is to stop in the middle of a change."""


class Control:
    """The running configuration and the only way to change it.

    file      digest of the daemon's own configuration file, as it was read last, None without
    not_kept  why a later daemon would not know of what runs, None if it would
    """

    def __init__(self, device, state, runtime, file=None):
        self.device = device
        self.running = Config(runtime=runtime)
        self.origin = Origin()
        self.not_kept = None
        self._file = file
        self._state = state
        self._lock = asyncio.Lock()
        self._starting = False  # the state directory has more than runs
        self._stopping = False
        self._retry_at = 0.0

    async def start(self, config, kept, applied=None):
        """Make `config`, the file's, run, or what was applied; then bring back what was made at run time.

        A line says what cannot come. With `applied`, `config` has settings only.
        """
        self._starting = True
        if applied is None:
            await self.apply(config)
            self._save()
        async with self._lock:
            await comeback.bring_back(self, kept, applied)
            self._starting = False
            self._save()

    async def adopt(self, config, kept, applied=None):
        """Take over a running data plane; all arguments were saved last. Returns what runs now.

        The control process may have died between a step and its saving, so the ports are the
        device's own, all items are set once more, and what names a port that is gone goes too.
        """
        self.origin.of_file(config, applied)
        self.origin.processes(kept.processes)
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
        await self.move(self.running.model_copy(update=whole))
        return self.running

    async def apply(self, wanted, dry_run=False, own=None):
        """Make `wanted`, a file, run; returns the changes in lines. Raises ConfigError, ApplyError.

        own  digest of `wanted`, if that is what the daemon's own file says now

        Keys of [runtime] that `wanted` does not name stay as they run, and so do ports with an owner.
        """
        async with self._lock:
            fixed = plan.fixed_changes(self.running.runtime, wanted.runtime)
            if fixed:
                raise ConfigError(fixed)
            changing = {key: getattr(wanted.runtime, key) for key in wanted.runtime.CHANGING}
            parts = plan.beside_owned(self.running, wanted)
            parts["runtime"] = self.running.runtime.model_copy(update=changing)
            return await self._apply(parts, wanted, dry_run, own)

    async def add_port(self, port):
        """Add a port. Raises ConfigError when its name is taken, ApplyError when the device refuses."""
        async with self._lock:
            await self._reap()  # one that is gone does not keep its name
            self.origin.note(port)
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
        """Delete the ports with an owner whose interface is gone, and all that names them.

        Also tries again to write what could not be written.
        """
        async with self._lock:
            await self._reap()
            if self.not_kept and time.monotonic() >= self._retry_at:
                self._save()

    async def relocate(self, name, place):
        """Change where a tap port's interface is: {netns, ifname, address, route}, after it was moved.

        Raises ConfigError for a bad place, ApplyError when the interface is not there.
        """
        async with self._lock:
            old = self._one("port", name)
            if old.kind != "tap":
                raise ApplyError(f"port {name!r} is of kind {old.kind}, only a tap port can be relocated")
            if self.origin.from_file(name):
                raise ApplyError(f"port {name!r} is in the configuration file, which says where it is")
            try:
                new = type(old).model_validate(old.model_dump(exclude_unset=True) | place)
            except ValidationError as error:
                raise ConfigError(problems(error, type(old))) from None
            ports = [new if port is old else port for port in self.running.port]
            target = plan.fitting({**self.running.parts(), "port": ports})
            if self._stopping:
                raise ApplyError("the daemon is stopping")
            try:
                await self.device.relocate_port(old, new)
            except REFUSALS as error:
                raise ApplyError(f"{error}; nothing was changed") from error
            self.running = target
            self.origin.note(new)
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
        await self._change(plan.fitting(plan.without_ports(before, {port.name for port in ports})))
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

    async def _apply(self, parts, file=None, dry_run=False, own=None):
        """Make `parts` run; `file` is the file that asks for it, if one does; `own` as of `apply`."""
        target = plan.fitting(parts)
        lines = plan.summary(self.running, target)
        if not dry_run:
            await self._change(target, file, own)
            for line in lines:
                log.info("%s", line)
        return lines

    async def _change(self, target, file=None, own=None):
        if self._stopping:
            raise ApplyError("the daemon is stopping")
        before = self.running
        try:
            await self.move(target)
        except _StoppedError:
            self.running = before  # what a later daemon is to know of: nothing was changed
            raise ApplyError("the daemon is stopping; nothing was changed") from None
        except Exception as error:
            reason = _reason(error)
            try:
                await self.move(before)
            except _StoppedError:
                self.running = before
            except Exception as second:
                text = f"{reason}; rolling back failed too: {_reason(second)}; `dpu save -` shows what runs"
                raise ApplyError(text, rolled_back=False) from error
            raise ApplyError(f"{reason}; nothing was changed") from error
        else:
            if file is not None:
                self._file = own or self._file
                self.origin.of_file(file, None if own or self._starting else Applied(self._file))
                for port in plan.changed_ports(before, target):
                    self.origin.note(port)
        finally:
            if self.running is not before and not self._starting:
                self._save()

    async def move(self, target):
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
        """Write what runs for later daemons; `not_kept` says why that could not be done."""
        file, kept = self.origin.split(self.running)
        before, self.not_kept = self.not_kept, None
        try:
            self._state.save(file, self.origin.applied)
            if not self._starting:
                self._state.keep(kept)
        except OSError as error:
            self._retry_at = time.monotonic() + RETRY_S
            self.not_kept = f"{error.filename}: {error.strerror}"
            if self.not_kept != before:
                log.error("%s; a later daemon would not know of this change", self.not_kept)
        else:
            if before:
                log.info("what runs is kept again")


def _reason(error):
    """Say why a step failed; a bug gets its trace into the log, and is rolled back like a refusal."""
    if isinstance(error, REFUSALS):
        return str(error)
    log.error("a step failed", exc_info=error)
    return f"internal error: {error!r}"
