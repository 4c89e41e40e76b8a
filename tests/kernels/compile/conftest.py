"""A package with kernels, written for a test, and programs that import it beside a cache of their own."""

import os
import subprocess
import sys

import pytest

from tests.conventions import ROOT

SOURCES = {
    "constants": "STEP = 1\n",
    "low": """
        from dpu_runtime.kernels.compile.jit import helper, kernel
        @helper
        def add(x):
            return x + 1
        @kernel
        def alone(x):
            return x * 2
    """,
    "high": """
        from dpu_runtime.kernels.compile.jit import kernel
        from planted.constants import STEP
        from planted.low import add
        @kernel
        def run(x):
            return add(x) * STEP
    """,
    "other": """
        from dpu_runtime.kernels.compile.jit import kernel
        @kernel
        def run(x):
            return x - 1
    """,
}
ALL = "from planted import low, high, other\nprint(low.alone(3), high.run(3), other.run(3))"


class Planted:
    """A package with kernels, and a cache of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.cache = folder / "cache"
        for name, text in SOURCES.items():
            self.write(name, text)

    def write(self, name, text):
        (self.folder / "planted").mkdir(exist_ok=True)
        lines = text.splitlines()
        (self.folder / "planted" / f"{name}.py").write_text(
            "\n".join(line.removeprefix(" " * 8) for line in lines)
        )

    def start(self, program, **env):
        python_path = os.pathsep.join([str(self.folder), str(ROOT)])
        ours = {name: value for name, value in os.environ.items() if name != "NUMBA_BOUNDSCHECK"}
        given = ours | {"DPU_CACHE_DIR": str(self.cache), "PYTHONPATH": python_path} | env
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-c", program], env=given, **pipes)

    def run(self, program=ALL, **env):
        """(what a program prints, names of the functions that it compiled)."""
        before = self.entries()
        process = self.start(program, **env)
        out, err = process.communicate()
        assert process.returncode == 0, err
        new = sorted(
            f"{path.parent.name.split('-')[0]}.{path.name.split('-')[0]}" for path in self.entries() - before
        )
        return out.split(), [name.removeprefix("planted.") for name in new]

    def entries(self):
        return set(self.cache.glob("*/*.nbc"))


@pytest.fixture
def planted(tmp_path):
    return Planted(tmp_path)
