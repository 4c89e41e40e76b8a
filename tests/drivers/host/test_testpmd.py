"""libdpu against a back-end that was not written here: DPDK's net_vhost."""

import time

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from dpu_runtime.drivers.vhost_user import features as f
from tests.drivers.host.testpmd import running_testpmd

pytestmark = pytest.mark.package("dpdk-dev")


def echo_request(number, size):
    ip = Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01") / IP(src="10.0.0.1", dst="10.0.0.2")
    return bytes(ip / ICMP(seq=number) / Raw(bytes([number & 0xFF]) * size))


def test_echo_requests_are_answered(open_port, socket_path, tmp_path):
    with running_testpmd(socket_path, "icmpecho", tmp_path / "log"):
        port = open_port(connect_ms=10000)
        assert port.features & f.mask(f.VIRTIO_NET_F_MRG_RXBUF)
        for number, size in enumerate((20, 56, 500, 1400)):
            assert port.send(echo_request(number, size), timeout=5)
            answer = Ether(port.recv(5))
            assert (answer[ICMP].type, answer[ICMP].seq, answer[IP].src) == (0, number, "10.0.0.2")
            assert answer[Raw].load == bytes([number]) * size


@pytest.mark.parametrize("queues", [1, 2])
def test_every_packet_comes_back_in_order(open_port, socket_path, tmp_path, queues):
    with running_testpmd(socket_path, "io", tmp_path / "log", queues):
        port = open_port(connect_ms=10000, queues=queues, ring_size=256)
        for queue in range(queues):
            sent = received = 0
            while received < 5000:
                while sent < 5000 and sent - received < 200:
                    assert port.send(sent.to_bytes(4, "big") + bytes(60), queue, timeout=5)
                    sent += 1
                frame = port.recv(5, queue)
                assert frame[:4] == received.to_bytes(4, "big")
                received += 1
        stats = port.stats()
        assert stats["rx_packets"] == stats["tx_packets"] == 5000 * queues
        assert stats["rx_errors"] == stats["tx_errors"] == 0


def test_a_large_packet_goes_out_as_a_chain_and_comes_back_in_pieces(open_port, socket_path, tmp_path):
    frame = echo_request(1, 8000)
    with running_testpmd(socket_path, "io", tmp_path / "log"):
        port = open_port(connect_ms=10000)
        assert port.send(frame, timeout=5)
        assert port.wait(5)
        (packet,) = port.rx_burst()
        assert len(packet.pieces) == 4
        assert packet.octets() == frame
        port.free([packet])


def test_rings_go_on_after_testpmd_was_killed(libdpu, open_port, socket_path, tmp_path):
    with running_testpmd(socket_path, "icmpecho", tmp_path / "log"):
        port = open_port(connect_ms=10000)
        assert port.send(echo_request(0, 56), timeout=5)
        assert port.recv(5)
    with pytest.raises(libdpu.DpuError):
        port.recv(5)
    with running_testpmd(socket_path, "icmpecho", tmp_path / "log2"):
        end = time.monotonic() + 10
        while not port.link:
            assert time.monotonic() < end
            try:
                port.wait(0.05)
            except libdpu.DpuError as error:
                assert error.code == libdpu.Error.ELINK
        assert port.send(echo_request(1, 56), timeout=5)
        assert Ether(port.recv(5))[ICMP].seq == 1
    assert port.stats()["reconnects"] == 1
