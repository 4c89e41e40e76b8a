"""Entries side by side: each compiled once, a bad one leaves the others, a killed process a cache to use."""

import json
import multiprocessing

import pytest

from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.compile.parallel import Job, compile_all
from tests.live.daemon import alive, wait_until

SOURCE = """
        from numba import float64, int64
        from dpu_runtime.kernels.compile.jit import callback, helper, kernel
        from dpu_runtime.kernels.compile.parallel import Job, compile_all

        @helper
        def low(x):
            return x + 1
        @kernel
        def one(x):
            return low(x) * 2
        @kernel
        def two(x):
            return low(x) - 1
        @kernel
        def wrong(x):
            return x.missing
        @callback("int64(int64)")
        def three(x):
            return low(x)

        one_job, two_job = Job("one", one, (int64,)), Job("two", two, (int64,))
        jobs = [one_job, two_job, Job("three", three), Job("one of floats", one, (float64,))]
        bad = Job("wrong", wrong, (int64,))
"""
ENTRIES = ["entries.one", "entries.one", "entries.three", "entries.two"]
PROGRAM = """
import json
from planted import entries
said = []
errors = entries.compile_all({jobs}, lambda *line: said.append(line))
print(json.dumps([said, errors]))
"""
LINES = [[1, 4, "one"], [2, 4, "two"], [3, 4, "three"], [4, 4, "one of floats"]]
# The process that compiles `two` ends itself, as by somebody else, or as LLVM does.
DYING = """
import os, signal
import numba.core.event as event
from planted import entries
class Killer(event.Listener):
    def on_start(self, started):
        if started.data["dispatcher"].__name__ == "two":
            os.kill(os.getpid(), signal.{signal})
    def on_end(self, ended):
        pass
event.register("numba:compile", Killer())
"""

pytestmark = pytest.mark.compiled


@pytest.fixture
def entries(planted):
    """Run a program beside the entries: `entries("entries.jobs")` is (lines said, errors, names compiled)."""
    planted.write("entries", SOURCE)

    def run(jobs, before="", **env):
        out, compiled = planted.run(before + PROGRAM.format(jobs=jobs), **env)
        said, errors = json.loads(" ".join(out))
        return said, errors, compiled

    return run


def test_each_is_compiled_once_and_not_again_at_the_next_start(entries):
    assert entries("entries.jobs") == (LINES, {}, ENTRIES)
    assert entries("entries.jobs") == ([], {}, [])
    assert entries("[]") == ([], {}, [])


def test_only_what_is_missing_is_compiled(entries):
    assert entries("[entries.two_job]") == ([[1, 1, "two"]], {}, ["entries.two"])
    said, errors, compiled = entries("entries.jobs")
    assert [line[1:] for line in said] == [[3, "one"], [3, "three"], [3, "one of floats"]]
    assert (errors, len(compiled)) == ({}, 3)


def test_one_that_does_not_compile_leaves_the_others(entries):
    said, errors, compiled = entries("[entries.bad, *entries.jobs]")
    assert len(said) == 5 and compiled == ENTRIES
    assert list(errors) == ["wrong"]
    assert errors["wrong"].startswith("TypingError: ") and "missing" in errors["wrong"]
    assert "planted/entries.py" in errors["wrong"] and "line 1" in errors["wrong"]
    said, errors, compiled = entries("[*entries.jobs, entries.bad]")
    assert (said, list(errors), compiled) == ([[1, 1, "wrong"]], ["wrong"], [])


@pytest.mark.parametrize("cpus", [1, 2])
def test_one_whose_process_is_killed_is_left_to_its_user(entries, planted, cpus):
    before = DYING.format(signal="SIGKILL") + f"os.sched_getaffinity = lambda pid: set(range({cpus}))\n"
    said, errors, compiled = entries("entries.jobs", before)
    assert (said, errors) == (LINES, {})
    assert compiled == [name for name in ENTRIES if name != "entries.two"]
    assert planted.run("from planted.entries import two\nprint(two(3))") == (["3"], ["entries.two"])


def test_one_that_ends_the_compiler_is_an_error(entries):
    _, errors, compiled = entries("entries.jobs", DYING.format(signal="SIGSEGV"))
    assert errors == {"two": "the compiler ended by SIGSEGV"}
    assert compiled == [name for name in ENTRIES if name != "entries.two"]


PARENT = """
import os, signal
import numba.core.event as event
from planted import entries
class Stopper(event.Listener):
    def on_start(self, started):
        if started.data["dispatcher"].__name__ == "one":
            print(os.getpid(), flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
    def on_end(self, ended):
        pass
event.register("numba:compile", Stopper())
entries.compile_all(entries.jobs)
"""


def test_the_processes_end_with_the_one_that_started_them(entries, planted):
    process = planted.start(PARENT)
    child = int(process.stdout.readline())
    assert child != process.pid and alive(child)
    process.kill()
    process.communicate()
    assert wait_until(lambda: not alive(child))


def test_an_exception_of_the_caller_leaves_no_process():
    from numba import int64

    def interrupt(number, total, name):
        if number == 2:
            raise KeyboardInterrupt

    @kernel
    def function(x):
        return x

    jobs = [Job(str(n), function, (int64,) * n) for n in (1, 2)]
    with pytest.raises(KeyboardInterrupt):
        compile_all(jobs, interrupt)
    assert multiprocessing.active_children() == []
