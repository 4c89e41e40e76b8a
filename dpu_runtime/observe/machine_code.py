"""The machine code of this process: which functions it has, at which addresses, and how long they are.

Spec: System V ABI 4.1, chapter 4 (ELF symbol table); Itanium C++ ABI 5.1 (mangled names).
In:   the kernels that are compiled or loaded by now. Out: a Function each, with what was not inlined into it.
Not:  what the code is (scripts/asm.py). Helpers and glue are part of the kernels that call them.

numba keeps the object file of what it compiled; of what it loaded from the cache, the cache has it. Both are
inner workings, which are no promise: requirements.lock holds numba's version.
"""

import re
from dataclasses import dataclass

import numpy as np

from dpu_runtime.kernels.compile import (
    jit,  # by this name: this file is not compiled, so it is none of the cache's sources
)

_SECTION = np.dtype(
    [("name", "u4"), ("type", "u4"), ("flags", "u8"), ("address", "u8"), ("offset", "u8")]
    + [("size", "u8"), ("link", "u4"), ("info", "u4"), ("align", "u8"), ("entry_size", "u8")]
)
_SYMBOL = np.dtype(
    [("name", "u4"), ("info", "u1"), ("other", "u1"), ("section", "u2"), ("value", "u8"), ("size", "u8")]
)
_HEADER = {"sections_at": (0x28, "u8"), "sections": (0x3C, "u2")}  # octets, Elf64_Ehdr
SHT_SYMTAB = 2
STT_FUNC = 2
_PART = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Function:
    """Machine code of one function: its name in Python's words, its address and its length in octets."""

    name: str
    address: int
    size: int


def symbols(obj):
    """[(mangled name, section, offset, size)] of the functions of an ELF object file, bytes."""
    at, count = (int(np.frombuffer(obj, kind, 1, place)[0]) for place, kind in _HEADER.values())
    sections = np.frombuffer(obj, _SECTION, count, at)
    found = []
    for table in sections[sections["type"] == SHT_SYMTAB]:
        names = int(sections[table["link"]]["offset"])
        rows = np.frombuffer(obj, _SYMBOL, int(table["size"]) // _SYMBOL.itemsize, int(table["offset"]))
        for row in rows[(rows["info"] & 0xF == STT_FUNC) & (rows["size"] > 0)]:
            begin = names + int(row["name"])
            name = obj[begin : obj.index(b"\0", begin)].decode()
            found.append((name, int(row["section"]), int(row["value"]), int(row["size"])))
    return found


def plain_name(mangled):
    """`dpu_runtime.kernels.parse.parse.parse` of numba's mangled name of it; another name as it is.

    What the interpreter calls is `cpython.` and then its name, what C calls `cfunc.`.
    """
    before, found, _ = mangled.partition("_ZN")
    parts, place = before.split("."), len(before + found)
    while length := _PART.match(mangled, place):
        place = length.end() + int(length[1])
        parts.append(mangled[length.end() : place])
    return ".".join(filter(None, parts)) if found else mangled


def _compilations():
    """(cache, signature, library, name of the entry) of what is compiled or loaded."""
    for kernel in () if jit.PYTHON_MODE else jit.KERNELS:
        if isinstance(kernel, jit.Callback):
            made = vars(kernel).get("_compiled")  # made when it is first needed
            if made is not None:
                yield made._cache, made._sig, made._library, made.native_name
        else:
            for signature, made in kernel.overloads.items():
                yield kernel._cache, signature, made.library, made.fndesc.llvm_func_name


def entry_of(kernel, signature):
    """(numba's library, name of the entry in it) of a kernel's code for `signature`, which is compiled."""
    made = kernel.overloads[signature]
    return made.library, made.fndesc.llvm_func_name


def _object_file(cache, signature, library):
    """The object file, bytes, that a library was loaded from; None where nobody has it any more."""
    if library._compiled_object is not None:
        return library._compiled_object
    data = cache._cache_file.load(cache._index_key(signature, library.codegen))
    return data and data[0][2][0]


def loaded():
    """Every Function of the kernels and callbacks that are compiled, or loaded from the cache, by address."""
    found = set()
    for cache, signature, library, entry in _compilations():
        obj = _object_file(cache, signature, library)
        if obj is not None:
            found.update(_placed(obj, entry, library.get_pointer_to_function(entry)))
    return sorted(found, key=lambda function: function.address)


def _placed(obj, entry, address):
    """Functions of an object file whose `entry` is at `address`: those in the same section."""
    rows = symbols(obj)
    home, begin = next((section, offset) for name, section, offset, _ in rows if name == entry)
    for name, section, offset, size in rows:
        if section == home:
            yield Function(plain_name(name), address + offset - begin, size)
