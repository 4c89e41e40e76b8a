"""The compiled loop of bench/programs.py: a port's program over a burst, and a stage that does nothing."""

import numpy as np

from dpu_runtime.function import INGRESS as AT_INGRESS
from dpu_runtime.function import Function, Stage
from dpu_runtime.kernels.burst import INGRESS, Word
from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.layout import BATCH_SIZE
from dpu_runtime.kernels.octets.memory import cycles
from dpu_runtime.plane.egress import run_program


@kernel
def nothing(burst, state, port, count):
    """A stage that leaves all packets as they are."""
    return count


def idle_functions(count):
    """Functions with a stage that does nothing."""
    return tuple(
        Function(f"idle{n}", stages=(Stage(f"idle{n}", AT_INGRESS, "bench.program_loops:nothing"),))
        for n in range(count)
    )


@kernel
def program_loop(w, burst, bursts):
    """Run the ingress program of port 0 over full bursts; returns (packets left of the last, cycles)."""
    left = np.int64(0)
    burst.words[Word.HALF] = w.frame.programs_version[0] & np.uint64(1)  # as the pipeline does
    began = cycles()
    for _ in range(bursts):
        left = run_program(burst, w.frame, INGRESS, 0, np.int64(BATCH_SIZE))
    return left, cycles() - began
