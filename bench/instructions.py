"""Instructions a packet of each kernel in memory, counted by callgrind: the same in every run.

    python -m bench.instructions             compare with bench/instructions.json; exit status 1: they differ
    python -m bench.instructions --update    write it

Compiled for one CPU whatever the machine has (x86-64-v3; valgrind knows no AVX-512), with a machine code
cache of its own; addresses, hashes and clocks that others choose are fixed. What is
counted is in bench/instruction_cases.py.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

from bench.committed import Row, table
from bench.results import ROOT, environment
from dpu_runtime.kernels.compile.cache import cache_base

COMMITTED = ROOT / "bench" / "instructions.json"
# The ABI's level x86-64-v3, as LLVM spells it, with the instructions that kernels ask for by name.
CPU = {
    "NUMBA_CPU_NAME": "x86-64-v3",
    "NUMBA_CPU_FEATURES": "+64bit,+avx,+avx2,+bmi,+bmi2,+cmov,+crc32,+cx16,+cx8,+f16c,+fma,+fxsr,+lzcnt,+mmx"
    ",+movbe,+pclmul,+popcnt,+sahf,+sse,+sse2,+sse3,+sse4.1,+sse4.2,+ssse3,+xsave",
}
FIXED = {"PYTHONHASHSEED": "0"}
VALGRIND = ("valgrind", "--tool=callgrind", "--instr-atstart=no", "--quiet")
TOLERANCE = 0.02  # of a count: what other library versions may do to memcpy
SECONDS_MAX = 240


def measure(names=()):
    """Instructions a packet by name, of `names` or of all. Raises RuntimeError with what was printed."""
    cache = cache_base() / "instructions"
    environ = os.environ | CPU | FIXED | {"DPU_CACHE_DIR": str(cache)}
    with tempfile.TemporaryDirectory(prefix="dpu-bench-") as folder:
        inner = [sys.executable, "-m", "bench.instruction_cases", folder, *names]
        outer = [*VALGRIND, f"--callgrind-out-file={folder}/part"]
        for argv in (inner, [*outer, *inner]):  # the first one compiles
            done = subprocess.run(
                ["setarch", "--addr-no-randomize", *argv],
                cwd=ROOT,
                env=environ,
                capture_output=True,
                text=True,
                check=False,
                timeout=SECONDS_MAX,
            )
            if done.returncode:
                raise RuntimeError(f"{' '.join(argv)}:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def judge(committed, now):
    """Rows of the counts that are `committed`: more than TOLERANCE above fails, below is said."""
    rows = []
    for name, before in committed.items():
        count_now = now.get(name)
        if count_now is None:
            word = "missing"
        elif count_now > before * (1 + TOLERANCE):
            word = "more"
        else:
            word = "ok, fewer: --update" if count_now < before * (1 - TOLERANCE) else "ok"
        rows.append(Row(name, before, count_now, word))
    return rows


def main():
    """Count and compare, or write what is to be committed; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a figure; default: all")
    parser.add_argument("--update", action="store_true", help="write bench/instructions.json")
    given = parser.parse_args()
    now = measure(given.names)
    if given.update:
        packages = environment()["packages"]
        COMMITTED.write_text(json.dumps({**packages, **CPU, "instructions": now}, indent=1) + "\n")
        print(f"written: {COMMITTED.relative_to(ROOT)}")
        return 0
    committed = json.loads(COMMITTED.read_text())["instructions"]
    if given.names:
        committed = {name: committed[name] for name in committed if name in given.names}
    rows = judge(committed, now)
    print(f"instructions a packet; up to {TOLERANCE:.0%} more is the same")
    print(table({"": rows}))
    return 1 if any(row.failed for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
