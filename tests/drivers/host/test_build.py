"""libdpu.so as C programs use it: exports, soname, pkg-config; and the library under sanitizers."""

import os
import re
import subprocess
import sys

import pytest

from dpu_runtime.drivers.host import build_host
from tests.conventions import ROOT

FLAGS = "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined"


def run(*command, **keys):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **keys)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with libdpu.so and dpu.pc."""
    folder = tmp_path_factory.mktemp("libdpu")
    printed = run("make", "-C", build_host.HOST, f"BUILD={folder}", "CFLAGS=-O2 -Werror")
    assert "warning" not in printed
    return folder


@pytest.mark.package("gcc", "libc6-dev")
def test_the_shared_library_exports_its_header_and_no_more(built):
    listed = run("nm", "-D", "--defined-only", built / "libdpu.so").splitlines()
    exported = {line.split()[2] for line in listed}
    declared = set(re.findall(r"\b(dpu_\w+)\(", build_host.declarations()))
    assert exported == declared
    assert "libdpu.so.0" in run("objdump", "-p", built / "libdpu.so")


@pytest.mark.package("gcc", "libc6-dev", "pkg-config")
def test_installed_it_is_found_by_pkg_config(built, tmp_path):
    root = tmp_path / "root"
    run("make", "-C", build_host.HOST, "install", f"BUILD={built}", f"PREFIX={root}")
    environment = os.environ | {"PKG_CONFIG_PATH": str(root / "lib" / "pkgconfig")}
    flags = run("pkg-config", "--cflags", "--libs", "dpu", env=environment).split()
    program = tmp_path / "program.c"
    program.write_text(
        "#include <dpu.h>\nint main(void) { struct dpu_port *p; return dpu_open(0, 0, &p) + 1; }\n"
    )
    run("gcc", program, "-o", tmp_path / "program", *flags, f"-Wl,-rpath,{root / 'lib'}")
    run(tmp_path / "program")


def test_the_header_is_c_plus_plus_too(tmp_path):
    text = (build_host.HOST / "dpu.h").read_text()
    assert text.count('extern "C"') == 1
    run("gcc", "-std=c99", "-pedantic-errors", "-Wall", "-fsyntax-only", "-x", "c", build_host.HOST / "dpu.h")


@pytest.mark.slow
@pytest.mark.package("gcc", "libc6-dev")
def test_rings_and_link_are_clean_under_sanitizers(tmp_path):
    """The tests of rings, link and hostile back-ends once more, over a library that reports what C allows."""
    target = tmp_path / build_host.EXTENSION.name
    build_host.build(target, FLAGS.split(), ["-fsanitize=address,undefined"])
    program = (
        "import importlib.util, sys, pytest\n"
        f"spec = importlib.util.spec_from_file_location({build_host.MODULE!r}, {str(target)!r})\n"
        "import dpu_runtime.drivers.host\n"
        "dpu_runtime.drivers.host._libdpu = sys.modules[spec.name] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(dpu_runtime.drivers.host._libdpu)\n"
        "sys.exit(pytest.main(sys.argv[1:]))\n"
    )
    environment = os.environ | {
        "LD_PRELOAD": run("gcc", "-print-file-name=libasan.so").strip(),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",  # the interpreter leaks
    }
    tests = [f"tests/drivers/host/test_{name}.py" for name in ("rings", "link", "hostile")]
    options = ("-q", "-s", "-p", "no:cacheprovider")
    run(sys.executable, "-c", program, *options, *tests, cwd=ROOT, env=environment)


@pytest.mark.package("gcc", "libc6-dev", "valgrind")
def test_open_and_close_leak_nothing(built, tmp_path):
    """A port that is opened and used without an answer, and options that are refused, under valgrind."""
    program = tmp_path / "program.c"
    program.write_text(
        "#include <dpu.h>\n"
        "int main(int argc, char **argv) {\n"
        "    struct dpu_port *port;\n"
        "    struct dpu_options options;\n"
        "    dpu_options_init(&options);\n"
        "    options.queues = 4;\n"
        "    options.server = argc > 2;\n"
        "    if (dpu_open(argv[1], &options, &port) != DPU_ECONNECT) return 1;\n"
        "    options.queues = 1000;\n"
        "    return dpu_open(argv[1], &options, &port) != DPU_EINVAL;\n"
        "}\n"
    )
    include, link = f"-I{build_host.HOST}", f"-L{built}"
    run("gcc", program, "-o", tmp_path / "program", include, link, "-ldpu", f"-Wl,-rpath,{built}")
    for extra in ([], ["server"]):
        run(
            "valgrind",
            "--leak-check=full",
            "--track-fds=yes",
            "--error-exitcode=9",
            tmp_path / "program",
            tmp_path / "socket",
            *extra,
        )
