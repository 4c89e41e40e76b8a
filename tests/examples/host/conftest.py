"""The examples as programs, against the model back-end or testpmd."""

import contextlib
import os
import subprocess
import sys

import pytest

from dpu_runtime.drivers.host import build_host
from tests.conventions import ROOT


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """Folder with the C examples, built with pkg-config as a user's are."""
    folder = tmp_path_factory.mktemp("examples")
    environment = os.environ | {"PKG_CONFIG_PATH": str(folder / "libdpu")}
    for where, build in ((build_host.HOST, folder / "libdpu"), (ROOT / "examples" / "host", folder)):
        done = subprocess.run(
            ["make", "-C", where, f"BUILD={build}", "CFLAGS=-O2 -Werror"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def python_libdpu():
    if not build_host.is_current():
        build_host.build()


@pytest.fixture
def example(programs, python_libdpu):
    """Run an example until the block ends: `with example("udp_responder", ...) as process`."""

    @contextlib.contextmanager
    def run(name, *arguments):
        command = [str(programs / name)]
        if name.endswith(".py"):
            command = [sys.executable, "-m", f"examples.host.{name.removesuffix('.py')}"]
        command += [str(argument) for argument in arguments]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    return run
