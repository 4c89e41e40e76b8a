"""A function that is switched on and has no machine code yet: it is made beside what runs."""

import os
import shutil
import signal
import uuid
from pathlib import Path

import pytest

from tests.live.daemon import OTHER_PACKAGE, Container, wait_until
from tests.live.streams import Stream

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2")]

ADD = ("scale", "add", "--name", "all", "--port", "a")


@pytest.fixture
def made(new_daemon, tmp_path, namespaces):
    """Start a daemon with another package whose stage nobody ever compiled, and a stream between two ports.

    `made(old, new)`: in which this text of the stage is replaced
    """
    running = []

    def start(old="", new="", standby=True):
        daemon = new_daemon()
        site = shutil.copytree(OTHER_PACKAGE, tmp_path / "site")
        stage = site / "dpu_weigh" / "stage.py"
        text = stage.read_text()
        assert old in text
        stage.write_text(f"{text.replace(old, new, 1)}\n# {uuid.uuid4()}\n")
        daemon.path = [site]
        daemon.start(standby=standby)
        a, b = (Container(daemon, namespaces, name, n, False).attach() for n, name in enumerate("ab", 1))
        stream = Stream(a, b)
        running.append(stream)
        assert stream.goes_on()
        return daemon, stream

    yield start
    for stream in running:
        stream.finish()


def is_as_before(daemon, stream, plane):
    """Whether traffic never stopped and nothing is left of a command that failed."""
    assert daemon.call("scale.show") == []
    assert daemon.data_plane() == plane
    assert stream.goes_on()
    assert stream.finish()
    assert daemon.settled()
    assert daemon.stats()["drops"] == {}
    return True


BROKEN = {
    "types that do not meet": ("left = 0", 'left = "none"'),
    "a name that nobody has": ("left = 0", "left = nothing_of_this_name"),
    "a module that cannot be imported": ("import numpy as np", "import numpy as np\nimport no_such_module"),
    "another form": ("    return left", "    return 0.5"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_stage_that_does_not_compile_changes_nothing(made, fault):
    daemon, stream = made(*BROKEN[fault], standby=False)
    plane = daemon.data_plane()
    done = daemon.cli(*ADD)
    assert done.returncode == 1
    assert "weigh does not compile: " in done.stderr
    assert "nothing was changed" in done.stderr
    assert is_as_before(daemon, stream, plane)


def test_a_process_that_dies_while_it_compiles_changes_nothing(made):
    daemon, stream = made()
    plane, standby = daemon.data_plane(), daemon.wait_for_standby()
    adding = daemon.popen(*ADD)
    assert wait_until(lambda: "compiling 1 of 1: weigh" in daemon.log(), 60)
    children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split()
    (compiling,) = set(map(int, children)) - {plane, standby}
    os.kill(compiling, signal.SIGKILL)
    _, errors = adding.communicate(timeout=60)
    assert adding.returncode == 1
    assert "no machine code of weigh: data plane did not start (exit code -9)" in errors
    assert daemon.wait_for_standby() == standby
    assert is_as_before(daemon, stream, plane)


def test_it_is_on_and_the_standby_has_it_too(made):
    daemon, stream = made()
    plane, standby = daemon.data_plane(), daemon.wait_for_standby()
    done = daemon.cli(*ADD)
    assert done.returncode == 0, done.stderr
    assert daemon.data_plane() == plane
    assert daemon.wait_for_standby() != standby, "the process that made it is the next standby"
    assert wait_until(lambda: daemon.call("scale.show", stats=True)[0]["packets"] > 0)
    assert stream.goes_on()
    os.kill(plane, signal.SIGKILL)
    assert stream.goes_on()
    counted = daemon.call("scale.show", stats=True)[0]["packets"]
    assert wait_until(lambda: daemon.call("scale.show", stats=True)[0]["packets"] > counted)
    assert daemon.log().count("compiling 1 of 1: weigh") == 1
    assert stream.finish()


def test_a_stage_that_raises_ends_its_data_plane_and_can_be_switched_off(made):
    """A worker that ended would leave a data plane that moves nothing and takes no change."""
    daemon, stream = made("    left = 0", "    if count > 0:\n        raise ValueError\n    left = 0")
    daemon.wait_for_standby()
    added = daemon.cli(*ADD).returncode == 0  # or refused, when it was noticed in time
    assert wait_until(lambda: daemon.status()["restarts"] >= 1, 30)
    assert "worker 0 ended; this data plane ends with it" in daemon.log()
    if added:
        assert wait_until(lambda: daemon.cli("scale", "del", "all").returncode == 0, 60)
    assert daemon.call("scale.show") == []
    assert stream.goes_on(60)
    assert stream.finish()
    assert daemon.settled()
