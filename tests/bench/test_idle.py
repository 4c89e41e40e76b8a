"""bench/idle.py: small; the clock it reads."""

import os
import time

import pytest

from bench import idle


def test_cpu_time_is_that_of_the_process():
    began, used = time.process_time(), idle.cpu_seconds(os.getpid())
    while time.process_time() - began < 0.05:
        pass
    assert idle.cpu_seconds(os.getpid()) - used == pytest.approx(time.process_time() - began, abs=0.02)


@pytest.mark.root
@pytest.mark.package("iproute2")
def test_every_process_of_the_daemon_is_measured():
    made = {one.name: one for one in idle.run(1)}
    parts = [made[f"idle: {name}"].median for name in ("control process", "data plane", "standby")]
    assert made["idle: all of them"].median == pytest.approx(sum(parts))
    assert sum(parts) < 20, "an idle daemon polls"
