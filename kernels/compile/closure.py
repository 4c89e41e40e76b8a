"""Which sources machine code comes from: a module's file, and those of every module it imports, and so on.

In:   the file of a module.   Out: its import closure, and the hash of it.
Not:  modules of other packages, but for dpu_runtime; names that are put together when the program runs.

Found in the text, so nothing is imported for it. An import inside a function counts too, and a package's own
file only where something is imported from it that is no module. A file is read once while it stays as it is.
"""

import ast
import functools
import hashlib
import re
import sys
from pathlib import Path

_OWN = __name__.partition(".")[0]
_LIBRARIES = (
    "site-packages",
    "dist-packages",
)  # folders where one top package has nothing to do with another

# An import statement as nearly everybody writes it. A word `import` elsewhere has the whole file parsed.
_STATEMENT = re.compile(
    rb"^(?<!\\\n)[ \t]*((?:from[ \t]+[.\w]+[ \t]+)?import[ \t]+(?:\([^()]*\)|[^\n(\\;]+))$", re.M
)
_WORD = re.compile(rb"\bimport\b")


def closure_hash(file, module="__main__"):
    """Hash of the import closure of a module: 16 hex digits, the same wherever the files lie.

    file    its path      module  its name, which says where its package begins
    """
    digests = sorted(closure(file, module).values())
    return hashlib.sha256(b"".join(digests)).hexdigest()[:16]


def closure(file, module="__main__"):
    """{path: digest} of the import closure of a module, itself in it; the arguments are closure_hash's."""
    file = Path(file).resolve()
    base = _base(file, module)
    top = module.partition(".")[0] if base.name in _LIBRARIES else None
    found, waiting = {}, {file}
    while waiting:
        one = waiting.pop()
        stat = one.stat()
        found[one], imported = _read(one, base, top, stat.st_mtime_ns, stat.st_size)
        waiting |= imported - found.keys()
    return found


def _base(file, module):
    """The folder in which the top package of a module lies."""
    if module == "__main__":
        spec = getattr(sys.modules.get(module), "__spec__", None)  # there is one for `python -m`
        module = spec.name if spec else module
    parts = tuple(module.split("."))
    named = file.parent if file.name == "__init__.py" else file.with_suffix("")
    if named.parts[-len(parts) :] == parts:
        return named.parents[len(parts) - 1]
    folder = file.parent
    while (folder / "__init__.py").exists():
        folder = folder.parent
    return folder


@functools.cache
def _read(file, base, top, *_stat):
    """(digest, files of the modules it imports) of a file; they lie below `base`, in package `top` if any."""
    text = file.read_bytes()
    found = set()
    for node in _statements(text):
        if isinstance(node, ast.Import):
            found.update(_module(alias.name.split("."), base, top)[0] for alias in node.names)
            continue
        parts = node.module.split(".") if node.module else []
        if node.level:
            itself, folders = _walk([file.parents[node.level - 1]], parts)
        else:
            itself, folders = _module(parts, base, top)
        for alias in node.names:
            inner = _below(folders, alias.name)
            found.add(inner[0] if any(inner) else itself)
    return hashlib.sha256(file.name.encode() + b"\0" + text).digest(), found - {None}


def _statements(text):
    """The import statements of a source, as nodes of its syntax tree."""
    plain = _STATEMENT.findall(text)
    if sum(map(len, map(_WORD.findall, plain))) == len(_WORD.findall(text)):
        text = b"\n".join(plain)
    try:
        tree = ast.parse(text)
    except SyntaxError:  # then what runs is another text
        return []
    return [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def _module(parts, base, top):
    """(file, folders) of a module by the parts of its name; (None, []) of what is none of ours."""
    if parts[0] == _OWN:
        return _walk(list(map(Path, sys.modules[_OWN].__path__)), parts[1:])
    return _walk([base], parts) if top in (None, parts[0]) else (None, [])


def _walk(folders, parts):
    """(file, folders) of a module below a package, which has `folders`."""
    files = (folder / "__init__.py" for folder in folders)
    itself = next((file for file in files if file.is_file()), None)
    for part in parts:
        itself, folders = _below(folders, part)
    return itself, folders


def _below(folders, name):
    """(file, folders) of a module, or of a package, in a package that has `folders`."""
    for folder in folders:
        if (package := folder / name / "__init__.py").is_file():
            return package.resolve(), [package.parent]
        if (module := folder / f"{name}.py").is_file():
            return module.resolve(), []
    return None, [folder / name for folder in folders if (folder / name).is_dir()]
