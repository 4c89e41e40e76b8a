"""A data plane, or a whole daemon, that is killed between any two stores: every chain goes back once.

The compiled stores are watched through the interpreter: with the compiler off each of them is a Python call
that may be the last. So these tests run `kill -9` at each of them in a child with NUMBA_DISABLE_JIT=1.
"""

import os
import subprocess
import sys

import pytest

from tests.conventions import ROOT
from tests.drivers.vhost_user.crashes import SCENARIOS

pytestmark = pytest.mark.three_modes


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_every_store(scenario):
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-m", "tests.drivers.vhost_user.crashes", scenario]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    places = int(done.stdout.split()[0])
    assert places > 20, "the stores are watched"
