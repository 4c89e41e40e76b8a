"""The suite's own machinery, on planted tests in a run of their own."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import leaks, netns
from tests.conventions import ROOT

CONFTEST = "from tests.conftest import *\n"


def within(seconds, condition):
    """Whether `condition()` comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def sleeps(seconds, run=None):
    """Whether the `sleep` with this number is there, among what the test run started."""
    return any(line.split()[1:] == ["sleep", str(seconds)] for line in leaks.processes(run))


@pytest.fixture
def start(tmp_path):
    """Start pytest on a planted file, in a folder outside the suite."""

    def run(text, *arguments, **environment):
        (tmp_path / "conftest.py").write_text(CONFTEST)
        (tmp_path / "test_planted.py").write_text(f"import os, subprocess, time, pytest\n{text}")
        command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", f"--rootdir={tmp_path}"]
        clean = {name: value for name, value in os.environ.items() if name != "DPU_TEST_NO_SKIPS"}
        return subprocess.Popen(
            [
                *map(str, command),
                "-p",
                "no:cacheprovider",
                "-p",
                "no:hypothesispytest",
                *arguments,
                str(tmp_path),
            ],
            env=clean | {"PYTHONPATH": str(ROOT)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return run


@pytest.fixture
def planted(start):
    """Run pytest on a planted file to its end: exit status and output."""

    def run(*arguments, **environment):
        process = start(*arguments, **environment)
        output = process.communicate(timeout=60)[0]
        return process.returncode, output

    return run


SKIPS = {
    "test": "def test_a(): pytest.skip('planted')\n",
    "marker": "@pytest.mark.skipif(True, reason='planted')\ndef test_a(): pass\n",
    "file": "pytest.skip('planted', allow_module_level=True)\n",
    "import": "def test_b(): pass\nos = pytest.importorskip('no_such_module_here', reason='planted')\n",
}


@pytest.mark.parametrize("kind", SKIPS)
def test_a_skip_fails_the_run_only_where_none_is_allowed(planted, kind):
    text = "def test_passes(): pass\n" + SKIPS[kind]
    status, output = planted(text)
    assert status in (0, 5) and "FAILED" not in output  # 5: the whole file was skipped
    status, output = planted(text, "--no-skips")
    assert status in (1, 5) and "1 skipped, and --no-skips" in output and "planted" in output


def test_the_environment_forbids_skips_too(planted):
    assert planted(SKIPS["test"], DPU_TEST_NO_SKIPS="1")[0] == 1


def test_no_skip_no_failure(planted):
    text = "def test_a(): pass\n@pytest.mark.xfail\ndef test_b(): assert False\n"
    status, output = planted(text, "--no-skips")
    assert status == 0, output


def test_a_run_without_tests_fails(planted):
    assert planted("x = 1\n")[0] == pytest.ExitCode.NO_TESTS_COLLECTED


def test_a_missing_package_is_a_skip_with_its_name(planted, tmp_path):
    text = "@pytest.mark.package('iperf3')\ndef test_a(): pass\n"
    text = f"os.environ['PATH'] = {str(tmp_path)!r}\n{text}"
    status, output = planted(text)
    assert status == 0 and "needs the Debian package iperf3: make setup" in output


def test_a_package_that_set_up_does_not_install_is_an_error(planted):
    status, output = planted("@pytest.mark.package('no-such')\ndef test_a(): pass\n")
    assert status == 1 and "'no-such' is not in scripts/debian-packages" in output


def test_compiled_tests_are_left_out_in_python_mode(planted):
    text = "@pytest.mark.compiled\ndef test_a(): pass\ndef test_b(): pass\n"
    assert "2 passed" in planted(text, NUMBA_DISABLE_JIT="0")[1]
    assert "1 passed, 1 deselected" in planted(text, "--no-skips", NUMBA_DISABLE_JIT="1")[1]


def test_a_process_that_outlives_the_run_is_reported(planted):
    shell = "sleep 302 > /dev/null 2>&1 &"
    status, output = planted(f"def test_a(): subprocess.run(['sh', '-c', {shell!r}], check=True)\n")
    assert status == 1 and "the tests left behind:" in output
    pid = re.search(r"process (\d+) sleep 302", output)[1]
    os.kill(int(pid), signal.SIGKILL)


@pytest.mark.root
def test_a_namespace_that_outlives_the_run_is_reported_and_swept(planted):
    text = (
        "def test_a():\n"
        "    name = f'dputest-{os.getpid()}-999'\n"
        "    subprocess.run(['ip', 'netns', 'add', name], check=True)\n"
    )
    status, output = planted(text)
    assert status == 1 and "namespace dputest-" in output
    assert any(path.name.endswith("-999") for path in netns.FOLDER.iterdir())
    netns.sweep()
    assert not any(path.name.endswith("-999") for path in netns.FOLDER.iterdir())


@pytest.mark.root
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_ended_run_takes_its_namespaces_and_processes_along(start, tmp_path, sign):
    text = (
        "def test_a(netns, popen_in):\n"
        "    popen_in(netns(), ['sleep', '300'])\n"
        "    open(os.environ['READY'], 'w').write('x')\n"
        "    time.sleep(300)\n"
    )
    ready = tmp_path / "ready"
    process = start(text, READY=str(ready))
    assert within(60, lambda: ready.exists() and sleeps(300, process.pid))
    assert netns.of_run(process.pid)
    process.send_signal(sign)
    process.communicate(timeout=30)
    assert process.returncode
    if sign == signal.SIGKILL:  # nobody was left to remove the name: the next run does
        netns.sweep()
    assert not netns.of_run(process.pid)
    assert within(5, lambda: not leaks.processes(process.pid))


@pytest.mark.root
def test_namespaces_are_apart_and_have_a_loopback(netns, run_in):
    first, second = netns(), netns(ipv6=False)
    assert first != second
    assert "UP" in run_in(first, ["ip", "link", "show", "lo"]).stdout
    links = run_in(second, ["ip", "-o", "link"]).stdout.splitlines()
    assert len(links) == 1, links
    assert "::1" not in run_in(second, ["ip", "address"]).stdout


@pytest.mark.root
def test_a_failing_command_shows_its_output(netns, run_in):
    with pytest.raises(AssertionError, match="no-such-link"):
        run_in(netns(), ["ip", "link", "show", "no-such-link"])
    assert run_in(netns(), ["false"], check=False).returncode == 1


@pytest.mark.root
def test_a_stopped_process_takes_its_children_along(netns, namespaces, popen_in):
    process = popen_in(netns(), ["sh", "-c", "trap '' TERM; sleep 301 & wait"])
    assert within(10, lambda: sleeps(301))
    namespaces.stop(process)
    assert process.returncode == -signal.SIGKILL
    assert within(5, lambda: not sleeps(301))


def test_a_socket_fits_in_its_folder(socket_dir):
    assert len(os.fsencode(socket_dir / ("x" * 60))) <= 107
    assert Path(socket_dir).is_dir()
