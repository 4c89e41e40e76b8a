"""The house rules hold, and each of them catches a planted violation."""

import importlib.util

import pytest

from dpu_runtime.registry import NAMES
from tests import conventions
from tests.conventions import Source

pytestmark = pytest.mark.in_memory

PYTHON = conventions.sources(".py")

# The control process starts fast: nothing that it is made of may bring numba in.
CONTROL_MODULES = (
    "dpu_runtime.kernels.acl.table",
    "dpu_runtime.drivers.tap.port",
    "dpu_runtime.device.wiring",
    "dpu_runtime.device.supervisor",
    "dpu_runtime.control.daemon",
    "dpu_runtime.device.device",
    "dpu_runtime.registry",
    *(f"dpu_runtime.functions.{name}.book" for name in NAMES),
    "dpu_runtime.functions.meter.shaper",
    "dpu_runtime.config.models",
)
HEAVY = {"numba", "llvmlite", "numpy", "pydantic", "pyroute2", "scapy"}


def found(rule, path, text):
    """What `rule` says about a planted file."""
    return list(rule(Source(path, text)))


@pytest.mark.parametrize("rule", conventions.PYTHON_RULES, ids=lambda rule: rule.__name__)
def test_python_files_keep_the_rule(rule):
    assert PYTHON, "no Python file found"
    assert [line for source in PYTHON for line in rule(source)] == []


@pytest.mark.parametrize("rule", conventions.TEXT_RULES, ids=lambda rule: rule.__name__)
def test_all_files_keep_the_rule(rule):
    assert [line for source in conventions.sources() for line in rule(source)] == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("kernels/x.py", "import dpu_runtime.drivers.tap"),
        ("kernels/x.py", "from dpu_runtime import config"),
        ("kernels/x.py", "def f():\n    from dpu_runtime.drivers import tap\n"),
        ("drivers/x.py", "import dpu_runtime"),
        ("drivers/x.py", "from tests.kernels import batches"),
        ("dpu_runtime/x.py", "from bench import kernels"),
    ],
)
def test_an_import_upwards_is_caught(path, text):
    assert len(found(conventions.imports_go_down, path, text)) == 1


def test_an_import_downwards_is_allowed():
    text = "from dpu_runtime.kernels.layout import X\nimport dpu_runtime.drivers.port\nfrom . import x\n"
    assert found(conventions.imports_go_down, "dpu_runtime/x.py", text) == []


@pytest.mark.parametrize(
    "text",
    [
        "import numba\n@numba.njit\ndef f(): pass\n",
        "import numba\nf = numba.njit(nogil=True)(g)\n",
        "from numba import jit as compiled\n",
        "from numba import cfunc, types\n",
        "from numba.experimental import jitclass\n",
        "import numba as nb\nnb.vectorize\n",
    ],
)
def test_a_compiler_outside_the_compile_policy_is_caught(text):
    assert len(found(conventions.only_jit_compiles, "kernels/x.py", text)) == 1
    assert found(conventions.only_jit_compiles, conventions.COMPILE_POLICY, text) == []


@pytest.mark.parametrize(
    "statement",
    [
        "raise ValueError",
        "assert count",
        "print(count)",
        "try: pass\n    finally: pass",
        "with lock: pass",
        "rows = [count]",
        "rows = [i for i in range(count)]",
        "rows = np.empty(count)",
        "name = f'{count}'",
        "def inner(): pass",
        "import os",
    ],
)
@pytest.mark.parametrize("decorator", ["kernel", "helper", "jit.kernel", "callback('i4(i4)')"])
def test_a_kernel_that_does_more_than_compute_is_caught(decorator, statement):
    text = f"@{decorator}\ndef f(count):\n    {statement}\n    return count\n"
    assert found(conventions.kernels_stay_plain, "kernels/x.py", text)
    plain = text.replace(f"@{decorator}\n", "")
    assert found(conventions.kernels_stay_plain, "kernels/x.py", plain) == []


def test_a_public_kernel_without_docstring_is_caught():
    text = "def f(): pass\ndef _g(): pass\ndef h():\n    'What it does.'\n"
    assert found(conventions.kernels_are_documented, "kernels/x.py", text) == [
        "kernels/x.py:1: f has no docstring"
    ]


