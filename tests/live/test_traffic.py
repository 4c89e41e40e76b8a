"""Real traffic between two containers: every kind of packet that Linux makes on its own."""

import hashlib
import os
import re
import socket
import threading

import pytest

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2", "iputils-ping")]

SOL_UDP, UDP_SEGMENT = 17, 103  # linux/udp.h
ETHERNET_BYTES = 14


def digest_of_stream(server, received):
    """Accept one connection and read it to its end."""
    connection, _ = server.accept()
    digest = hashlib.sha256()
    with connection:
        connection.settimeout(20)
        while data := connection.recv(1 << 18):
            digest.update(data)
    received.append(digest.hexdigest())


def transfer(sender, receiver, size, address=None, port=5001):
    """Send `size` random octets over TCP; True when they arrive as they were."""
    family = socket.AF_INET6 if address and ":" in address else socket.AF_INET
    data = os.urandom(size)
    received = []
    with receiver.socket(family=family) as server, sender.socket(family=family) as client:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address or receiver.ipv4, port))
        server.listen()
        reader = threading.Thread(target=digest_of_stream, args=(server, received))
        reader.start()
        client.connect((address or receiver.ipv4, port))
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        reader.join(30)
    return received == [hashlib.sha256(data).hexdigest()]


def mean_bytes(counters, direction):
    """Octets of an average frame."""
    return counters[f"{direction}_bytes"] / max(1, counters[f"{direction}_packets"])


def checksum_errors(container):
    """Bad checksums that Linux saw."""
    return container.snmp("Tcp", "InCsumErrors") + container.snmp("Udp", "InCsumErrors")


@pytest.mark.parametrize("size", [0, 56, 1472, 9000, 65507])
def test_ping_in_fragments_too(dpu, size):
    a, b = dpu.container("a"), dpu.container("b")
    a.ping(b.ipv4, 3, "-s", size)


def test_ping_ipv6(dpu):
    a, b = dpu.container("a", ipv6=True), dpu.container("b", ipv6=True)
    a.ping(b.ipv6, 3)
    b.ping(a.ipv6, 2, "-s", 8000)


@pytest.mark.parametrize("ipv6", [False, True])
def test_large_tcp_packets_cross_in_one_piece(dpu, ipv6):
    a, b = dpu.container("a", ipv6=ipv6), dpu.container("b", ipv6=ipv6)
    assert transfer(a, b, 64 << 20, b.ipv6 if ipv6 else None)
    assert dpu.settled()
    ports = dpu.stats()["ports"]
    assert mean_bytes(ports["a"], "rx") > 8000
    assert mean_bytes(ports["b"], "tx") > 8000
    for port in ports.values():
        assert (port["gso_segments"], port["tx_checksums"], port["gro_merged"]) == (0, 0, 0)


@pytest.mark.parametrize("ipv6", [False, True])
def test_port_without_offload_gets_segments_with_good_checksums(dpu, ipv6):
    a, b = dpu.container("a", ipv6=ipv6), dpu.container("b", ipv6=ipv6, offload=False)
    assert transfer(a, b, 8 << 20, b.ipv6 if ipv6 else None)
    assert dpu.settled()
    port = dpu.port("b")
    assert port["gso_segments"] > 1000
    assert port["tx_checksums"] > 0
    assert mean_bytes(port, "tx") <= ETHERNET_BYTES + 1500
    assert checksum_errors(b) == 0


def test_packets_of_a_port_without_offload_are_merged(dpu):
    a, b = dpu.container("a", offload=False), dpu.container("b")
    assert transfer(a, b, 32 << 20)
    assert dpu.settled()
    assert dpu.port("b")["gro_merged"] > 1000
    assert mean_bytes(dpu.port("b"), "tx") > 2 * mean_bytes(dpu.port("a"), "rx")
    assert checksum_errors(b) == 0


def test_nothing_is_merged_where_gro_is_off(dpu):
    a, b = dpu.container("a", offload=False, gro=False), dpu.container("b")
    assert transfer(a, b, 8 << 20)
    assert dpu.port("b")["gro_merged"] == 0


