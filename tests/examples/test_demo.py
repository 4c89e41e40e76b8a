"""`make demo`: the whole run, a step that fails, and interruptions; none leaves anything behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import leaks

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("/run/netns/web", "/run/netns/client", "/run/demo", "/run/dpu", "/var/lib/dpu")
WHOLE_SECONDS_MAX = 60  # what `make demo` promises for a first run

pytestmark = [
    pytest.mark.root,
    pytest.mark.package("iproute2", "iputils-ping", "iperf3", "curl"),
]


def present():
    """Those of the paths that the demo uses which the host has."""
    return [path for path in PLACES if Path(path).exists()]


@pytest.fixture
def demo():
    """Start the demo; whatever became of it, nothing of it is left."""
    before = present()
    others = set(leaks.processes())  # of tests that share a daemon
    started = []

    def start(env=None):
        process = subprocess.Popen(
            [sys.executable, "-m", "examples.demo"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
    deadline = time.monotonic() + leaks.GRACE_SECONDS_MAX
    while set(leaks.processes()) - others and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not set(leaks.processes()) - others
    assert present() == before


def read_until(process, text):
    """Read the demo's lines up to one that contains `text`."""
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"the demo ended before {text!r}")


@pytest.mark.slow
def test_the_whole_demo(demo):
    process = demo()
    out, _ = process.communicate(timeout=3 * WHOLE_SECONDS_MAX)
    assert process.returncode == 0, out
    for shown in (" 0% packet loss", "SHA-256", "Gbit/s", "no-http", "timed out", "All steps done"):
        assert shown in out
    assert "Traceback" not in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sign", "line", "seconds"),
    [
        (signal.SIGINT, "1/8", 0.0),
        (signal.SIGINT, "$ dpu run", 0.5),  # while the data plane loads or compiles
        (signal.SIGTERM, "5/8", 1.0),  # under traffic
        (signal.SIGINT, "8/8", 0.0),
        (signal.SIGKILL, "4/8", 0.0),
    ],
    ids=["making containers", "starting", "SIGTERM in a transfer", "taking down", "SIGKILL"],
)
def test_an_interrupted_demo_leaves_nothing(demo, sign, line, seconds):
    process = demo()
    read_until(process, line)
    time.sleep(seconds)
    process.send_signal(sign)
    out, _ = process.communicate(timeout=20)
    if sign == signal.SIGKILL:
        assert process.returncode == -sign
    else:
        assert process.returncode == 128 + sign
        assert out.endswith("\ndemo: interrupted; everything is taken down\n")
        assert "Traceback" not in out


def test_ctrl_c_reaches_every_process_of_the_terminal(demo):
    """As a terminal does it: the signal goes to the whole process group, and more than once."""
    process = demo()
    read_until(process, "1/8")
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in out


def test_a_step_that_fails_is_named(demo, tmp_path):
    curl = tmp_path / "curl"
    curl.write_text("#!/bin/sh\necho no network today; exit 7\n")
    curl.chmod(0o755)
    process = demo({"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    out, _ = process.communicate(timeout=3 * WHOLE_SECONDS_MAX)
    assert process.returncode == 1
    assert "demo: step 4 failed: Download a file" in out
    assert "exit status 7\nno network today" in out


def test_without_root_it_says_so():
    """It is imported first: the checkout may be where others cannot read."""
    program = "import os, sys; from examples import demo; os.setresuid(*3 * [65534]); sys.exit(demo.main())"
    nobody = [sys.executable, "-c", program]
    done = subprocess.run(nobody, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "demo: needs root: it makes network namespaces and interfaces\n",
    )


def test_namespaces_of_the_same_names_are_not_touched(demo):
    """Users may have a `web` of their own: the demo's is another one, which only it can see."""
    before = present()
    process = demo()
    read_until(process, "2/8")
    during = present()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert during == before
