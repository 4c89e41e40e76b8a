"""What LLVM made of a kernel: `make asm KERNEL=internet`, or a function's name.

In:   a module of kernels/ as `checksum.internet`, or its last word, or a function there.
Out:  build/asm/NAME.ll and .s, and a line for each function.
Not:  how to read them (docs/profiling.md); the worker loop, in which all of it is inlined once more.

Compiled as the daemon's are, by compile/jit.py, in a cache that is thrown away; a helper by itself, as a
kernel is. Arguments have the types that the worker's have of the same name.
"""

import importlib
import inspect
import os
import re
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from dpu_runtime.cli.show import table

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "asm"
NOT_KERNELS = {"__init__", "compile"}  # files and folders
# Arguments that are called otherwise than the array of the batch or of the shared memory that they are.
SAME = {
    **{"rec": "record", "m": "record", "cache": "cache_ingress", "acl": "acl_ingress", "gro": "gro_flows"},
    **{"out_headers": "segment_headers", "out_row": "row"},
    **{"out_meta": "segment_meta", "out_iov": "segment_iov", "a": "record", "b": "record", "row_a": "row"},
    **{"row_b": "row", "member_row": "row", "segment": "record", "records": "meta", "parsed": "word"},
}
# Numbers that are no counts, indices or offsets: int64 is what those are.
UNSIGNED = {
    *(
        "addr",
        "addr_a",
        "addr_b",
        "length",
        "total",
        "value",
        "old",
        "new",
        "checksum",
        "key",
        "key_hash",
        "tag",
    ),
    *(
        "state",
        "crc",
        "now",
        "now_ns",
        "ageing",
        "address",
        "src_hi",
        "src_lo",
        "dst_hi",
        "dst_lo",
        "generation",
    ),
    *("l4_len", "size"),
}
_CALL = re.compile(r"^\tcall\w*\s+(\S+)")
_NAME_TO_REGISTER = re.compile(r"^\tmovabsq\s+\$([A-Za-z_.][^,]*), (%\w+)")
_INSTRUCTION = re.compile(r"^\t[a-z]\w*(\s|$)")
# several numbers at once: the packed instructions of SSE and AVX; those that only move are not counted
_VECTOR = re.compile(r"^\tv?(p(?!ause|op|ush|refetch)\w+|\w+p[sd])\s.*%[xyz]mm")
_MOVE = re.compile(r"^\tv?(mov|pextr|pinsr|perm|pbroadcast|pxor|xorp)")
_LABEL = re.compile(r"^(\.LBB\w+):")
_JUMP = re.compile(r"^\tj\w+\s+(\.LBB\w+)$")


ALLOCATES = ("NRT required but not enabled",)  # the line of numba's long texts that says it
HEADERS = ("FUNCTION", "INSTRUCTIONS", "ON VECTORS", "INNER LOOPS", "ON VECTORS", "CALLS")


@dataclass(frozen=True)
class Made:
    """What became of one function: its LLVM code and its assembly."""

    name: str
    llvm: str
    assembly: str

    def row(self):
        """A line of the summary, as HEADERS: how long it is, its loops, and what it calls."""
        lines = self.assembly.splitlines()
        count = sum(bool(_INSTRUCTION.match(line)) for line in lines)
        vector = [bool(_VECTOR.match(line)) and not _MOVE.match(line) for line in lines]
        loops = _innermost_loops(lines)
        on_vectors = sum(any(vector[begin:end]) for begin, end in loops)
        calls = _calls(lines).items()
        called = ", ".join(name + (f" x{times}" if times > 1 else "") for name, times in calls)
        return self.name, count, sum(vector), len(loops), on_vectors, called or "nothing"


def _calls(lines):
    """Counter of what is called, in Python's words: by name, or through a register that was given a name."""
    from dpu_runtime.observe.machine_code import plain_name  # noqa: PLC0415  (compile.jit, see main)

    given, calls = {}, Counter()
    for line in lines:
        if match := _NAME_TO_REGISTER.match(line):
            given[match[2]] = match[1]
        elif match := _CALL.match(line):
            target = given.get(match[1].removeprefix("*"), "an address") if match[1][0] == "*" else match[1]
            calls[plain_name(target.partition("@")[0])] += 1
    return calls


def modules():
    """Names of the modules of kernels/."""
    paths = (path.relative_to(ROOT / "kernels").with_suffix("") for path in (ROOT / "kernels").rglob("*.py"))
    return sorted(".".join(path.parts) for path in paths if not NOT_KERNELS.intersection(path.parts))


def compiled_functions(module):
    """{name: function} of the kernels and helpers that a module defines."""
    found = vars(importlib.import_module(f"dpu_runtime.kernels.{module}")).items()
    return {
        name: value
        for name, value in found
        if hasattr(value, "py_func") and value.py_func.__module__ == f"dpu_runtime.kernels.{module}"
    }


def chosen(name):
    """[(module, function name)] that `name` means. Raises ValueError that says what there is."""
    for module in modules():
        if name in (module, module.rpartition(".")[2]):
            names = [(module, one) for one in compiled_functions(module) if not one.startswith("_")]
            if names:
                return names
    functions = [(module, function) for module in modules() for function in compiled_functions(module)]
    if found := [one for one in functions if one[1] == name]:
        return found
    with_code = dict.fromkeys(module for module, _ in functions)
    raise ValueError(
        f"KERNEL={name}: no such module or function of kernels/; modules: {', '.join(with_code)};"
        f" functions: {', '.join(sorted({function for _, function in functions if function[0] != '_'}))}"
    )