def test_neither_side_has_offloads(dpu):
    a, b = dpu.container("a", offload=False), dpu.container("b", offload=False)
    assert transfer(a, b, 8 << 20)
    ports = dpu.stats()["ports"]
    assert ports["a"]["gso_segments"] == ports["b"]["gso_segments"] == 0
    assert checksum_errors(a) == checksum_errors(b) == 0


@pytest.mark.parametrize("offload", [True, False])
def test_large_udp_packets(dpu, offload):
    a, b = dpu.container("a"), dpu.container("b", offload=offload)
    uso = dpu.call("port.show", name="a")[0]["info"]["offloads"]["uso"]
    datagrams, size = 40, 1000
    with b.socket(socket.SOCK_DGRAM) as receiver, a.socket(socket.SOCK_DGRAM) as sender:
        receiver.bind((b.ipv4, 5002))
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sender.setsockopt(SOL_UDP, UDP_SEGMENT, size)
        a.ping(b.ipv4)
        before = dpu.port("a")["rx_packets"]
        data = os.urandom(datagrams * size)
        sender.sendto(data, (b.ipv4, 5002))
        assert b"".join(receiver.recv(1 << 16) for _ in range(datagrams)) == data
    assert dpu.settled()
    assert dpu.port("a")["rx_packets"] - before == (1 if uso else datagrams)
    assert dpu.port("b")["gso_segments"] == (0 if offload or not uso else datagrams - 1)
    assert checksum_errors(b) == 0


def test_jumbo_frames(dpu):
    a, b = dpu.container("a", mtu=9000), dpu.container("b", mtu=9000, offload=False)
    a.ping(b.ipv4, 2, "-M", "do", "-s", 8972)
    assert transfer(a, b, 16 << 20)
    assert dpu.settled()
    assert 4000 < mean_bytes(dpu.port("b"), "tx") <= ETHERNET_BYTES + 9000


def test_largest_mtu(dpu):
    mtu = 65535 - ETHERNET_BYTES
    a, b = dpu.container("a", mtu=mtu), dpu.container("b", mtu=mtu)
    a.ping(b.ipv4, 2, "-M", "do", "-s", mtu - 28)


def test_packet_larger_than_the_mtu_of_its_egress_port_is_dropped(dpu):
    a, b = dpu.container("a", mtu=9000), dpu.container("b")
    a.ping(b.ipv4)
    before = dpu.drops("mtu_exceeded")
    lost = a.ping(b.ipv4, 3, "-W", 1, "-M", "do", "-s", 4000, check=False)
    assert lost.returncode == 1
    assert dpu.drops("mtu_exceeded") == before + 3


def test_mtu_changes_under_traffic(dpu):
    a, b = dpu.container("a"), dpu.container("b")
    toml = dpu.call("config.get")["toml"].replace('kind = "tap"', 'kind = "tap"\nmtu = 4000')
    ping = a.popen("ping", "-n", "-q", "-f", "-c", 20000, b.ipv4, stdout=-1, text=True)
    changes = dpu.call("config.apply", toml=toml)["changes"]
    assert any("mtu" in line for line in changes)
    assert " 0% packet loss" in ping.communicate(timeout=60)[0]
    a.ping(b.ipv4, 1, "-M", "do", "-s", 3972)


def test_many_short_connections(dpu):
    a, b = dpu.container("a"), dpu.container("b")
    with b.socket() as server:
        server.bind((b.ipv4, 5003))
        server.listen(64)
        for number in range(200):
            with a.socket() as client:
                client.connect((b.ipv4, 5003))
                connection, _ = server.accept()
                client.sendall(b"%d" % number)
                assert connection.recv(100) == b"%d" % number
                connection.close()


def test_flood_ping_loses_nothing(dpu):
    a, b = dpu.container("a"), dpu.container("b")
    a.ping(b.ipv4)
    out = a.ping(b.ipv4, 5000, "-q", "-f").stdout
    assert re.search(r"5000 packets transmitted, 5000 received, 0% packet loss", out), out
    ports = dpu.stats()["ports"]
    assert ports["a"]["rx_packets"] == ports["b"]["tx_packets"] >= 5001
