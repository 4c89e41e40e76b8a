"""Which packages a wheel has: the three floors, all below dpu_runtime (pyproject.toml has the rest)."""

from setuptools import find_packages, setup

FLOORS = ("kernels", "drivers")

below = [f"dpu_runtime.{name}" for floor in FLOORS for name in find_packages(include=[floor, f"{floor}.*"])]
setup(
    packages=[*find_packages(include=["dpu_runtime", "dpu_runtime.*"]), *below],
    package_dir={f"dpu_runtime.{floor}": floor for floor in FLOORS},
    package_data={
        "dpu_runtime.drivers.host": ["*.c", "*.h", "*.in", "Makefile"],
        "": ["cli.json", "frame.json"],  # what the command line reads of functions and ports
    },
)
