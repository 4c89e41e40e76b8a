"""What LLVM made of a kernel: `make asm KERNEL=acl.filter`, or a function's name.

In:   a module of kernels/ as `checksum.internet`, its last word where one module has it, or a function there.
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
# Arguments that are called otherwise than the array of the burst, the frame or the state that they are.
SAME = {
    **{"rec": "record", "m": "record", "cache": "private", "acl": "tables", "gro": "gro_flows"},
    **{"out_headers": "segment_headers", "out_row": "row", "order": "segment_order", "iov": "gro_iov"},
    **{"out_meta": "segment_meta", "out_iov": "segment_iov", "a": "record", "b": "record", "row_a": "row"},
    **{"row_b": "row", "member_row": "row", "segment": "record", "records": "meta", "parsed": "word"},
}
NUMBERS = ("out_port", "packets")  # that arrays of the burst are called like
# Arguments of a folder's or file's helpers: a part of the function's state, or a number.
OF_MODULES = {
    "stage": {"row": lambda _: None},
    "hold": {"row": lambda _: None},
    "meter": {"words": lambda state: state.tables.meters[0, 0]},
    "switch": {
        "counters": lambda state: state.counters.switch,
        "mac": lambda state: state.tables.mac,
        "vlan_allowed": lambda state: state.tables.vlan_allowed,
    },
}
# Numbers that are no counts, indices or offsets: int64 is what those are.
UNSIGNED = {"addr", "addr_a", "addr_b", "address", "length", "total", "size", "l4_len", "value", "old", "new"}
UNSIGNED |= {"checksum", "crc", "key", "key_hash", "tag", "state", "now", "now_ns", "ageing", "generation"}
UNSIGNED |= {"src_hi", "src_lo", "dst_hi", "dst_lo"}
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
    with_code = {module: list(compiled_functions(module)) for module in modules()}
    with_code = {module: functions for module, functions in with_code.items() if functions}
    found = [module for module in with_code if name in (module, module.rpartition(".")[2])]
    if len(found) > 1 and name not in found:
        raise ValueError(f"KERNEL={name}: {', '.join(found)}: say which")
    for module in [name] if name in found else found:
        if functions := [function for function in with_code[module] if not function.startswith("_")]:
            return [(module, function) for function in functions]
    if named := [(module, name) for module, functions in with_code.items() if name in functions]:
        return named
    functions = sorted({one for functions in with_code.values() for one in functions if one[0] != "_"})
    raise ValueError(
        f"KERNEL={name}: no such module or function of kernels/; modules: {', '.join(with_code)};"
        f" functions: {', '.join(functions)}"
    )


class Arguments:
    """Types of arguments by their names: of what a worker has, and of the state of a module's function."""

    def __init__(self):
        from dpu_runtime.kernels.burst import make_burst  # noqa: PLC0415  (compiled code, see main
        from dpu_runtime.kernels.compile.reference import Lent  # noqa: PLC0415
        from dpu_runtime.plane.program import Stages  # noqa: PLC0415
        from dpu_runtime.plane.shared import SharedState  # noqa: PLC0415
        from dpu_runtime.plane.worker_thread import make_worker  # noqa: PLC0415
        from dpu_runtime.registry import functions  # noqa: PLC0415

        shared = SharedState.create()
        os.close(shared.fd)  # mapped, and nobody else will
        burst = Lent(make_burst(0, shared))
        _, frame = make_worker(shared, 0, 1, burst)
        self._values = {**frame.value._asdict(), **burst.value._asdict(), "burst": burst, "frame": frame}
        self._values |= dict.fromkeys(NUMBERS)
        self._values |= {"row": burst.headers[0], "record": burst.meta[0]}
        self._stages = Stages(shared, 0, burst, functions())
        self._first = {one.name: one.stages[0].name for one in functions() if one.stages}

    def _there(self, module):
        """{name: value} of arguments that are no numbers; of a module of the frame `state` is the first."""
        name = module.partition(".")[0]
        state = self._stages.state(self._first.get(name, next(iter(self._first.values()))))
        there = {**self._values, "state": state}
        if name in self._first:
            there |= state.counters._asdict() if state.counters else {}
            there |= {"tables": state.tables, "private": state.private}
        return there | {key: value(state) for key, value in OF_MODULES.get(name, {}).items()}

    def types(self, module, function):
        """Types of the arguments of a kernel or helper: what has no array's name is a number."""
        from numba import typeof, types  # noqa: PLC0415

        from dpu_runtime.kernels.compile.reference import Lent  # noqa: PLC0415

        there = self._there(module)
        names = inspect.signature(function.py_func).parameters
        if "burst" not in names:
            there.pop("state")  # a checksum's
        values = (there.get(SAME.get(name, name)) for name in names)
        values = (Lent(value) if isinstance(value, tuple) else value for value in values)
        numbers = (types.uint64 if name in UNSIGNED else types.int64 for name in names)
        return tuple(
            number if value is None else typeof(value) for number, value in zip(numbers, values, strict=True)
        )


def make(module, name, arguments):
    """Compile one function; returns a Made."""
    from dpu_runtime.observe.machine_code import entry_of  # noqa: PLC0415  (compiled code, see main)

    function = compiled_functions(module)[name]
    passed = arguments.types(module, function)
    function = getattr(function, "by_itself", function)  # of a helper, which is part of others otherwise
    function.compile(passed)
    library, entry = entry_of(function, passed)
    llvm, assembly = _of_llvm(library.get_llvm_str(), entry), _of_assembly(library.get_asm_str(), entry)
    return Made(f"dpu_runtime.kernels.{module}.{name}", llvm, assembly)


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
            print(f"asm: left out: dpu_runtime.kernels.{module}.{name}: {why}", file=sys.stderr)


def main(argv, out=OUT):
    """Write the files and print the summary; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="dpu-asm-") as folder:
        # Before kernels/compile/jit.py is imported: what is in a cache has no LLVM code.
        os.environ["DPU_CACHE_DIR"] = folder
        from dpu_runtime.kernels.compile.mode import MODE, PYTHON_MODE  # noqa: PLC0415

        try:
            if PYTHON_MODE:
                raise ValueError("NUMBA_DISABLE_JIT=1: there is no machine code")
            if len(argv) != 1 or not argv[0]:
                with_code = ", ".join(module for module in modules() if compiled_functions(module))
                raise ValueError(f"say which: make asm KERNEL=acl.filter; modules: {with_code}")
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
