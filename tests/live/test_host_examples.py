"""The UDP responder of examples/host on a port of a real daemon, asked by a container's own Linux."""

import os
import subprocess

import pytest

from dpu_runtime.drivers.host import build_host
from tests.live.daemon import ROOT

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("gcc", "libc6-dev", "pkg-config")]


@pytest.fixture
def responder(tmp_path):
    """Path of the program, built with pkg-config as a user's is."""
    environment = os.environ | {"PKG_CONFIG_PATH": str(tmp_path / "libdpu")}
    for folder, build in ((build_host.HOST, tmp_path / "libdpu"), (ROOT / "examples" / "host", tmp_path)):
        command = ["make", "-s", "-C", folder, f"BUILD={build}"]
        subprocess.run(command, env=environment, check=True, capture_output=True)
    return tmp_path / "udp_responder"


@pytest.mark.package("iputils-ping")
def test_a_container_pings_and_asks_the_responder(dpu, responder):
    box = dpu.container("box")
    path = dpu.folder / "responder.sock"
    dpu.call("port.add", name="responder", kind="vhost_user", socket=str(path))
    command = [responder, "-t", "60", path, "10.7.0.99"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            box.run("ping", "-c", "3", "-i", "0.2", "-W", "2", "10.7.0.99")
            with box.socket(kind=2) as sock:
                sock.settimeout(5)
                for size in (1, 100, 1472):
                    payload = os.urandom(size)
                    sock.sendto(payload, ("10.7.0.99", 7))
                    assert sock.recvfrom(2000) == (payload, ("10.7.0.99", 7))
        finally:
            process.terminate()
        assert process.communicate(timeout=10)[0].startswith("answered ")
    assert box.snmp("Udp", "InCsumErrors") == 0
