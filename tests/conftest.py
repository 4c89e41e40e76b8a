"""What all tests share: markers and their reasons, `--no-skips`, namespaces, the check for leaks.

Fixtures for real Linux, all undone when the test ends:

    netns(ipv6=True)        makes a network namespace, returns its name
    run_in(name, argv)      runs a command in it to its end
    popen_in(name, argv)    starts a command in it
    socket_dir              a folder whose path leaves room in the 107 octets of a Unix socket's
"""

import functools
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests import leaks, modes
from tests import netns as network_namespaces

pytest_plugins = ["tests.live.fixtures"]  # those of daemons
_ROOT = Path(__file__).resolve().parent.parent
_PYTHON_MODE = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
NO_SKIPS_VARIABLE = "DPU_TEST_NO_SKIPS"


class Skips:
    """Counts skipped tests and files; `--no-skips` turns one into a failed run."""

    def __init__(self, forbidden):
        self.forbidden = forbidden
        self.count = 0

    def pytest_runtest_logreport(self, report):
        self.count += report.skipped and not hasattr(report, "wasxfail")

    def pytest_collectreport(self, report):
        self.count += report.skipped

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session):
        if self.forbidden and self.count and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        if self.forbidden and self.count:
            terminalreporter.section("FAILED: skipped tests", red=True)
            terminalreporter.line(f"{self.count} skipped, and --no-skips ({NO_SKIPS_VARIABLE}=1) allows none")


def pytest_addoption(parser):
    parser.addoption(
        "--no-skips", action="store_true", help=f"a skipped test fails the run ({NO_SKIPS_VARIABLE}=1)"
    )


def pytest_configure(config):
    forbidden = config.getoption("--no-skips") or os.environ.get(NO_SKIPS_VARIABLE, "0") not in ("", "0")
    config.pluginmanager.register(Skips(forbidden), "dpu-skips")
    os.environ[leaks.VARIABLE] = str(os.getpid())
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # `ip` and `ethtool`, for users without them
    main = os.getpid()

    def stop_in_order(signum, frame):
        """End the run as Ctrl-C would, so that fixtures undo what they did."""
        if os.getpid() == main:
            pytest.exit("SIGTERM", returncode=128 + signum)
        signal.signal(signum, signal.SIG_DFL)  # a forked child
        os.kill(os.getpid(), signum)

    signal.signal(signal.SIGTERM, stop_in_order)


def pytest_itemcollected(item):
    modes.mark_daemons(item)


def pytest_collection_modifyitems(config, items):
    if _PYTHON_MODE:
        compiled = [item for item in items if item.get_closest_marker("compiled")]
        config.hook.pytest_deselected(items=compiled)
        items[:] = [item for item in items if item not in compiled]


@functools.cache
def root_lacks():
    """Why tests marked `root` cannot run, None if they can."""
    if os.geteuid() != 0:
        return "needs root"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return f"needs network namespaces: {tried.stderr.strip()}" if tried.returncode else None


@functools.cache
def debian_packages():
    """Debian package -> a command or file of it, those that `make setup` installs."""
    lines = (_ROOT / "scripts" / "debian-packages").read_text().splitlines()
    return dict(line.split() for line in lines if line and not line.startswith("#"))


def pytest_runtest_setup(item):
    if item.get_closest_marker("root") and root_lacks():
        pytest.skip(root_lacks())
    for marker in item.iter_markers("package"):
        for name in marker.args:
            assert name in debian_packages(), f"package {name!r} is not in scripts/debian-packages"
            brought = debian_packages()[name]
            if shutil.which(brought) is None and not Path(brought).exists():
                pytest.skip(f"needs the Debian package {name}: make setup, as root, installs it")


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind():
    """Fail a run that leaves namespaces, TAP interfaces or processes on the host."""
    network_namespaces.sweep()
    taps_before = leaks.taps()
    yield
    lines = leaks.left_behind(taps_before)
    assert not lines, "the tests left behind:\n" + "\n".join(lines)


@pytest.fixture
def namespaces():
    """The namespaces of this test, as an object with all that can be done to them."""
    if root_lacks():
        pytest.skip(root_lacks())
    made = network_namespaces.Namespaces()
    yield made
    made.close()


@pytest.fixture
def netns(namespaces):
    """Make a network namespace, removed with the test: `netns()` returns its name."""
    return namespaces.create


@pytest.fixture
def run_in(namespaces):
    """Run a command in a namespace: `run_in(name, argv).stdout`."""
    return namespaces.run


@pytest.fixture
def popen_in(namespaces):
    """Start a command in a namespace, ended with the test: `popen_in(name, argv)`."""
    return namespaces.popen


@pytest.fixture
def socket_dir():
    """Folder with a short path, for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="dpu-") as folder:
        yield Path(folder)
