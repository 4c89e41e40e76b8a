"""A busy port is taken out of the worker's epoll set, and is back in it when it is quiet."""

import sys
from pathlib import Path

import pytest

from tests.live.daemon import wait_until
from tests.live.veths import plug

pytestmark = [
    pytest.mark.root,
    pytest.mark.compiled,
    pytest.mark.package("iproute2", "iputils-ping"),
]
KICK_EVENT = 0xFFFF
FLOOD = """
import socket, sys
wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
wire.connect((sys.argv[1], 9))
while True:
    try:
        wire.send(bytes(20))
    except ConnectionRefusedError:
        pass  # nobody listens
"""


def flood(container, to):
    """Send small packets, as many as go, until it is killed."""
    return container.popen(sys.executable, "-c", FLOOD, to.ipv4)


def watched(daemon):
    """Indices of ports that the worker's epoll set has, proc(5) fdinfo."""
    folder = Path(f"/proc/{daemon.data_plane()}/fdinfo")
    words = [line.split() for path in folder.iterdir() for line in path.read_text().splitlines()]
    data = {int(line[line.index("data:") + 1], 16) for line in words if line[:1] == ["tfd:"]}
    return data - {KICK_EVENT}


@pytest.mark.parametrize("kind", ["af_packet", "af_xdp"])
def test_a_busy_port_is_looked_at_unasked_until_it_is_quiet(dpu, namespaces, kind):
    a, b = (plug(dpu, namespaces, name, kind) for name in "ab")
    both = {port["info"]["index"] for port in dpu.call("port.show")}
    assert wait_until(lambda: watched(dpu) == both)
    client = flood(a, b)
    assert wait_until(lambda: watched(dpu) < both)
    assert client.poll() is None
    client.kill()
    assert wait_until(lambda: watched(dpu) == both)
    assert " 0% packet loss" in a.run("ping", "-n", "-q", "-i", "0.01", "-c", "50", b.ipv4).stdout


@pytest.mark.parametrize("kind", ["af_packet", "af_xdp"])
def test_a_busy_port_can_be_deleted(dpu, namespaces, kind):
    a, b = (plug(dpu, namespaces, name, kind) for name in "ab")
    client = flood(a, b)
    index = dpu.call("port.show", name="a")[0]["info"]["index"]
    assert wait_until(lambda: index not in watched(dpu))
    dpu.call("port.del", name="a")
    again = plug(dpu, namespaces, "c", kind)
    assert client.poll() is None
    client.kill()
    assert " 0% packet loss" in again.run("ping", "-n", "-q", "-i", "0.01", "-c", "50", b.ipv4).stdout
    status = dpu.call("port.show")
    assert wait_until(lambda: watched(dpu) == {port["info"]["index"] for port in status})
