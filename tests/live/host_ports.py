"""Host programs of a test on vhost_user ports: libdpu at one end, frames made by scapy."""

import time

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from dpu_runtime import host
from tests.live.daemon import wait_until

NEEDS_CSUM = 1  # virtio 1.2 5.1.6
GSO_TCPV4 = 1
TCP_HEADERS_BYTES = 14 + 20 + 20  # octets: Ethernet, IPv4, TCP
CSUM = {"flags": NEEDS_CSUM, "csum_start": 34}
TCP_OWED = CSUM | {"csum_offset": 16}
UDP_OWED = CSUM | {"csum_offset": 6}


def mac(number):
    """MAC address of test host `number`."""
    return f"02:00:00:00:01:{number:02x}"


def address(number):
    """IPv4 address of test host `number`; containers begin at 10.7.0.1."""
    return f"10.7.0.{100 + number}"


def udp(source, target, payload, sport=1000, dport=2000):
    """A UDP frame between two test hosts."""
    packet = Ether(src=mac(source), dst=mac(target)) / IP(src=address(source), dst=address(target))
    return bytes(packet / UDP(sport=sport, dport=dport) / Raw(payload))


def pseudo_header_sum(frame):
    """Sum that lies in the place of an owed checksum: of the pseudo header only."""
    ip = Ether(frame)[IP]
    length = len(ip) - 20
    words = bytes(frame[26:34]) + bytes([0, ip.proto]) + length.to_bytes(2, "big")
    total = sum(int.from_bytes(words[i : i + 2], "big") for i in range(0, len(words), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def owed(frame, offset):
    """`frame` with its checksum owed: the pseudo header's sum at 34 + `offset`."""
    frame = bytearray(frame)
    frame[34 + offset : 36 + offset] = pseudo_header_sum(frame).to_bytes(2, "big")
    return bytes(frame)


def tcp_segment(source, target, payload):
    """A TCP frame, however large, with its checksum owed."""
    ether = Ether(src=mac(source), dst=mac(target))
    frame = ether / IP(src=address(source), dst=address(target)) / TCP(sport=1, dport=2, seq=1000, flags="A")
    return owed(bytes(frame / Raw(payload)), 16)


def checksum_is_right(frame):
    """Whether scapy computes the same IPv4 and layer 4 checksums."""
    packet = Ether(frame)
    fresh = packet.copy()
    for layer in (IP, TCP, UDP):
        if layer in fresh:
            del fresh[layer].chksum
    return bytes(fresh) == bytes(packet)


class HostPort:
    """A vhost_user port of the daemon with a libdpu program on it: test host `number`.

    add      whether the daemon has no such port yet
    keys     of the port's configuration
    options  of `host.open`
    """

    def __init__(self, dpu, name, number, add=True, keys=None, **options):
        self.dpu = dpu
        self.name = name
        self.number = number
        self.path = dpu.folder / f"{name}.sock"
        if add:
            dpu.call("port.add", name=name, kind="vhost_user", socket=str(self.path), **(keys or {}))
        self.port = host.open(self.path, connect_ms=5000, **options)

    def close(self):
        """Hang up."""
        self.port.close()

    def counters(self):
        """The daemon's counters of the port."""
        return self.dpu.port(self.name)

    def info(self):
        """The daemon's view of the connection."""
        return self.dpu.call("port.show", name=self.name)[0]["info"]

    def buffers_are_all_there(self):
        """Whether every buffer of the program is in its pool, in a ring or in its hands."""
        stats = self.port.stats()
        return stats["bufs_total"] == sum(stats[f"bufs_{where}"] for where in ("pool", "rings", "app"))

    def announce(self):
        """Send a frame to nobody, so that the switch knows where this host is."""
        assert self.port.send(udp(self.number, 99, b"here"), timeout=2)

    def receive(self, count=1, timeout_s=5.0):
        """`count` frames for this host, in order, as (octets, flags, gso_type, gso_size), no others."""
        found = []
        end = time.monotonic() + timeout_s
        while len(found) < count and (left := end - time.monotonic()) > 0:
            for packet in self.port.rx_burst():
                octets, buf = packet.octets(), packet.buf
                if octets[:6] == bytes.fromhex(mac(self.number).replace(":", "")):
                    found.append((octets, int(buf["flags"]), int(buf["gso_type"]), int(buf["gso_size"])))
                self.port.free([packet])
            if len(found) < count:
                self.port.wait(min(left, 0.1))
        return found


def connect(*ports):
    """Wait until the switch has learned where each of the hosts is."""
    for port in ports:
        port.announce()
    assert wait_until(lambda: all(port.counters()["rx_packets"] for port in ports))
