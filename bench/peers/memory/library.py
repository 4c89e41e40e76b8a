"""DPDK and ISA-L in this process: the C files beside this one, compiled with this machine's instructions.

DPDK runs without huge pages, devices or files of its own, on the CPU that the process may use first.
"""

import contextlib
import functools
import os
import re
import subprocess
import tempfile
from pathlib import Path

import cffi
import numpy as np

FOLDER = Path(__file__).resolve().parent
PACKAGES = ("libdpdk", "libisal")  # of pkg-config
FLAGS = ("-O3", "-std=gnu11", "-march=native", "-DALLOW_EXPERIMENTAL_API", "-shared", "-fPIC", "-w")
MEGABYTES = 1024  # that DPDK may take, of ordinary pages
KINDS = {"uint8": "uint8_t", "uint32": "uint32_t", "uint64": "uint64_t"}


def _flags(kind):
    command = ["pkg-config", kind, *PACKAGES]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def _declarations():
    """memory.h as cffi reads it: without what is for the preprocessor."""
    return re.sub(r"^#.*$", "", (FOLDER / "memory.h").read_text(), flags=re.MULTILINE)


@functools.cache
def library():
    """(ffi, functions of memory.h), compiled and with DPDK started at the first call."""
    ffi = cffi.FFI()
    ffi.cdef(_declarations())
    may = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory(prefix="dpu-bench-") as folder:
        built = Path(folder, "memory.so")
        sources = sorted(FOLDER.glob("*.c"))
        command = ["gcc", *_flags("--cflags"), *FLAGS, "-o", built, *sources, *_flags("--libs")]
        subprocess.run(command, check=True)
        lib = ffi.dlopen(str(built))
        os.environ["RUNTIME_DIRECTORY"] = folder  # where DPDK makes its folder
        started = lib.eal_start(str(min(may)).encode(), str(MEGABYTES).encode())
        del os.environ["RUNTIME_DIRECTORY"]
    os.sched_setaffinity(0, may)  # it has pinned this thread
    if started < 0:
        raise RuntimeError("DPDK's rte_eal_init failed; what it says is above")
    return ffi, lib


def pointer(array, kind=None):
    """A numpy array for a C function; it lives as long as what is returned. `kind`: of a structured one."""
    ffi, _ = library()
    return ffi.from_buffer(f"{kind or KINDS[array.dtype.name]}[]", array)


@contextlib.contextmanager
def made(new, free, *args):
    """What a C function makes of `args`, as long as the block lasts; RuntimeError when that is nothing."""
    _, lib = library()
    thing = getattr(lib, new)(*args)
    if not thing:
        raise RuntimeError(f"DPDK: {new} failed")
    try:
        yield thing
    finally:
        getattr(lib, free)(thing)


def frames(packets):
    """DPDK's buffers filled with `packets`, a list of bytes; a context."""
    sizes = np.array([len(packet) for packet in packets], np.uint32)
    starts = (np.cumsum(sizes) - sizes).astype(np.uint32)
    data = np.frombuffer(b"".join(packets), np.uint8)
    return made("frames_new", "frames_free", pointer(data), pointer(starts), pointer(sizes), len(packets))
