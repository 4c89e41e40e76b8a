"""How kernels run in this process: chosen by numba's own environment variables, the same for all of them.

compiled; `NUMBA_BOUNDSCHECK=1`: every index is checked; `NUMBA_DISABLE_JIT=1`: plain Python.
"""

import os


def _is_set(variable):
    return os.environ.get(variable, "0") not in ("", "0")


PYTHON_MODE = _is_set("NUMBA_DISABLE_JIT")
CHECKED_MODE = _is_set("NUMBA_BOUNDSCHECK")
MODE = "python" if PYTHON_MODE else "checked" if CHECKED_MODE else "compiled"
