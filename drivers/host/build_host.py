"""Compile libdpu into `dpu_runtime.drivers.host._libdpu`, for Python: cffi in API mode.

    python -m dpu_runtime.drivers.host.build_host

Source: cffi documentation, "Main mode of usage". The declarations are those of dpu.h, between its two
marks, so that there is one place for them. The extension holds the library itself; it needs no libdpu.so.
Not:    anything when the extension is newer than its sources.
"""

import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

import cffi

HOST = Path(__file__).resolve().parent
ROOT = HOST.parent.parent
MODULE = "dpu_runtime.drivers.host._libdpu"
EXTENSION = HOST / f"_libdpu{sysconfig.get_config_var('EXT_SUFFIX')}"
BEGIN, END = "/* cffi: begin */", "/* cffi: end */"


def declarations():
    """Text of dpu.h that cffi reads."""
    return (HOST / "dpu.h").read_text().split(BEGIN)[1].split(END)[0]


def is_current():
    """Whether the extension is there and newer than what it is made of."""
    made_of = [*HOST.glob("*.[ch]"), Path(__file__)]
    return EXTENSION.exists() and EXTENSION.stat().st_mtime > max(path.stat().st_mtime for path in made_of)


def build(target=EXTENSION, compile_args=("-O3",), link_args=()):
    """Compile to the file `target`. Raises cffi.VerificationError with the compiler's exit."""
    ffi = cffi.FFI()
    ffi.cdef(declarations())
    ffi.set_source(
        MODULE,
        '#include "dpu.h"',
        sources=[str(path) for path in sorted(HOST.glob("*.c"))],
        include_dirs=[str(HOST)],
        extra_compile_args=["-std=gnu11", *compile_args],
        extra_link_args=["-pthread", *link_args],
    )
    with tempfile.TemporaryDirectory(prefix="libdpu-") as folder:
        made = ffi.compile(tmpdir=folder)
        fresh = Path(f"{target}.new")
        shutil.copy(made, fresh)
        fresh.replace(target)  # a process that has the old one mapped keeps it


def main():
    """Build what is missing or old; say what was done."""
    if shutil.which("gcc") is None and shutil.which("cc") is None:
        print("libdpu: no C compiler; dpu_runtime.host needs gcc", file=sys.stderr)
        return 1
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        print(f"libdpu: {header} is missing; Debian has it in python3.11-dev", file=sys.stderr)
        return 1
    if not is_current():
        build()
        print(f"libdpu: made {EXTENSION.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
