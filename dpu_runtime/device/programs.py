"""Which stages are on, and having the data plane run them: a program for each port and hook.

In:   what functions declare (`active`), their items and settings, the ports there are.
Out:  the request set_programs: the whole state each time, ports of one program together.
Not:  the machine code behind a name; the data plane has that.

A stage runs only on tables that are there for it: what is switched on comes behind its tables, what is
switched off goes before them.
"""

import contextlib

from dpu_runtime.config.errors import DataPlaneError
from dpu_runtime.config.sections import settings_of
from dpu_runtime.function import HOOKS
from dpu_runtime.registry import load, order


async def _nothing():
    """No table changes."""


class Programs:
    """Programs of all ports.

    request  coroutine function (message) of the supervisor
    have     coroutine function (names): have machine code of stages and tasks, or raise DataPlaneError
    runtime  RuntimeConfig, what settings are in the beginning
    """

    def __init__(self, functions, request, have, runtime):
        self._to_come = False  # the data plane that is to run them is not there yet
        self._request = request
        self._have = have
        self._functions = {function.name: function for function in functions}
        owners = {stage.name: function.name for function in functions for stage in function.stages}
        self._order = {
            hook: [(stage.name, owners[stage.name]) for stage in stages]
            for hook, stages in order(functions).items()
        }
        self._is_on = {}
        for function in functions:
            items = {section: [] for section in function.sections}
            self._is_on[function.name] = self._active(function.name, items, settings_of(function, runtime))
        self._tasked = {one.name for one in functions if not one.stages}  # a task that was on stays on
        self._ports = {}  # index -> configuration
        self._there = {}  # (hook, index) -> names of stages; None: an earlier control process knew
        self._awaited = set()  # functions whose items are not known yet

    def adopted(self, ports, to_come=False):
        """The data plane runs already, with `ports`, {index: configuration}.

        Its programs stay until the items of all functions are set that have some; with `to_come`, until it is
        replaced by another: that one is told by `renew`.
        """
        self._to_come = to_come
        self._ports, self._there = dict(ports), None
        self._awaited = {name for name, one in self._functions.items() if one.sections or one.settings}

    async def function(self, name, items, settings, tables, undo):
        """A function gets other items or settings: `tables` puts them in force, `undo` those before.

        Both are coroutine functions. All of it is done, or nothing and the error is raised.
        """
        before = self._is_on[name]
        self._is_on[name] = self._active(name, items, settings)
        try:
            self._awaited.discard(name)
            await self._through(tables, undo)
        except BaseException:
            self._is_on[name] = before
            raise

    async def port(self, index, config, tables=_nothing, undo=_nothing):
        """A port comes, changes, or goes: then `config` is None. As `function`."""
        before = self._ports.pop(index, None)
        if config is not None:
            self._ports[index] = config
        try:
            await self._through(tables, undo)
        except BaseException:
            if config is not None:  # one that goes is gone all the same
                self._ports.pop(index)
                self._ports |= {} if before is None else {index: before}
            raise

    async def make_ready_for(self, config):
        """Have the machine code that a port needs, before anything is done for it. Raises DataPlaneError."""
        if not self._awaited:
            await self._have(self._entries(self._wanted({0: config}, self._is_on)))

    async def renew(self, process):
        """Tell a data-plane process that is fresh."""
        self._to_come = False
        if self._there is not None:
            await process.request(self._message(self._there))

    def expected(self, config):
        """Names of the stages and tasks that a configuration switches on."""
        is_on = {
            name: self._active(name, config.items(one), config.settings(one))
            for name, one in self._functions.items()
        }
        return self._entries(self._wanted(dict(enumerate(config.port)), is_on))

    def _active(self, name, items, settings):
        active = self._functions[name].active
        if isinstance(active, str):
            active = load(active)
        if active is None:
            return lambda _stage, _port: True
        try:
            is_on = active(items, settings)
        except Exception as error:
            text = f"function {name}: `active` fails: {type(error).__name__}: {error}"
            raise DataPlaneError(text) from error
        if not callable(is_on):
            text = f"function {name}: `active` returns {is_on!r}"
            raise DataPlaneError(f"{text}; allowed: a function of a stage's name and a port")
        return is_on

    def _wanted(self, ports, is_on):
        programs = {}
        for index, config in ports.items():
            for hook, stages in self._order.items():
                names = tuple(name for name, owner in stages if is_on[owner](name, config))
                if names:
                    programs[hook, index] = names
        return programs

    async def _through(self, tables, undo):
        """Switch off what is not wanted, have the tables written, switch on what is."""
        if self._awaited:
            await tables()
            return
        had, wanted = self._there, self._wanted(self._ports, self._is_on)
        await self._have(self._entries(wanted))  # before the first table changes
        if had is not None:
            await self._send(_both(had, wanted))
        try:
            await tables()
        except BaseException:
            await self._back(had)
            raise
        try:
            await self._send(wanted)
        except BaseException:
            await undo()
            await self._back(had)
            raise

    async def _back(self, had):
        if had is not None:
            with contextlib.suppress(DataPlaneError):
                await self._send(had)

    async def _send(self, programs):
        if programs == self._there:
            return
        if not self._to_come:
            await self._request(self._message(programs))
        self._there = programs

    def _message(self, programs):
        ports = {}  # (hook, names) -> indices
        for (hook, index), names in programs.items():
            ports.setdefault((hook, names), []).append(index)
        for hook, names in ports:
            self._tasked |= {owner for name, owner in self._order[hook] if name in names}
        tasks = [task.name for name in self._functions if name in self._tasked for task in self._tasks(name)]
        by_hook = sorted(ports.items(), key=lambda one: (HOOKS.index(one[0][0]), one[0][1]))
        return {
            "do": "set_programs",
            "programs": [
                {"hook": hook, "stages": list(names), "ports": sorted(indices)}
                for (hook, names), indices in by_hook
            ],
            "tasks": tasks,
        }

    def _entries(self, programs):
        """Names of the stages of programs, and of the tasks that go with them."""
        stages = {stage for names in programs.values() for stage in names}
        owners = {owner for own in self._order.values() for name, owner in own if name in stages}
        return stages | {task.name for name in self._tasked | owners for task in self._tasks(name)}

    def _tasks(self, name):
        return self._functions[name].tasks


def _both(had, wanted):
    """What of `had` is wanted still."""
    left = {key: tuple(name for name in names if name in wanted.get(key, ())) for key, names in had.items()}
    return {key: names for key, names in left.items() if names}
