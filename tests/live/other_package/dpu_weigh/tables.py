"""The arrays of weigh."""

from dpu_runtime.kernels.layout import PORTS_MAX

SCALES_MAX = 16
LAYOUT = {
    "heavy": ("u8", (PORTS_MAX,)),  # octets
    "scale": ("u8", (PORTS_MAX,)),  # a row of `weighed`
    "report": ("u8", (PORTS_MAX,)),  # 1: heavy packets are punted
}
