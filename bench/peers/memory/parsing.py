"""Headers to offsets, fields and a flow hash: ours beside rte_net_get_ptype, scapy and dpkt.

Ours also checks all lengths and refuses what is malformed. Hashes are compared by what they must tell
apart; every other field is compared with DPDK's, octet for octet.
"""

import contextlib
import random

import dpkt
import numpy as np
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether

from bench import packets
from bench.peers.memory import loops
from bench.peers.memory.compared import Compared, Rate, frames_of, rows_of
from bench.peers.memory.library import frames, library, pointer
from dpu_runtime.kernels.drops import DROP_REASON_COUNT
from dpu_runtime.kernels.layout import HEADROOM_BYTES

OFFSETS = ("l3_offset", "l4_offset", "l5_offset")
FIELDS = (
    "src_hi",
    "src_lo",
    "dst_hi",
    "dst_lo",
    "ethertype",
    "vlan_tci",
    "src_port",
    "dst_port",
    "ip_proto",
    "tcp_flags",
)
PARSED = np.dtype(
    [(name, "u8") for name in FIELDS[:4]]
    + [("flow_hash", "u4")]
    + [(name, "u2") for name in (*OFFSETS, *FIELDS[4:8])]
    + [(name, "u1") for name in FIELDS[8:]],
    align=True,
)  # struct parsed of memory.h
PYTHON_FRAMES = 16  # of the pool, that the Python libraries go round


def mixed_frames():
    """Tagged and untagged, IPv4 and IPv6, TCP and UDP in an order that repeats after all."""
    rng = random.Random(7)
    found = []
    for i in range(packets.POOL_PACKETS):
        packet = Ether(src=packets.CLIENT, dst=packets.SERVER)
        if rng.random() < 0.5:
            packet /= Dot1Q(vlan=rng.randrange(1, 4095))
        flow = i % packets.FLOWS
        if rng.random() < 0.5:
            packet /= IP(src=f"10.0.0.{flow + 1}", dst="192.168.0.1")
        else:
            packet /= IPv6(src=f"2001:db8::{flow + 1:x}", dst="2001:db8:1::1")
        packet /= rng.choice((TCP(flags="PA"), UDP()))
        packet.sport, packet.dport = 1024 + flow, 443
        found.append(bytes(packet) + bytes(rng.randrange(100)))
    return found


def _by_scapy(data):
    packet = Ether(data)
    ip = packet[IP] if IP in packet else packet[IPv6]
    layer = ip[TCP] if TCP in ip else ip[UDP]
    proto = ip.proto if ip.version == 4 else ip.nh
    found = ip.src, ip.dst, proto, layer.sport, layer.dport
    return found, hash(found)


def _by_dpkt(data):
    ip = dpkt.ethernet.Ethernet(data).data
    found = ip.src, ip.dst, ip.p, ip.data.sport, ip.data.dport
    return found, hash(found)


def _over(function, found):
    """Loop of a Python library over some frames."""

    def loop(rounds):
        for _ in range(rounds):
            for data in found:
                function(data)

    return loop


def _check(found, meta, theirs):
    for name in OFFSETS:
        assert (meta[name] - HEADROOM_BYTES == theirs[name]).all(), name
    for name in FIELDS:
        assert (meta[name] == theirs[name]).all(), name
    flows = set(zip(*(meta[name].tolist() for name in (*FIELDS[:4], *FIELDS[6:9])), strict=True))
    assert len(set(meta["flow_hash"].tolist())) == len(flows) == len(set(theirs["flow_hash"].tolist()))
    for record, data in zip(meta, found[:PYTHON_FRAMES], strict=False):
        numbers = record["ip_proto"], record["src_port"], record["dst_port"]
        assert _by_scapy(data)[0][2:] == numbers == _by_dpkt(data)[0][2:]


@contextlib.contextmanager
def compared(ms):
    """Comparisons with samples of `ms`."""
    _, lib = library()
    pools = {name: packets.plain_pool(packets.SIZES[name]) for name in ("64 B", "IMIX")}
    pools["tags, IPv6, TCP"] = packets.make_pool(mixed_frames())
    with contextlib.ExitStack() as stack:
        yield [_one(name, pool, lib, stack, ms) for name, pool in pools.items()]


def _one(name, pool, lib, stack, ms):
    found = frames_of(pool)
    headers, meta = rows_of(pool)
    theirs = np.zeros(len(found), PARSED)
    drops = np.zeros(DROP_REASON_COUNT, np.uint64)
    buffers = stack.enter_context(frames(found))
    out = pointer(theirs, "struct parsed")

    def check():
        assert loops.parse_loop(headers, meta, drops, 1) == len(found)
        lib.parse_loop(buffers, out, 1)
        _check(found, meta, theirs)

    million, few = len(found) / 1e6, found[:PYTHON_FRAMES]
    return Compared(
        f"parse, {name}",
        "Mpps",
        Rate(lambda rounds: loops.parse_loop(headers, meta, drops, rounds) and None, million, ms),
        {
            "DPDK": Rate(lambda rounds: lib.parse_loop(buffers, out, rounds), million, ms),
            "dpkt": Rate(_over(_by_dpkt, few), len(few) / 1e6, ms),
            "scapy": Rate(_over(_by_scapy, few), len(few) / 1e6, ms),
        },
        check,
    )
