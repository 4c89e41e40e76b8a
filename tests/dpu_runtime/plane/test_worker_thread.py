"""What a worker thread takes along into its compiled loop."""

import subprocess
import sys

import pytest

from tests.conventions import ROOT


@pytest.mark.compiled
def test_the_first_measure_of_the_cycle_rate_is_right():
    """Idle spinning and busy times are taken by it; the first call is the one that counts."""
    program = "from dpu_runtime.plane.worker_thread import tsc_hz; print(tsc_hz(), tsc_hz())"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    first, second = map(int, done.stdout.split())
    assert first == pytest.approx(second, rel=0.1)
