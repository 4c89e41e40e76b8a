"""Put `dpu-cni` where a container runtime looks for plugins.

    python -m dpu_runtime.engines.cni.install FOLDER

Out: a program for this interpreter and this copy of the package. It runs without `site` (-S), a third of a
     start of Python, and with nothing of the runtime's PYTHON* variables (-I).
"""

import os
import sys
from pathlib import Path

_PROGRAM = """#!{python} -IS
import gc
import sys

gc.disable()  # it ends before there is anything to collect
sys.path.insert(0, {root!r})
from dpu_runtime.engines.cni.main import program

program()
"""


def install(folder):
    """Write the program to a folder, which is made; returns its path. One that is there is replaced."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    new, path = folder / ".dpu-cni.new", folder / "dpu-cni"
    new.write_text(_PROGRAM.format(python=sys.executable, root=str(Path(__file__).resolve().parents[3])))
    new.chmod(0o755)
    os.replace(new, path)
    return path


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m dpu_runtime.engines.cni.install FOLDER")
    print(install(sys.argv[1]))
