"""Arrays of a function in private memory, as its region has them in shared memory."""

from types import SimpleNamespace

import numpy as np

from dpu_runtime.declarations import arrays
from dpu_runtime.kernels.layout import PER_WORKER, PORT_DTYPE, PORTS_MAX


def region(function, workers=2):
    """All arrays of a Function by name, zeroed."""
    made = {
        name: np.zeros([workers if n == PER_WORKER else n for n in shape], dtype)
        for name, dtype, shape in arrays(function)
    }
    made["drops"] = np.zeros((workers, max(1, len(function.drops))), np.uint64)
    made["stages"] = np.zeros((workers, max(1, len(function.stages)), 2), np.uint64)
    return SimpleNamespace(**made)


def book(made, function, workers=2, notes=None):
    """A book of class `made` over a region of its own."""
    return made(function, region(function, workers), np.zeros(PORTS_MAX, PORT_DTYPE), workers, notes)


def row():
    """A port's row for a book to write into."""
    return np.zeros(1, PORT_DTYPE)[0]
