"""IP packets of every shape that has a checksum, by scapy, and batches of them with parsed fields.

The fields are found by a plain walk over the octets: no test here depends on our parser.
"""

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.packet import Raw

from dpu_runtime.kernels.layout import (
    HEADROOM_BYTES,
    PARSED_FRAGMENT,
    PARSED_IP_OPTIONS,
    PARSED_IPV4,
    PARSED_IPV6,
    PARSED_LATER_FRAGMENT,
)
from tests.kernels.batches import FILL, Batch

ETHERNET_BYTES = 14
EXTENSIONS = {0, 43, 44, 60}
ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")  # or scapy asks the network
V4 = {"src": "192.0.2.1", "dst": "198.51.100.77"}
V6 = {"src": "2001:db8::1", "dst": "2001:db8:ffff::abcd"}


def ip_headers():
    """Network layers of both versions, plain and with options or extension headers."""
    return {
        "ipv4": IP(**V4),
        "ipv4-options": IP(options=[IPOption_RR(length=23, routers=["0.0.0.0"] * 5)], **V4),
        "ipv6": IPv6(**V6),
        "ipv6-extensions": IPv6(**V6)
        / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 10)])
        / IPv6ExtHdrRouting(segleft=0, addresses=["2001:db8::2"])
        / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 2)]),
    }


def l4_layers(version):
    """Layer 4 headers with a checksum, in packets of IP `version`."""
    echo = ICMP(id=7, seq=9) if version == 4 else ICMPv6EchoRequest(id=7, seq=9)
    return {
        "tcp": TCP(sport=1024, dport=80, options=[("Timestamp", (1, 2))]),
        "udp": UDP(sport=1024, dport=4000),
        "icmp": echo,
        "sctp": SCTP(sport=5000, dport=6000, tag=0x12345678),
    }


def packet(network, transport, data):
    """Octets of a whole frame with all checksums right."""
    ip = ip_headers()[network]
    l4 = l4_layers(4 if network.startswith("ipv4") else 6)[transport]
    body = SCTPChunkData(data=data) if transport == "sctp" else Raw(data)
    return bytes(ETHER / ip / l4 / body)


SHAPES = [(n, t) for n in ip_headers() for t in l4_layers(4)]


def walk(frame):
    """Fields of meta for an untagged IP `frame`, offsets from the start of the frame."""
    if frame[12:14] == b"\x08\x00":
        return _walk_ipv4(frame)
    assert frame[12:14] == b"\x86\xdd"
    return _walk_ipv6(frame)


def _walk_ipv4(frame):
    header = (frame[14] & 15) * 4
    fragment = int.from_bytes(frame[20:22], "big")
    parsed = PARSED_IPV4
    parsed |= PARSED_IP_OPTIONS if header > 20 else 0
    parsed |= PARSED_FRAGMENT if fragment & 0x3FFF else 0
    parsed |= PARSED_LATER_FRAGMENT if fragment & 0x1FFF else 0
    return {
        "l3_len": int.from_bytes(frame[16:18], "big"),
        "ip_proto": frame[23],
        "l4": 0 if fragment & 0x1FFF else ETHERNET_BYTES + header,
        "parsed": parsed,
        "src": (0xFFFF << 32) | int.from_bytes(frame[26:30], "big"),
        "dst": (0xFFFF << 32) | int.from_bytes(frame[30:34], "big"),
    }


def _walk_ipv6(frame):
    proto, at, parsed = frame[20], ETHERNET_BYTES + 40, PARSED_IPV6
    while proto in EXTENSIONS:
        parsed |= PARSED_IP_OPTIONS
        size = 8
        if proto == 44:
            parsed |= PARSED_FRAGMENT
        else:
            size = (frame[at + 1] + 1) * 8
        proto, at = frame[at], at + size
    return {
        "l3_len": 40 + int.from_bytes(frame[18:20], "big"),
        "ip_proto": proto,
        "l4": at,
        "parsed": parsed,
        "src": int.from_bytes(frame[22:38], "big"),
        "dst": int.from_bytes(frame[38:54], "big"),
    }


def plain_sum(data):
    """The definition: big-endian 16-bit words with end-around carry."""
    data = data + b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(data[k : k + 2], "big") for k in range(0, len(data), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo_sum(frame):
    """Folded sum of the pseudo header, from the octets of `frame`."""
    fields = walk(frame)
    size = 4 if fields["src"] >> 32 == 0xFFFF else 16
    low = 2 ** (8 * size) - 1
    l4_len = 14 + fields["l3_len"] - fields["l4"]
    octets = b"".join((fields[k] & low).to_bytes(size, "big") for k in ("src", "dst"))
    return plain_sum(octets + l4_len.to_bytes(4, "big") + fields["ip_proto"].to_bytes(4, "big"))


def set_parsed(record, frame):
    """Write what `walk` finds in `frame` into `record`."""
    fields = walk(frame)
    record["l3_offset"] = HEADROOM_BYTES + ETHERNET_BYTES
    record["l4_offset"] = HEADROOM_BYTES + fields["l4"] if fields["l4"] else 0
    for name in ("l3_len", "ip_proto", "parsed"):
        record[name] = fields[name]
    for name in ("src", "dst"):
        record[name + "_hi"] = fields[name] >> 64
        record[name + "_lo"] = fields[name] & (2**64 - 1)


def ip_batch(frames, in_port=0):
    """A batch of IP `frames` (bytes) as it is after parsing."""
    batch = Batch(frames, in_port)
    for record, frame in zip(batch.meta, frames, strict=True):
        set_parsed(record, bytes(frame))
    return batch


def move_split(batch, i, row_octets, shift=0):
    """Cut packet `i` after `row_octets`; put its payload at an address `shift` octets past a word."""
    batch.lay_payload(i, batch.frame(i)[row_octets:], shift)
    batch.headers[i, HEADROOM_BYTES + row_octets :] = FILL
    batch.meta[i]["header_end"] = HEADROOM_BYTES + row_octets
