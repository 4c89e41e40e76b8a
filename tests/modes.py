"""In which stage of scripts/test a test runs, by marker.

three_modes      kernels, tables and rings in memory: compiled, with the compiler off, and with bounds checked
in_memory        needs neither device nor daemon nor the clock: compiled, in the same stage
daemons          of a folder of DAEMONS, and none of these: compiled, in a stage of its own
none of them     drivers on devices, benches: compiled, in a stage of its own
one_mode("why")  not in three modes, though it lies in a folder of tests that are
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("tests/kernels", "tests/functions")  # their conftest.py calls mark_three_modes
DAEMONS = ("tests/live", "tests/dpu_runtime", "tests/functions", "tests/examples", "tests/clients")
STRAYS = "not three_modes and not root and not one_mode"


def mark_three_modes(item):
    """Mark a collected test, unless it needs devices or says why not."""
    if item.get_closest_marker("root"):
        return
    mark = item.get_closest_marker("one_mode")
    if mark is None:
        item.add_marker("three_modes")
    elif not mark.args or not str(mark.args[0]).strip():
        raise pytest.UsageError(f'{item.nodeid}: one_mode("why it does not run in three modes")')


def mark_daemons(item):
    """Mark a collected test of one of the folders of DAEMONS."""
    path = item.path.relative_to(ROOT).as_posix() if item.path.is_relative_to(ROOT) else ""
    if path.startswith(tuple(f"{folder}/" for folder in DAEMONS)):
        item.add_marker("daemons")


def collected(expression, folders=FOLDERS, root=ROOT):
    """Names of the tests in `folders` that `expression` chooses. Raises ValueError with pytest's words."""
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", f"--rootdir={root}"]
    command += ["-p", "no:cacheprovider", "--collect-only", "-q", "-m", expression, *folders]
    done = subprocess.run(map(str, command), cwd=root, capture_output=True, text=True, check=False)
    if done.returncode not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise ValueError(done.stdout + done.stderr)
    return [line for line in done.stdout.splitlines() if "::" in line]
