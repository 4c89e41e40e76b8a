"""Fixtures: a daemon in memory, and the plugin beside it."""

import pytest

from tests.dpu_runtime.engines.docker.plugin import Plugin
from tests.live.daemons import in_thread


@pytest.fixture
def device(socket_dir):
    """The device of a daemon on `socket_dir`/dpu.sock."""
    with in_thread(socket_dir) as device:
        yield device


@pytest.fixture
def stopped_plugin(socket_dir):
    """A plugin that was not started, and has no daemon."""
    plugin = Plugin(socket_dir)
    yield plugin
    plugin.stop()


@pytest.fixture
def plugin(stopped_plugin):
    """A plugin that runs; with the fixture `device` it has a daemon."""
    return stopped_plugin.start()
