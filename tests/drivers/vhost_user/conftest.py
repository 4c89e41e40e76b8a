"""A port at work with a recording data plane, and a check that no descriptor is left."""

import logging

import pytest

from dpu_runtime.drivers.vhost_user.port import VhostUserPort
from tests.drivers.vhost_user.raw_frontend import Served, open_fds


@pytest.fixture
def served(socket_dir, caplog):
    """A server port of 2 queue pairs, MTU 1500."""
    caplog.set_level(logging.INFO, "dpu.vhost_user")
    before = open_fds()
    with Served(VhostUserPort("vm", str(socket_dir / "vm.sock"), queues=2)) as served:
        yield served
    assert open_fds() == before


@pytest.fixture
def frontend(served):
    """A front-end connected to it."""
    with served.connect() as frontend:
        yield frontend
    served.gone()


@pytest.fixture
def path(socket_dir):
    """Where a socket may be; no descriptor is left."""
    before = open_fds()
    yield str(socket_dir / "vm.sock")
    assert open_fds() == before
