"""The house rules that a script can check; each yields `path:line: what is wrong`.

Rules take a `Source`, so that tests/test_conventions.py can hand them a planted violation.
"""

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

FLOORS = ("kernels", "drivers", "dpu_runtime")  # lower first
COMPILE_POLICY = "kernels/compile/jit.py"
FILE_LINES_MAX = 400  # about 300 is meant
FUNCTION_LINES_MAX = 80  # about 60 is meant
README_LINES_MAX = 200

COMPILERS = {"njit", "jit", "cfunc", "vectorize", "guvectorize", "generated_jit", "jitclass", "stencil"}
KERNEL_DECORATORS = {"kernel", "helper", "callback"}  # `primitive` has bodies that numba runs in Python
NOT_IN_KERNELS = (
    ast.Raise,
    ast.Assert,
    ast.Try,
    ast.With,
    ast.Yield,
    ast.Await,
    ast.Lambda,
    ast.FunctionDef,
    ast.ListComp,
    ast.DictComp,
    ast.SetComp,
    ast.GeneratorExp,
    ast.List,
    ast.Dict,
    ast.Set,
    ast.JoinedStr,
    ast.Global,
    ast.Nonlocal,
    ast.Import,
    ast.ImportFrom,
)
ALLOCATORS = {"empty", "zeros", "ones", "full", "array", "arange", "concatenate", "copy", "empty_like"}

# Kernel files whose tests are in the file of another one: what is tested together is tested there.
TESTED_WITH = {
    "acl/key_words": "functions/acl/test_filter",
    "acl/match": "functions/acl/test_filter",
    "checksum/crc32c_fold": "kernels/checksum/test_crc32c",
    "hold": "functions/services/test_services",
    "octets/wide_sum": "kernels/checksum/test_internet",
    "parse/arp": "kernels/parse/test_parse",
    "parse/ethernet": "kernels/parse/test_parse",
    "parse/ipv4": "kernels/parse/test_parse",
    "parse/ipv6": "kernels/parse/test_parse",
    "parse/transport": "kernels/parse/test_parse",
    "parse/tunnel": "kernels/parse/test_parse",
    "punt": "functions/services/test_services",
    "stage": "functions/services/test_services",
    "switch/admit": "functions/switch/test_forward",
    "verdict": "functions/switch/test_forward",
}

# Places that exist on one developer's machine only.
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:home|Users|work|root)/[\w.]|[A-Z]:\\Users\b|[.]pyenv")
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")  # of Markdown, without its anchor
BINARY_SUFFIXES = {".png", ".gz", ".pcap", ".pcapng", ".so"}


