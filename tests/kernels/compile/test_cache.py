"""Machine code on disk: what an edit compiles, in which process; what comes of damage and of old code."""

import os
import signal
import time

import pytest

from dpu_runtime.kernels.compile.cache import CACHE_DAYS_MAX, LOCK
from tests.kernels.compile.conftest import SOURCES

pytestmark = pytest.mark.compiled

ONE = "from planted import other\nprint(other.run(3))"
STRAY = """
from importlib import util
import planted
spec = util.spec_from_file_location("stray", planted.__path__[0] + "/high.py")
stray = util.module_from_spec(spec)
spec.loader.exec_module(stray)
print(stray.run(3))
"""


def test_a_module_that_cannot_be_imported_by_its_name_is_compiled_again(planted):
    for _ in range(2):
        out, _ = planted.run(STRAY)
        assert out == ["4"]


def test_an_edit_compiles_what_depends_on_it(planted):
    assert planted.run() == (["6", "4", "2"], ["high.run", "low.alone", "other.run"])
    assert planted.run() == (["6", "4", "2"], [])
    planted.write("constants", "STEP = 10\n")
    assert planted.run() == (["6", "40", "2"], ["high.run"])
    planted.write("low", SOURCES["low"].replace("x + 1", "x + 2"))
    assert planted.run() == (["6", "50", "2"], ["high.run", "low.alone"])
    planted.write("other", SOURCES["other"].replace("x - 1", "x - 2"))
    assert planted.run() == (["6", "50", "1"], ["other.run"])
    planted.write("low", SOURCES["low"])
    planted.write("constants", SOURCES["constants"])
    assert planted.run() == (["6", "4", "1"], [])  # what was made at first is there still


def test_other_types_are_another_entry_and_another_mode_another_folder(planted):
    assert planted.run(ONE) == (["2"], ["other.run"])
    assert planted.run(ONE.replace("3", "3.5")) == (["2.5"], ["other.run"])
    assert len(list(planted.cache.iterdir())) == 1
    for n, variable in enumerate(("NUMBA_BOUNDSCHECK", "NUMBA_OPT"), 2):
        assert planted.run(ONE, **{variable: "1"}) == (["2"], ["other.run"])
        assert len(list(planted.cache.iterdir())) == n


def test_a_closure_is_compiled_for_what_it_closes_over(planted):
    factory = """
        from dpu_runtime.kernels.compile.jit import kernel
        def make(n):
            @kernel
            def times(x):
                return x * n
            return times
    """
    planted.write("factory", factory)
    program = "from planted.factory import make\nprint(make(2)(3), make(5)(3))"
    assert planted.run(program) == (["6", "15"], ["factory.make.locals.times"] * 2)
    assert planted.run(program) == (["6", "15"], [])


def test_machine_code_that_nobody_used_for_long_goes(planted):
    planted.run(ONE)
    (ours,) = planted.cache.iterdir()
    old, young = planted.cache / "old", planted.cache / "young"
    for folder, days in ((old, CACHE_DAYS_MAX + 1), (young, CACHE_DAYS_MAX - 1), (ours, CACHE_DAYS_MAX + 1)):
        folder.mkdir(exist_ok=True)
        os.utime(folder, (0, time.time() - days * 24 * 3600))
    planted.run(ONE)  # uses it, and compiles nothing
    assert time.time() - ours.stat().st_mtime < 3600
    planted.run(ONE.replace("3", "3.5"))
    assert not old.exists()
    assert young.exists() and ours.exists()


SLOW = """
        from dpu_runtime.kernels.compile.jit import helper, kernel
        @helper
        def add(x):
            return x + 1
        @kernel
        def run(x):
            for i in range(x):
                x += add(i) % (i + 1)
            return x
"""
TOGETHER = """
from planted import slow
print("ready", flush=True)
input()
slow.run(3)
print(sum(slow.run.stats.cache_hits.values()))
"""


def test_of_two_processes_at_once_one_compiles(planted):
    planted.write("slow", SLOW)
    both = [planted.start(TOGETHER) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    assert sorted(process.communicate()[0] for process in both) == ["0\n", "1\n"]


DYING = """
import os, signal
import numba.core.event as event
from planted import slow
class Killer(event.Listener):
    def on_start(self, started):
        if started.data["dispatcher"].__name__ == "add":
            os.kill(os.getpid(), signal.SIGKILL)
    def on_end(self, ended):
        pass
event.register("numba:compile", Killer())
slow.run(3)
"""


def test_one_that_is_killed_while_it_compiles_leaves_a_cache_to_use(planted):
    planted.write("slow", SLOW)
    process = planted.start(DYING)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert [path.name for path in planted.cache.glob("*/*")] == [LOCK]
    assert planted.run("from planted import slow\nslow.run(3)") == ([], ["slow.run"])


@pytest.mark.parametrize("left", [0, 100])
def test_a_file_that_was_cut_off_is_made_again(planted, left):
    planted.run(ONE)
    (entry,) = planted.entries()
    octets = entry.read_bytes()
    entry.write_bytes(octets[:left])
    assert planted.run(ONE) == (["2"], [])
    assert entry.stat().st_size == len(octets)


def test_without_a_place_for_it_machine_code_is_made_each_time(planted):
    planted.cache.write_text("a file, no folder")
    process = planted.start(ONE)
    out, err = process.communicate()
    assert (process.returncode, out) == (0, "2\n")
    assert "machine code is not kept: " in err and str(planted.cache) in err


def test_a_function_without_a_file_is_compiled_and_not_kept(planted):
    program = (
        "from dpu_runtime.kernels.compile.jit import kernel\ndef f(x): return x + 1\nprint(kernel(f)(2))"
    )
    assert planted.run(program) == (["3"], [])
