"""Programs: which stages run at a port and hook, as a worker calls them.

In:   the names of the stages that are on.
Out:  words of `programs`, plane/frame.py, switched at a burst boundary.
Not:  which are on, and in which order; the control process says that.
"""

from collections import namedtuple

import numpy as np

from dpu_runtime.declarations import DROP_REASONS_MAX
from dpu_runtime.function import EGRESS, HOOKS
from dpu_runtime.kernels.burst import MADE, WANTS
from dpu_runtime.kernels.compile.entry import entry_address, lent_address, types_of
from dpu_runtime.kernels.compile.mode import PYTHON_MODE
from dpu_runtime.kernels.compile.parallel import Job
from dpu_runtime.kernels.compile.reference import Lent
from dpu_runtime.kernels.drops import DROP_REASON_COUNT
from dpu_runtime.kernels.stage import State, stage_form
from dpu_runtime.plane.frame import PROGRAM_WORDS, STAGE_AT, STAGE_WORDS, STAGES_MAX, TASKS_MAX
from dpu_runtime.registry import load

NS_PER_MS = 1_000_000


def _tuple_of(name, values):
    """A namedtuple of `values`; by its name compiled code is found again in another process."""
    return namedtuple(name, values)(**values) if values else ()


def first_drops(functions):
    """{function: number of its first drop reason}, behind the frame's own."""
    numbers, number = {}, DROP_REASON_COUNT
    for function in functions:
        numbers[function.name] = number
        number += len(function.drops)
    assert number <= DROP_REASONS_MAX, number
    return numbers


class Stages:
    """The stages of all functions, as one worker has them: machine code and states.

    shared     the shared memory   number  of the worker
    burst      its Burst, lent     functions  those there are
    """

    def __init__(self, shared, number, burst, functions):
        self._shared = shared
        self._number = number
        self._burst = burst
        self._functions = {stage.name: function for function in functions for stage in function.stages}
        self._stages = {stage.name: stage for function in functions for stage in function.stages}
        self._tasks = {task.name: (function, task) for function in functions for task in function.tasks}
        self._first_drops = first_drops(functions)
        self._numbers = {function.name: number for number, function in enumerate(functions)}
        self._states = {}  # (function name, hook or None) -> Lent
        self._places = {}  # stage name -> words of a program

    def jobs(self, wanted):
        """What is to be compiled: stages and tasks that are wanted, and those on disk already.

        Returns ([Job], {name: text of the error} of those that are wanted and cannot even be imported).
        """
        jobs, failed = [], {}
        for name in (*self._stages, *self._tasks):
            try:
                job = Job(name, self._entry(name), stage_types(self._burst, self.state(name)))
                if name in wanted or job.is_done():
                    jobs.append(job)
            except (Exception, SystemExit) as error:  # other people's code, or none at all
                failed |= {name: f"{type(error).__name__}: {error}"} if name in wanted else {}
        return jobs, failed

    def load(self, names):
        """Load or compile these stages and tasks; returns {name: text of the error} of those that fail."""
        failed = {}
        for name in names:
            try:
                (self.task if name in self._tasks else self.place)(name)
            except Exception as error:  # of the compiler, or of another form
                failed[name] = f"{type(error).__name__}: {error}"
        return failed

    def place(self, name):
        """Words of a program for a stage, the addresses of machine code, state and counters; and its WANTS_*.

        Raises what the compiler does.
        """
        if name not in self._places:
            stage, function = self._stages[name], self._functions[name]
            state = self.state(name)
            counters = self._shared.of(function.name).stages[self._number]
            row = counters[function.stages.index(stage)]
            wanted = sum(WANTS[word] for word in stage.reads)
            self._places[name] = (
                (stage_address(self._entry(name), self._burst, state), lent_address(state), row.ctypes.data),
                wanted,
            )
        return self._places[name]

    def is_for_made(self, name):
        """Whether packets that functions made pass the stage."""
        return self._stages[name].made

    def task(self, name):
        """Words of `tasks` for the task `name`."""
        state, (_, task) = self.state(name), self._tasks[name]
        return (
            stage_address(self._entry(name), self._burst, state),
            lent_address(state),
            task.every_ms * NS_PER_MS,
        )

    def _entry(self, name):
        one = self._tasks[name][1] if name in self._tasks else self._stages[name]
        return load(one.entry)

    def state(self, name):
        """State of a stage or task, lent."""
        if name in self._tasks:
            return self._state(self._tasks[name][0], None)
        return self._state(self._functions[name], self._stages[name].hook)

    def _state(self, function, hook):
        own = any(part and hook in part.each for part in (function.tables, function.private))
        key = function.name, hook if own else None
        if key not in self._states:
            self._states[key] = Lent(self._make_state(function, hook))
        return self._states[key]

    def _make_state(self, function, hook):
        arrays = self._shared.of(function.name)
        tables, private = function.tables, function.private
        prefix = f"{hook}_" if tables and hook in tables.each else ""
        named = {name: getattr(arrays, prefix + name) for name in tables.layout} if tables else {}
        counters = {name: getattr(arrays, name)[self._number] for name in function.counters}
        return State(
            tables=_tuple_of(f"Tables_{function.name}", named),
            private=load(private.new)() if private else (),
            counters=_tuple_of(f"Counters_{function.name}", counters),
            drops=arrays.drops[self._number],
            first_drop=self._first_drops[function.name],
            number=self._numbers[function.name],
        )


def stage_types(burst, state):
    """numba's types of a stage's arguments for a burst and a state, both lent."""
    return () if PYTHON_MODE else stage_form(*types_of(burst, state))[0]


def stage_address(entry, burst, state):
    """Address of the machine code of a stage for a burst and a state, both lent."""
    form = ((), None) if PYTHON_MODE else stage_form(*types_of(burst, state))
    return entry_address(entry, *form)


class Programs:
    """The programs of one worker; `frame` is its Frame."""

    def __init__(self, frame, stages):
        self._frame = frame
        self._stages = stages

    def set(self, programs, tasks=()):
        """Replace all programs: [{"hook": ..., "stages": [...], "ports": [...]}]; others are empty.

        tasks  names of those that run
        The worker takes them at its next burst. Raises with nothing changed.
        """
        assert len(tasks) <= TASKS_MAX, tasks
        words = [self._stages.task(name) for name in tasks]
        rows = [(HOOKS.index(one["hook"]), one["ports"], self._row(one["stages"])) for one in programs]
        rows += [
            (MADE, one["ports"], self._row(filter(self._stages.is_for_made, one["stages"])))
            for one in programs
            if one["hook"] == EGRESS
        ]
        version = int(self._frame.programs_version[0]) + 1
        half = self._frame.programs[version & 1]
        half[:] = 0
        for number, ports, row in rows:
            half[ports, number] = row
        half = self._frame.tasks[version & 1]
        half[:] = 0
        for k, task in enumerate(words):
            half[k, : len(task)] = task
        self._frame.tasks_due[1 : 1 + TASKS_MAX] = 0
        self._frame.tasks_due[0] = len(tasks)
        self._frame.programs_version[0] = version

    def _row(self, names):
        names = list(names)
        assert len(names) <= STAGES_MAX, names
        row = np.zeros(PROGRAM_WORDS, np.uint64)
        row[0] = len(names)
        for k, name in enumerate(names):
            words, wanted = self._stages.place(name)
            row[1] |= np.uint64(wanted)
            row[STAGE_AT + k * STAGE_WORDS : STAGE_AT + (k + 1) * STAGE_WORDS] = words
        return row
