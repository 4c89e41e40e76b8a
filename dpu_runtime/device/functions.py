"""What functions do in a device: their books, their programs, their hooks at interfaces, what they punt.

In:   items and settings of a function; ports that come, change and go.
"""

import functools

from dpu_runtime.config.sections import settings_of
from dpu_runtime.device.books import Books
from dpu_runtime.device.programs import Programs
from dpu_runtime.plane.punts import Punts
from dpu_runtime.registry import functions, load


class Functions:
    """All functions there are, for the configuration `runtime`.

    request   coroutine function (message) of the supervisor
    have      its coroutine function (names), which has machine code made
    in_place  keys of ports that are functions', which all change under traffic
    """

    def __init__(self, request, have, runtime):
        self._runtime = runtime
        self._all = functions()
        self.books = self._punts = None
        self.programs = Programs(self._all, request, have, runtime)
        self.in_place = set().union(*(one.port.model_fields for one in self._all if one.port))
        self._hooks = {load(one.wire): one.port.model_fields for one in self._all if one.wire}

    def map(self, shared, workers, notes):
        """Make books over the shared memory; `notes` is what they said to an earlier control process."""
        self.books = Books(self._all, lambda function: shared.of(function.name), shared.ports, workers, notes)
        handlers = {number: load(one.punted) for number, one in enumerate(self._all) if one.punted}
        self._punts = Punts(shared, workers, handlers)

    async def serve(self):
        """Give functions the packets that they punted, for ever; ends at once when none wants any."""
        await self._punts.run()

    def begin(self):
        """Put the settings in force, without items; no worker runs yet."""
        for function in self._all:
            items = {section: [] for section in function.sections}
            self.books.publish(function.name, items, settings_of(function, self._runtime), {})

    async def set_section(self, name, items, settings, ports, pass_epoch):
        """Put items and settings of a function in force. Raises PortError or DataPlaneError, nothing changed.

        ports       {name: index}
        pass_epoch  coroutine function: wait until every worker has seen what was written

        Returns what books note of it, {function: JSON data or None}.
        """
        before, done = self.books.in_force(name), []

        async def put(items, settings):
            done.extend(self.books.publish(name, items, settings, ports))
            await pass_epoch()

        async def undo():
            if before is not None:
                await put(*before)

        await self.programs.function(name, items, settings, functools.partial(put, items, settings), undo)
        notes = self.books.notes()
        return {function: notes.get(function) for function in done}

    def hooks(self, keys=None):
        """What functions do at an interface that the device makes, those that one of `keys` is about."""
        return [hook for hook, own in self._hooks.items() if keys is None or keys & own.keys()]