class Arguments:
    """Types of arguments by their names: of what a worker has."""

    def __init__(self):
        from dpu_runtime.kernels.compile.reference import Lent  # noqa: PLC0415
        from dpu_runtime.plane.shared import SharedState  # noqa: PLC0415  (compiled code, see main)
        from dpu_runtime.plane.worker_thread import make_batch, make_worker, shared_tables  # noqa: PLC0415

        shared = SharedState.create()
        os.close(shared.fd)  # mapped, and nobody else will
        tables, batch = shared_tables(shared), make_batch()
        worker = make_worker(shared, 0, 1, Lent(batch))
        values = {**worker._asdict(), **batch._asdict(), **tables._asdict()}
        values = {name: Lent(value) if isinstance(value, tuple) else value for name, value in values.items()}
        values |= {"row": batch.headers[0], "record": batch.meta[0], "words": shared.meters[0, 0]}
        values |= {"hits": shared.rule_hits[0], "counters": shared.switch_counters[0]}
        values |= {"drops": shared.drops[0]}
        self._values = values

    def types(self, function):
        """Types of the arguments of a kernel or helper: what has no array's name is a number."""
        from numba import typeof, types  # noqa: PLC0415

        names = inspect.signature(function.py_func).parameters
        values = (self._values.get(SAME.get(name, name)) for name in names)
        numbers = (types.uint64 if name in UNSIGNED else types.int64 for name in names)
        return tuple(
            number if value is None else typeof(value) for number, value in zip(numbers, values, strict=True)
        )


def make(module, name, arguments):
    """Compile one function by itself; returns a Made."""
    from dpu_runtime.observe.machine_code import entry_of  # noqa: PLC0415  (compiled code, see main)

    function = compiled_functions(module)[name]
    passed = arguments.types(function)
    function = getattr(function, "by_itself", function)  # of a helper, which is part of others otherwise
    function.compile(passed)
    library, entry = entry_of(function, passed)
    llvm, assembly = _of_llvm(library.get_llvm_str(), entry), _of_assembly(library.get_asm_str(), entry)
    return Made(f"kernels.{module}.{name}", llvm, assembly)


def _of_llvm(text, entry):
    """The definition of `entry` in a module's text."""
    begin = re.search(rf'^define [^\n]*@"?{re.escape(entry)}"?\(', text, re.MULTILINE).start()
    return text[begin : text.index("\n}\n", begin) + 3]


def _innermost_loops(lines):
    """(first, last) line of the loops in assembly that have no other in them: up to a jump back."""
    labels = {match[1]: place for place, line in enumerate(lines) if (match := _LABEL.match(line))}
    jumps = [(labels[match[1]], place) for place, line in enumerate(lines) if (match := _JUMP.match(line))]
    loops = {(begin, end) for begin, end in jumps if begin < end}
    return [one for one in loops if not any(one[0] <= two[0] and two[1] <= one[1] for two in loops - {one})]


def _of_assembly(text, entry):
    """The code of `entry` in a module's assembly."""
    lines = text.splitlines()
    begin = next(
        place for place, line in enumerate(lines) if line.strip('"').startswith(entry) and line.endswith(":")
    )
    end = next(place for place in range(begin, len(lines)) if lines[place].startswith(".Lfunc_end"))
    return "\n".join(lines[begin:end]) + "\n"


def _made(names, arguments):
    """A Made of each function; one that cannot be compiled, or has arguments no worker has, is said."""
    from numba.core.errors import NumbaError  # noqa: PLC0415

    for module, name in names:
        try:
            yield make(module, name, arguments)
        except NumbaError as error:
            lines = [line.strip() for line in str(error).splitlines()]
            said = [line for line in lines if line and not line.startswith("Failed in ")]
            why = next((line for line in said if line in ALLOCATES), said[0])
            print(f"asm: left out: kernels.{module}.{name}: {why}", file=sys.stderr)


def main(argv, out=OUT):
    """Write the files and print the summary; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="dpu-asm-") as folder:
        # before any kernel is imported: what is on disk has no LLVM code
        os.environ["DPU_CACHE_DIR"] = folder
        from dpu_runtime.kernels.compile.mode import MODE, PYTHON_MODE  # noqa: PLC0415

        try:
            if PYTHON_MODE:
                raise ValueError("NUMBA_DISABLE_JIT=1: there is no machine code")
            if len(argv) != 1 or not argv[0]:
                with_code = ", ".join(module for module in modules() if compiled_functions(module))
                raise ValueError(f"say which: make asm KERNEL=internet; modules: {with_code}")
            names = chosen(argv[0])
        except ValueError as error:
            print(f"asm: {error}", file=sys.stderr)
            return 2
        arguments = Arguments()
        made = list(_made(names, arguments))
        if not made:
            return 1
        stem = argv[0] + ("" if MODE == "compiled" else f".{MODE}")
        out.mkdir(parents=True, exist_ok=True)
        for ending, comment, field in (("ll", ";", "llvm"), ("s", "#", "assembly")):
            text = "\n".join(f"{comment} {one.name}\n{getattr(one, field)}" for one in made)
            (out / f"{stem}.{ending}").write_text(text)
        print(table(HEADERS, [one.row() for one in made]))
        print(f"written: {os.path.relpath(out)}/{stem}.ll, {stem}.s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
