"""A control process that is not the first: it goes on with what the data plane holds."""

import os

import pytest

from dpu_runtime.drivers.vhost_user.messages import Request
from dpu_runtime.drivers.vhost_user.port import VhostUserPort
from tests.drivers.vhost_user.raw_frontend import (
    FEATURES,
    Frontend,
    HoldingPlane,
    Served,
    listen,
    single,
    state,
    u64,
    wait_for,
)

R = Request


def successor(plane, path, **kwargs):
    """A port of the next control process, given what the data plane has."""
    port = VhostUserPort("vm", path, **kwargs)
    port.adopt(*plane.hand_over())
    return port


@pytest.mark.parametrize("client", [False, True])
def test_the_next_control_process_goes_on_with_the_connection(path, client):
    plane = HoldingPlane()
    listener = listen(path) if client else None
    first = Served(VhostUserPort("vm", path, client=client), plane)
    first.__enter__()
    frontend = Frontend(sock=listener.accept()[0]) if client else first.connect()
    frontend.start()
    frontend.ok(R.SET_STATUS, u64(7))
    before, tokens = plane.last, set(plane.last["fds"])
    first.leave()
    frontend.send(R.SET_VRING_ENABLE, state(0, 0), flags=9)  # said to nobody, and waits
    with Served(successor(plane, path, client=client), plane, opened=True) as second:
        assert frontend.receive()[2] == u64(0)
        assert not plane.ring(0)["enabled"] and plane.ring(1)["enabled"]
        assert plane.ring(0)["serial"] == 1
        assert {key: before[key] for key in ("fds", "regions", "features")}.items() <= plane.last.items()
        assert frontend.ask_u64(R.GET_STATUS) == 7
        assert second.port.info()["peer_pid"] == os.getpid()
        frontend.ok(R.ADD_MEM_REG, single(0, 4096, 0), [frontend.memory()])
        assert min(set(plane.last["fds"]) - tokens) > max(tokens)  # no token is given twice
        assert plane.features[-1] == FEATURES and plane.connections[-1]
        frontend.__exit__()
        wait_for(lambda: plane.connections.count(False) == 1)
        frontend = Frontend(sock=listener.accept()[0]) if client else second.connect()
        with frontend:
            frontend.start()
            assert plane.ring(0)["serial"] == 2
        wait_for(lambda: plane.connections.count(False) == 2)
        assert second.port.info()["connections"] >= 2
    plane.close()
    first.port._descriptors.keep([])
    assert os.path.exists(path) == client  # a server's file goes with the second: the first was gone by then
    if client:
        listener.close()
        os.unlink(path)


def test_tokens_that_only_the_data_plane_knows_are_not_given_again(path):
    plane = HoldingPlane()
    with Served(VhostUserPort("vm", path), plane) as first:
        first.call(plane.apply(*first.port.snapshot()))
        snapshot, fds = plane.hand_over()
        stray = os.dup(0)
        snapshot["fds"].append(50)
        port = VhostUserPort("vm", path)
        port.adopt(snapshot, [*fds, stray])
        assert port.snapshot()[0]["notes"]["next_token"] == 51
        assert len(port.snapshot()[1]) == 1  # nothing is kept that nothing names
        first.leave()
        port.close()
    plane.close()
