"""examples/sandbox.py: what is inside, what stays outside, how it ends."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests import leaks

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.root


def run(body, *arguments):
    """Run a script that has `sandbox`; returns the finished process."""
    script = "import os, signal, subprocess, sys\nfrom pathlib import Path\nfrom examples import sandbox\n"
    argv = [sys.executable, "-c", script + textwrap.dedent(body), *map(str, arguments)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)


def test_interfaces_mounts_and_processes_are_its_own():
    done = run(
        """
        def look():
            Path("/run/netns").mkdir()
            subprocess.run(["ip", "netns", "add", "inside"], check=True)
            subprocess.run(["ip", "link", "add", "br-inside", "type", "bridge"], check=True)
            names = Path("/proc/net/dev").read_text()
            print(os.getpid(), "br-inside" in names and "lo" in names and "eth0" not in names)
            print(os.listdir("/run"), os.listdir("/var/lib"))
            print(max(int(name) for name in os.listdir("/proc") if name.isdigit()) < 20)
            return 5
        sys.exit(sandbox.run(look))
        """
    )
    assert done.stdout.splitlines() == ["1 True", "['netns'] []", "True"], done.stderr
    assert done.returncode == 5
    assert not Path("/run/netns/inside").exists()
    assert not Path("/sys/class/net/br-inside").exists()


def test_what_is_kept_is_all_that_is_seen_below_a_hidden_folder():
    folder = Path(f"/run/dpu-test-{os.getpid()}")
    (folder / "kept").mkdir(parents=True)
    (folder / "kept" / "file").write_text("still here")
    (folder / "hidden").mkdir()
    try:
        done = run(
            """
            kept = Path(sys.argv[1])
            def look():
                print((kept / "file").read_text(), os.listdir(kept.parent))
                return 0
            sys.exit(sandbox.run(look, [kept, "/usr"]))
            """,
            folder / "kept",
        )
    finally:
        shutil.rmtree(folder)
    assert (done.returncode, done.stdout) == (0, "still here ['kept']\n"), done.stderr


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_runs_what_is_in_finally(sign):
    done = run(
        """
        def wait():
            try:
                os.kill(os.getpid(), int(sys.argv[1]))
                signal.pause()
            finally:
                os.kill(os.getpid(), int(sys.argv[1]))  # once more does not disturb
                print("tidied up")
        sys.exit(sandbox.run(wait))
        """,
        int(sign),
    )
    assert (done.returncode, done.stdout) == (128 + sign, "tidied up\n"), done.stderr


def test_an_exception_is_shown_and_is_exit_status_1():
    done = run("sys.exit(sandbox.run(lambda: 1 / 0))")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_processes_that_are_left_inside_end_with_it():
    done = run(
        """
        def leave():
            subprocess.Popen(["sleep", "60"], start_new_session=True)
            return 0
        sys.exit(sandbox.run(leave))
        """
    )
    assert done.returncode == 0
    assert [line for line in leaks.processes() if "sleep 60" in line] == []
