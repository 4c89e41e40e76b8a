"""The echo server and the UDP responder answer what scapy asks, octet for octet."""

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from dpu_runtime.drivers.vhost_user import features as f
from tests.drivers.host import model
from tests.drivers.host.model import Backend

HERE, THERE = "02:00:00:00:00:01", "02:00:00:00:00:99"
ETHER = Ether(src=HERE, dst=THERE)


@pytest.fixture(params=[True, False], ids=["offload", "no-offload"])
def backend(request, socket_dir):
    features = model.ALL if request.param else model.ALL & ~f.OFFLOAD_FEATURES
    with Backend(socket_dir / "port.sock", features=features) as made:
        yield made


def asked(backend, packet, timeout=10):
    """Deliver a packet; the answer (header, frame), or None if the program stays silent."""
    backend.deliver(bytes(packet))
    backend.rings[0].signal()
    try:
        backend.wait_for(lambda: backend.rings[1].available, timeout)
    except AssertionError:
        return None
    head, header, frame = backend.sent()
    backend.rings[1].put(head)
    return header, frame


def finished(header, frame):
    """The frame as it is on a wire: an owed checksum is computed."""
    if header[0] & 1:
        start, offset = header[4], header[5]
        rest = frame[start:] + bytes(len(frame) - start & 1)
        total = sum(rest[i] << 8 | rest[i + 1] for i in range(0, len(rest), 2))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        frame = bytearray(frame)
        frame[start + offset : start + offset + 2] = (~total & 0xFFFF or 0xFFFF).to_bytes(2, "big")
    return bytes(frame)


@pytest.mark.package("gcc", "libc6-dev", "pkg-config")
def test_the_responder_is_a_host(example, backend):
    with example("udp_responder", "-t", "60", backend.path, "10.0.0.9") as process:
        assert process.stdout.readline() == "ready\n"
        header, frame = asked(
            backend,
            Ether(src=HERE, dst="ff:ff:ff:ff:ff:ff") / ARP(psrc="10.0.0.1", hwsrc=HERE, pdst="10.0.0.9"),
        )
        reply = Ether(src=THERE, dst=HERE) / ARP(
            op=2, hwsrc=THERE, psrc="10.0.0.9", hwdst=HERE, pdst="10.0.0.1"
        )
        assert frame == bytes(reply)
        out, back = IP(src="10.0.0.1", dst="10.0.0.9"), IP(src="10.0.0.9", dst="10.0.0.1")
        reverse = Ether(src=THERE, dst=HERE)
        for size in (0, 1, 100, 1400):
            data = Raw(bytes(range(256)) * 6)
            data.load = data.load[:size]
            header, frame = asked(backend, ETHER / out / ICMP(id=5, seq=size) / data)
            assert frame == bytes(reverse / back / ICMP(type=0, id=5, seq=size) / data)
            header, frame = asked(backend, ETHER / out / UDP(sport=4000, dport=7) / data)
            offload = bool(backend.acked & f.mask(f.VIRTIO_NET_F_CSUM))
            assert header == ((1, 0, 0, 0, 34, 6, 0) if offload else (0,) * 7)
            assert finished(header, frame) == bytes(reverse / back / UDP(sport=7, dport=4000) / data)


@pytest.mark.package("gcc", "libc6-dev", "pkg-config")
def test_the_responder_is_silent_about_the_rest(example, backend):
    out = IP(src="10.0.0.1", dst="10.0.0.9")
    with example("udp_responder", "-t", "60", backend.path, "10.0.0.9") as process:
        assert process.stdout.readline() == "ready\n"
        silent = [
            ETHER / ARP(psrc="10.0.0.1", hwsrc=HERE, pdst="10.0.0.8"),
            ETHER / IP(src="10.0.0.1", dst="10.0.0.8") / UDP(sport=1, dport=2),
            ETHER / out / TCP(),
            ETHER / IP(src="10.0.0.1", dst="10.0.0.9", flags="MF") / UDP(sport=1, dport=2),
            ETHER / out / UDP(sport=1, dport=2, len=4000),
            bytes(ETHER / out)[:20],
        ]
        for packet in silent:
            backend.deliver(bytes(packet))
        # The answer to the last question is the only one.
        _, frame = asked(backend, ETHER / out / ICMP())
        assert Ether(frame)[ICMP].type == 0
        assert not backend.rings[1].available


def test_the_echo_server_swaps_addresses_and_ports(example, backend):
    v4, v6 = {"src": "10.0.0.1", "dst": "10.0.0.9"}, {"src": "fd00::1", "dst": "fd00::9"}

    def turned(addresses):
        return {"src": addresses["dst"], "dst": addresses["src"]}

    with example("echo_server.py", backend.path, "--seconds", "60") as process:
        assert process.stdout.readline() == "ready\n"
        for ip, addresses in ((IP, v4), (IPv6, v6)):
            for layer in (TCP, UDP):
                question = ETHER / ip(**addresses) / layer(sport=1000, dport=2000) / Raw(b"x" * 99)
                answer = Ether(src=THERE, dst=HERE) / ip(**turned(addresses))
                answer /= layer(sport=2000, dport=1000) / Raw(b"x" * 99)
                _, frame = asked(backend, question)
                assert frame == bytes(answer)
        question = bytes(ETHER / ARP())
        assert asked(backend, question)[1] == question[6:12] + question[:6] + question[12:]
        fragment = IP(**v4, frag=5, proto=17) / Raw(b"y" * 40)
        answer = Ether(src=THERE, dst=HERE) / IP(**turned(v4), frag=5, proto=17) / Raw(b"y" * 40)
        assert asked(backend, ETHER / fragment)[1] == bytes(answer)
