"""A function for tests of the frame's services: DESIGN's emit, hold, task, punt and a row of its own."""

from collections import namedtuple

import numpy as np

from dpu_runtime.function import EGRESS, INGRESS, Function, Private, Stage, Tables, Task
from dpu_runtime.kernels.burst import HOLD_MAX

KERNELS = "tests.functions.services.kernels"
Held = namedtuple("Held", ["places", "ports", "due"])


def new_held():
    """What a worker holds: places, egress ports and when they are due."""
    return Held(*(np.zeros(HOLD_MAX, np.uint64) for _ in Held._fields))


FUNCTION = Function(
    name="services",
    summary="use every service of the frame",
    tables=Tables({"settings": ("u8", (8,))}),
    private=Private("tests.functions.services.function:new_held"),
    drops=("services_no_room", "services_hold_full", "services_given_up", "services_punt_full"),
    stages=(
        Stage("services_reply", INGRESS, f"{KERNELS}:reply"),
        Stage("services_copy_in", INGRESS, f"{KERNELS}:copy"),
        Stage("services_tell", INGRESS, f"{KERNELS}:tell"),
        Stage("services_stamp", EGRESS, f"{KERNELS}:stamp"),
        Stage("services_copy_out", EGRESS, f"{KERNELS}:copy"),
        Stage("services_delay", EGRESS, f"{KERNELS}:delay", reads=("clock",)),
    ),
    tasks=(Task("services_let_go", f"{KERNELS}:let_go", every_ms=10),),
)