def test_a_long_file_and_a_long_function_are_caught():
    body = "    pass\n" * conventions.FUNCTION_LINES_MAX
    assert len(found(conventions.sizes_stay_small, "kernels/x.py", f"def f():\n{body}")) == 1
    assert found(conventions.sizes_stay_small, "kernels/x.py", f"def f():\n{body[9:]}") == []
    assert len(found(conventions.sizes_stay_small, "kernels/x.py", "x = 1\n" * 401)) == 1
    assert found(conventions.sizes_stay_small, "kernels/x.py", "x = 1\n" * 400) == []


def test_a_bare_except_is_caught():
    text = "try:\n    pass\nexcept:\n    pass\n"
    assert found(conventions.no_bare_except, "drivers/x.py", text) == ["drivers/x.py:3: bare except"]
    assert found(conventions.no_bare_except, "drivers/x.py", text.replace("except", "except OSError")) == []


def test_a_file_about_nothing_is_caught():
    assert found(conventions.no_utils, "drivers/utils.py", "")
    assert found(conventions.no_utils, "drivers/tap/queue.py", "") == []


@pytest.mark.parametrize("folder", ["home/me", "work/main", "Users/me", "root/bin"])
def test_a_path_of_one_machine_is_caught(folder):
    assert len(found(conventions.no_machine_paths, "docs/x.md", f"see\n`/{folder}/x`\n")) == 1


def test_a_path_of_every_machine_is_allowed():
    text = "/var/lib/dpu /run/netns/web https://example.org/work/1 frame/work\n"
    assert found(conventions.no_machine_paths, "docs/x.md", text) == []


def test_every_kernel_file_has_a_test():
    assert list(conventions.kernels_without_test(PYTHON, conventions.TESTED_WITH)) == []


def test_a_kernel_file_without_a_test_is_caught():
    kernel = Source("kernels/x.py", "@kernel\ndef f(): pass\n")
    plain = Source("kernels/layout.py", "SIZE = 1\n")
    assert list(conventions.kernels_without_test([kernel, plain], {})) == [
        "kernels/x.py:1: no tests/kernels/test_x.py"
    ]
    test = Source("tests/kernels/test_y.py", "")
    assert list(conventions.kernels_without_test([kernel, test], {"x": "kernels/test_y"})) == []
    in_a_function = [Source("kernels/acl/z.py", kernel.text), Source("tests/functions/acl/test_z.py", "")]
    assert list(conventions.kernels_without_test(in_a_function, {})) == []


def test_a_floor_imported_from_the_top_is_caught():
    planted = "from kernels.layout import META_DTYPE\nimport drivers\n"
    assert len(found(conventions.floors_are_below_dpu_runtime, "bench/x.py", planted)) == 2
    assert found(conventions.floors_are_below_dpu_runtime, "bench/x.py", "from bench import kernels\n") == []


def test_tested_with_names_files_that_are_there():
    for name in conventions.TESTED_WITH:
        assert (conventions.ROOT / "kernels" / f"{name}.py").exists(), name


@pytest.mark.parametrize("module", CONTROL_MODULES)
def test_the_control_process_does_not_import_numba(module):
    assert importlib.util.find_spec(module), module
    assert not {"numba", "llvmlite"} & conventions.imports_of(module)


@pytest.mark.parametrize("module", ["dpu_runtime", "dpu_runtime.cli.main"])
def test_the_command_line_imports_nothing_heavy(module):
    assert not HEAVY & conventions.imports_of(module)


def test_an_import_of_numba_by_way_of_another_file_is_caught(tmp_path):
    (tmp_path / "control.py").write_text("import between\n")
    (tmp_path / "between.py").write_text("import numba\n")
    (tmp_path / "numba.py").write_text("")
    assert "numba" in conventions.imports_of("control", tmp_path)


def test_the_readme_names_the_two_commands():
    assert conventions.readme_gaps((conventions.ROOT / "README.md").read_text()) == []
    assert len(conventions.readme_gaps("# A project\n\n    make demo\n")) == 1


def test_a_readme_that_is_too_long_is_caught():
    text = "make demo, make test\n" * conventions.README_LINES_MAX
    assert conventions.readme_gaps(text) == []
    assert conventions.readme_gaps(f"{text}\n") == ["README.md:1: 201 lines, at most 200"]


def test_a_link_to_nothing_is_caught():
    text = "[a](configuration.md) [b](../README.md#start) [c](https://example.org/x.md)\n![d](gone.svg)\n"
    assert found(conventions.links_lead_somewhere, "docs/x.md", text) == ["docs/x.md:2: no gone.svg"]
    assert found(conventions.links_lead_somewhere, "docs/x.py", text) == []
