"""Import closures: which files they have, by any form of import, and what changes their hash."""

import functools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dpu_runtime.kernels.compile.closure import closure, closure_hash
from tests.conventions import ROOT

FLOORS = ("kernels", "drivers", "dpu_runtime")
IMPORTS = {
    "import pkg.sub.b": {"sub/b"},
    "import os, pkg.sub.b as b": {"sub/b"},
    "import pkg.sub": {"sub/__init__"},
    "import pkg": {"__init__"},
    "from pkg import a": {"a"},
    "from pkg import NAME": {"__init__"},
    "from pkg import NAME, a": {"__init__", "a"},
    "from pkg.sub import *": {"sub/__init__"},
    "from pkg.sub import (\n    b,  # noqa: X (this)\n    c as d,\n)": {"sub/b", "sub/c"},
    "from pkg.sub.b import NAME": {"sub/b"},
    "from . import a": {"a"},
    "from .a import NAME": {"a"},
    "from .sub import b": {"sub/b"},
    "from .sub import NAME": {"sub/__init__"},
    "from .space import e": {"space/e"},
    "def f():\n    from pkg.sub import b": {"sub/b"},
    "try:\n    import pkg.a\nexcept ImportError:\n    from pkg.sub import c": {"a", "sub/c"},
    "if True: import pkg.a": {"a"},
    "x = 1; import pkg.a": {"a"},
    "import pkg.a; import pkg.sub.b": {"a", "sub/b"},
    "from pkg.sub \\\n    import b": {"sub/b"},
    "from pkg.sub import b, \\\n    c": {"sub/b", "sub/c"},
    "import os\nimport numpy as np\nfrom numba import njit": set(),
    "from pkg.missing import x\nimport pkg.gone": set(),
    "'an import of pkg.a'\nname = 'pkg.a'  # import pkg.sub.b": set(),
}


@pytest.fixture
def package(tmp_path):
    """Write modules of a package `pkg`: `package(main="from . import a")`; returns its folder."""

    def write(**texts):
        folder = tmp_path / "pkg"
        for name in ("__init__", "a", "sub/__init__", "sub/b", "sub/c", "space/e"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.py").write_text("NAME = 1\n")
        for name, text in texts.items():
            (folder / f"{name}.py").write_text(text + "\n")
        return folder

    return write


def names(folder, module="main"):
    """Files of the closure of a module of `package`, without their endings."""
    found = closure(folder / f"{module}.py", f"pkg.{module}")
    return {one.relative_to(folder).with_suffix("").as_posix() for one in found} - {module}


@pytest.mark.parametrize("text", IMPORTS)
def test_every_form_of_import_is_found(package, text):
    assert names(package(main=text)) == IMPORTS[text]


def test_what_is_imported_imports_too_also_in_a_circle(package):
    folder = package(main="from . import first", first="from . import a, second", second="import pkg.main")
    assert names(folder) == {"first", "a", "second"}


def test_a_level_up(package):
    folder = package()
    (folder / "sub" / "b.py").write_text("from .. import a\nfrom ..sub.c import NAME\nfrom .. import NAME\n")
    found = closure(folder / "sub" / "b.py", "pkg.sub.b")
    assert {one.relative_to(folder).as_posix() for one in found} == {
        "sub/b.py",
        "a.py",
        "sub/c.py",
        "__init__.py",
    }


def test_a_script_has_what_lies_beside_it(package, tmp_path):
    package()
    (tmp_path / "beside.py").write_text("import pkg.a\n")
    (tmp_path / "script.py").write_text("import beside\n")
    found = closure(tmp_path / "script.py")
    assert {one.name for one in found} == {"script.py", "beside.py", "a.py"}


def test_of_what_is_installed_only_its_own_package_counts(tmp_path):
    for name in ("mine", "theirs"):
        (tmp_path / "site-packages" / name).mkdir(parents=True)
        (tmp_path / "site-packages" / name / "b.py").write_text("")
    main = tmp_path / "site-packages" / "mine" / "main.py"
    main.write_text("import mine.b, theirs.b\nfrom dpu_runtime.kernels import drops\n")
    found = {
        one.relative_to(tmp_path).as_posix() for one in closure(main, "mine.main") if tmp_path in one.parents
    }
    assert found == {"site-packages/mine/main.py", "site-packages/mine/b.py"}
    assert ROOT / "kernels" / "drops.py" in closure(main, "mine.main")


def test_the_hash_is_of_the_texts_in_the_closure(package, tmp_path):
    folder = package(main="from . import a")
    hash_of = functools.partial(closure_hash, module="pkg.main")
    before = hash_of(folder / "main.py")
    copy = shutil.copytree(folder, tmp_path / "elsewhere" / "pkg")
    assert hash_of(copy / "main.py") == before
    (folder / "sub" / "b.py").write_text("NAME = 2\n")  # not imported
    assert hash_of(folder / "main.py") == before
    (folder / "a.py").write_text("NAME = 2\n")
    assert hash_of(folder / "main.py") != before
    (folder / "a.py").write_text("NAME = 1\n")
    assert hash_of(folder / "main.py") == before


def test_a_file_is_read_once(monkeypatch, package):
    folder = package(main="from . import a, first", first="from . import a")
    read = []
    really = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or really(path))
    for name in ("main", "first", "a", "main"):
        closure_hash(folder / f"{name}.py", f"pkg.{name}")
    assert sorted(read) == ["a.py", "first.py", "main.py"]


def of(name):
    """Closure of a module of this project."""
    return closure(ROOT / f"{name.replace('.', '/')}.py", f"dpu_runtime.{name}").keys()


def test_constants_of_files_that_compile_nothing_count():
    loop = closure(ROOT / "dpu_runtime" / "plane" / "worker.py", "dpu_runtime.plane.worker").keys()
    for entries, constants in (
        ("drivers.vhost_user.queue", "drivers/vhost_user/features.py"),
        ("drivers.af_packet.queue", "drivers/af_packet/if_packet.py"),
    ):
        assert ROOT / constants in of(entries) - loop
        assert ROOT / "kernels" / "layout.py" in of(entries) & loop


PROGRAM = """
from importlib.util import find_spec
from dpu_runtime.kernels.compile.cache import cache_folder
for name in ("af_packet", "vhost_user", "tap"):
    name = f"dpu_runtime.drivers.{name}.queue"
    print(cache_folder(name, find_spec(name).origin))
"""


CHANGES = {  # constants that are compiled in from files without a kernel
    "drivers/af_packet/if_packet.py": ("\nVNET_BYTES = ", "\nVNET_BYTES = 2 + "),
    "drivers/vhost_user/features.py": ("\nVIRTIO_F_RING_PACKED = ", "\nVIRTIO_F_RING_PACKED = 2 * "),
}


def test_another_constant_is_other_machine_code(tmp_path):
    """In a copy of the sources."""
    for floor in FLOORS:
        shutil.copytree(ROOT / floor, tmp_path / floor, ignore=shutil.ignore_patterns("__pycache__"))

    def folders():
        command = [sys.executable, "-c", PROGRAM]
        env = {"PYTHONPATH": str(tmp_path), "DPU_CACHE_DIR": "/cache"}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
        return done.stdout.split()

    before = folders()
    for changed, (path, (old, new)) in enumerate(CHANGES.items()):
        text = (tmp_path / path).read_text()
        assert old in text
        (tmp_path / path).write_text(text.replace(old, new))
        after = folders()
        assert [one != other for one, other in zip(after, before, strict=True)] == [
            number == changed for number in range(3)
        ]
        before = after
