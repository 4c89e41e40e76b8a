"""The arrays of weigh."""

from dpu_runtime.kernels.layout import PORTS_MAX

SCALES_MAX = 16
LAYOUT = {"heavy": ("u8", (PORTS_MAX,)), "scale": ("u8", (PORTS_MAX,))}  # octets; a row of `weighed`
