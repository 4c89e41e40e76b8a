"""Fixtures of tests of libdpu.

libdpu       `dpu_runtime.host`, its extension made if it is old
backend      the model back-end of model.py, listening
port         a port on it
"""

import contextlib

import pytest

from dpu_runtime.drivers.host import build_host
from tests.drivers.host.model import Backend


@pytest.fixture(scope="session")
def libdpu():
    """The Python module, over an extension that is as new as its sources."""
    if not build_host.is_current():
        build_host.build()
    import dpu_runtime.host

    return dpu_runtime.host


@pytest.fixture
def socket_path(socket_dir):
    return socket_dir / "port.sock"


@pytest.fixture
def backend(socket_path):
    with Backend(socket_path) as made:
        yield made


@pytest.fixture
def open_port(libdpu, socket_path):
    """Open a port; in the end every buffer of it is somewhere."""
    with contextlib.ExitStack() as stack:
        made = []

        def make(**options):
            port = stack.enter_context(libdpu.open(socket_path, **options))
            made.append(port)
            return port

        yield make
        for port in made:
            stats = port.stats()
            found = stats["bufs_pool"] + stats["bufs_rings"] + stats["bufs_app"]
            assert found == stats["bufs_total"], f"buffers leaked or made: {stats}"


@pytest.fixture
def port(open_port, backend):
    return open_port(ring_size=64)
