"""C programs of the benches, compiled where they run."""

import contextlib
import subprocess
import tempfile
from pathlib import Path


@contextlib.contextmanager
def compiled(name, sources, flags=("-O2", "-pthread")):
    """Path of a program called `name`, compiled of the C files `sources`, as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="dpu-bench-") as folder:
        program = Path(folder, name)
        subprocess.run(["gcc", "-std=gnu11", *flags, "-o", program, *sources], check=True)
        yield program
