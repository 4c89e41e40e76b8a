"""The packet generators send what they say, and count what comes back."""

import threading
import time

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from tests.drivers.host.model import Backend
from tests.drivers.host.testpmd import running_testpmd
from tests.examples.host.test_answers import finished


@pytest.fixture
def path(socket_dir):
    return socket_dir / "port.sock"


@pytest.mark.package("dpdk-dev", "gcc", "libc6-dev", "pkg-config")
def test_the_c_generator_gets_its_packets_back_from_testpmd(example, path, tmp_path):
    with (
        running_testpmd(path, "io", tmp_path / "log"),
        example("generator", "-p", "20000", "-t", "30", "-w", path) as process,
    ):
        words = process.communicate(timeout=60)[0].split()
    assert process.returncode == 0
    assert words[:2] == ["sent", "20000"]
    assert words[2] == "received" and 0 < int(words[3]) <= 20000


@pytest.mark.package("gcc", "libc6-dev", "pkg-config")
def test_the_c_generator_names_what_went_wrong(example, path):
    with example("generator", "-s", "9000", path) as process:
        assert process.wait(10) == 2
    with Backend(path) as backend, example("generator", "-t", "20", path) as process:
        backend.wait_for(lambda: backend.rings[1].kick)
        backend.close()
        assert process.wait(20) == 1


@pytest.mark.parametrize("size", [60, 1514, 60000])
def test_the_python_generator_sends_good_frames(example, path, size):
    frames, stop = [], threading.Event()

    def take(backend):
        while not stop.is_set():
            while backend.rings[1].kick and backend.rings[1].available:
                head, header, frame = backend.sent()
                frames.append((header, frame))
                backend.rings[1].put(head)
            time.sleep(0.001)

    with Backend(path) as backend:
        thread = threading.Thread(target=take, args=(backend,))
        thread.start()
        with example("generator.py", path, "--packets", "200", "--size", size, "--seconds", "30") as process:
            printed = process.communicate(timeout=60)[0]
        stop.set()
        thread.join()
    assert process.returncode == 0
    assert printed.startswith("sent 200 received 0 ")
    assert len(frames) == 200
    header, frame = frames[-1]
    packet = Ether(finished(header, frame))
    assert len(frame) == size
    assert packet[IP].len == size - 14
    assert header == ((1, 1, 54, 1448, 34, 16, 0) if size > 1514 else (0,) * 7)
    layer = TCP if size > 1514 else UDP
    checksum = packet[layer].chksum
    del packet[layer].chksum
    assert Ether(bytes(packet))[layer].chksum == checksum