@dataclass
class Source:
    """A file of the project: path below the root, and text."""

    path: str
    text: str

    @cached_property
    def tree(self):
        return ast.parse(self.text, self.path)

    @property
    def floor(self):
        return self.path.split("/")[0]

    def at(self, node, text):
        return f"{self.path}:{getattr(node, 'lineno', 1)}: {text}"

    def functions(self):
        return [n for n in ast.walk(self.tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def project_files():
    """Paths of the project's files below the root: what git tracks, or would."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted(p for p in listed.stdout.splitlines() if (ROOT / p).is_file())


def sources(suffix=None):
    """Text files of the project, those that end in `suffix` if given."""
    paths = [p for p in project_files() if Path(p).suffix not in BINARY_SUFFIXES]
    return [Source(p, (ROOT / p).read_text()) for p in paths if suffix is None or p.endswith(suffix)]


def _imported(node):
    """Absolute module names that an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module]
    return []


def imports_go_down(source):
    """A lower floor does not know the floors above it, and none knows the tests."""
    if source.floor not in FLOORS:
        return
    above = (*FLOORS[FLOORS.index(source.floor) + 1 :], "tests", "bench", "examples")
    for node in ast.walk(source.tree):
        for name in _imported(node):
            if _floor_of(name) in above:
                yield source.at(node, f"{source.floor} must not import {name}: imports go down only")


def _floor_of(name):
    """Floor of a module: all of them are below dpu_runtime for an import."""
    top, *below = name.split(".")
    return below[0] if top == "dpu_runtime" and below and below[0] in FLOORS else top


def floors_are_below_dpu_runtime(source):
    """`kernels` and `drivers` at the top of site-packages are other people's."""
    for node in ast.walk(source.tree):
        for name in _imported(node):
            if name.split(".")[0] in FLOORS[:-1]:
                yield source.at(node, f"{name}: its name is dpu_runtime.{name}")


def only_jit_compiles(source):
    """One place decides how code is compiled and cached."""
    if source.path == COMPILE_POLICY:
        return
    for node in ast.walk(source.tree):
        named = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "numba":
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            named = [node.attr] if node.value.id in ("numba", "nb") else []
        for name in COMPILERS.intersection(named):
            yield source.at(node, f"numba.{name}: use @kernel or @helper of {COMPILE_POLICY}")


def _decorator_names(function):
    for decorator in function.decorator_list:
        node = decorator.func if isinstance(decorator, ast.Call) else decorator
        yield node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def is_compiled(function):
    """Whether a function has @kernel, @helper or @callback."""
    return bool(KERNEL_DECORATORS.intersection(_decorator_names(function)))


def kernels_stay_plain(source):
    """A kernel never raises, allocates, locks or prints: a bad packet is a verdict."""
    for function in filter(is_compiled, source.functions()):
        for node in (n for statement in function.body for n in ast.walk(statement)):
            if isinstance(node, NOT_IN_KERNELS):
                yield source.at(node, f"{type(node).__name__} in the kernel {function.name}")
            elif isinstance(node, ast.Call):
                called = node.func
                if isinstance(called, ast.Name) and called.id == "print":
                    yield source.at(node, f"print in the kernel {function.name}")
                if isinstance(called, ast.Attribute) and called.attr in ALLOCATORS:
                    yield source.at(node, f"{called.attr}() allocates in the kernel {function.name}")


def kernels_are_documented(source):
    """Public functions of kernels/ say what goes in and out."""
    if source.floor != "kernels":
        return
    for function in source.tree.body:
        public = isinstance(function, ast.FunctionDef) and not function.name.startswith("_")
        if public and not ast.get_docstring(function):
            yield source.at(function, f"{function.name} has no docstring")


def sizes_stay_small(source):
    """A file is read in one sitting, a function on one screen."""
    lines = source.text.count("\n")
    if lines > FILE_LINES_MAX:
        yield f"{source.path}:1: {lines} lines, at most {FILE_LINES_MAX}"
    for function in source.functions():
        length = function.end_lineno - function.lineno + 1
        if length > FUNCTION_LINES_MAX:
            yield source.at(function, f"{function.name} has {length} lines, at most {FUNCTION_LINES_MAX}")


def no_bare_except(source):
    """An error is named before it is caught."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield source.at(node, "bare except")


def no_utils(source):
    """A file is named after what it is about."""
    if Path(source.path).stem in ("utils", "util", "helpers", "misc", "common"):
        yield f"{source.path}:1: name the file after what it is about"


def no_machine_paths(source):
    """What is written here is true on every machine."""
    for number, line in enumerate(source.text.splitlines(), 1):
        if MACHINE_PATHS.search(line):
            yield f"{source.path}:{number}: a path of one machine: {line.strip()}"


def links_lead_somewhere(source):
    """A page links to files that are there."""
    for number, line in enumerate(source.text.splitlines() if source.path.endswith(".md") else (), 1):
        for target in LINK.findall(line):
            if "://" not in target and not (ROOT / source.path).parent.joinpath(target).exists():
                yield f"{source.path}:{number}: no {target}"


PYTHON_RULES = (
    imports_go_down,
    floors_are_below_dpu_runtime,
    only_jit_compiles,
    kernels_stay_plain,
    kernels_are_documented,
    sizes_stay_small,
    no_bare_except,
    no_utils,
)
TEXT_RULES = (no_machine_paths, links_lead_somewhere)


def kernels_without_test(all_sources, tested_with):
    """kernels/X.py with compiled code has a test, of the same name or the one that `tested_with` names.

    It is in tests/kernels/, or in tests/functions/ with all other tests of its function.
    """
    paths = {source.path for source in all_sources}
    for source in all_sources:
        if source.floor != "kernels" or source.path == COMPILE_POLICY or not source.path.endswith(".py"):
            continue
        if not any(map(is_compiled, source.functions())):
            continue
        name = source.path.removeprefix("kernels/").removesuffix(".py")
        beside = str(Path(name).with_name(f"test_{Path(name).name}"))
        tests = [tested_with[name]] if name in tested_with else [f"kernels/{beside}", f"functions/{beside}"]
        if not paths.intersection(f"tests/{test}.py" for test in tests):
            yield f"{source.path}:1: no tests/{tests[0]}.py"


def readme_gaps(text):
    """The README is read in one sitting, and names the two commands a newcomer starts with."""
    gaps = [f"README.md:1: does not name `{c}`" for c in ("make demo", "make test") if c not in text]
    lines = text.count("\n")
    return gaps + (
        [f"README.md:1: {lines} lines, at most {README_LINES_MAX}"] if lines > README_LINES_MAX else []
    )


def imports_of(module, root=ROOT):
    """Top-level packages that importing `module` brings in, in a process of its own."""
    program = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"import {module}:\n{done.stderr}"
    return set(done.stdout.split())
