"""The parser against scapy's dissection, for every protocol and combination."""

import ipaddress

import numpy as np
import pytest
from scapy.contrib.geneve import GENEVE
from scapy.contrib.gtp import GTP_U_Header
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    _ICMPv6,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP, GRE, Dot1AD, Dot1Q, Dot3, Ether
from scapy.layers.sctp import SCTP
from scapy.layers.vxlan import VXLAN

from dpu_runtime.kernels.drops import DROP_REASON_COUNT, Drop
from dpu_runtime.kernels.layout import (
    BATCH_SIZE,
    HEADROOM_BYTES,
    PARSED_ARP,
    PARSED_AUTH,
    PARSED_FRAGMENT,
    PARSED_IP_OPTIONS,
    PARSED_IPV4,
    PARSED_IPV6,
    PARSED_LATER_FRAGMENT,
    PARSED_MULTICAST,
    PARSED_PORTS,
    TUNNEL_GENEVE,
    TUNNEL_GRE,
    TUNNEL_GTPU,
    TUNNEL_VXLAN,
)
from dpu_runtime.kernels.parse.parse import parse
from tests.kernels.batches import Batch
from tests.kernels.parse.check import check, run
from tests.kernels.parse.frames import ETH, FRAMES, IP4, IP6, TCP0, chain_frame, chains
from tests.kernels.parse.model import FIELDS

# scapy leaves what follows AH undissected
BEHIND_AH = {6: TCP, 43: IPv6ExtHdrRouting, 44: IPv6ExtHdrFragment, 60: IPv6ExtHdrDestOpt}
IPV6_CHAIN = (IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, IPv6ExtHdrFragment, IPv6ExtHdrDestOpt, AH)
MAPPED = 0xFFFF << 32


def mac(text):
    return int(text.replace(":", ""), 16)


def v4(text):
    return MAPPED | int(ipaddress.ip_address(text))


def dissect(frame):
    """What scapy says about a well-formed frame, as META fields; no flow_hash."""
    out = dict.fromkeys(FIELDS, 0)
    del out["flow_hash"]
    packet = Ether(frame)
    out["src_mac"], out["dst_mac"] = mac(packet.src), mac(packet.dst)
    out["parsed"] = PARSED_MULTICAST if int(packet.dst[:2], 16) & 1 else 0
    out["ethertype"] = packet.len if isinstance(packet, Dot3) else packet.type
    offset, layer = 14, packet.payload
    while isinstance(layer, Dot1Q | Dot1AD) and out["tags"] < 2:
        tci = layer.prio << 13 | layer.dei << 12 | layer.vlan
        out["inner_tci" if out["tags"] else "vlan_tci"] = tci
        out["tags"] += 1
        out["ethertype"], offset, layer = layer.type, offset + 4, layer.payload
    out["vlan"] = out["vlan_tci"] & 0xFFF
    out["l3_offset"] = HEADROOM_BYTES + offset
    if isinstance(layer, ARP):
        out["parsed"] |= PARSED_ARP
        out["src_lo"], out["dst_lo"] = v4(layer.psrc), v4(layer.pdst)
    elif isinstance(layer, IP):
        dissect_ipv4(layer, offset, out)
    elif isinstance(layer, IPv6):
        dissect_ipv6(layer, offset, out)
    return out


def dissect_ipv4(ip, offset, out):
    out["parsed"] |= PARSED_IPV4 | (PARSED_IP_OPTIONS if ip.ihl > 5 else 0)
    out["l3_len"], out["ip_proto"] = ip.len, ip.proto
    out["src_lo"], out["dst_lo"] = v4(ip.src), v4(ip.dst)
    if ip.frag or ip.flags.MF:
        out["parsed"] |= PARSED_FRAGMENT | (PARSED_LATER_FRAGMENT if ip.frag else 0)
    if not ip.frag:
        dissect_layer4(ip.payload, offset + 4 * ip.ihl, out)


def dissect_ipv6(ip, offset, out):
    out["parsed"] |= PARSED_IPV6
    out["l3_len"], out["ip_proto"] = 40 + ip.plen, ip.nh
    for side, text in (("src", ip.src), ("dst", ip.dst)):
        address = int(ipaddress.ip_address(text))
        out[f"{side}_hi"], out[f"{side}_lo"] = address >> 64, address & (2**64 - 1)
    offset, layer = offset + 40, ip.payload
    while isinstance(layer, IPV6_CHAIN):
        out["parsed"] |= PARSED_IP_OPTIONS | (PARSED_AUTH if isinstance(layer, AH) else 0)
        out["ip_proto"] = layer.nh
        offset += len(layer) - len(layer.payload)
        if isinstance(layer, IPv6ExtHdrFragment) and (layer.offset or layer.m):
            out["parsed"] |= PARSED_FRAGMENT | (PARSED_LATER_FRAGMENT if layer.offset else 0)
            if layer.offset:
                return
        layer = BEHIND_AH[layer.nh](bytes(layer.payload)) if isinstance(layer, AH) else layer.payload
    dissect_layer4(layer, offset, out)


def dissect_layer4(layer, offset, out):
    if isinstance(layer, TCP):
        size, out["tcp_flags"] = 4 * layer.dataofs, int(layer.flags) & 0xFF
    elif isinstance(layer, GRE):
        size, out["tunnel"], out["tunnel_id"] = len(layer) - len(layer.payload), TUNNEL_GRE, layer.key or 0
    elif isinstance(layer, UDP | SCTP):
        size = 8 if isinstance(layer, UDP) else 12
    elif isinstance(layer, ICMP | _ICMPv6) and out["ip_proto"] == (1 if out["parsed"] & PARSED_IPV4 else 58):
        size = 8
    else:
        return
    out["l4_offset"], out["l5_offset"] = HEADROOM_BYTES + offset, HEADROOM_BYTES + offset + size
    if isinstance(layer, TCP | UDP | SCTP):
        out["parsed"] |= PARSED_PORTS
        out["src_port"], out["dst_port"] = layer.sport, layer.dport
    for kind, number, field in (
        (VXLAN, TUNNEL_VXLAN, "vni"),
        (GENEVE, TUNNEL_GENEVE, "vni"),
        (GTP_U_Header, TUNNEL_GTPU, "teid"),
    ):
        if isinstance(layer, UDP) and isinstance(layer.payload, kind):
            out["tunnel"], out["tunnel_id"] = number, getattr(layer.payload, field)


def assert_scapy_agrees(frame, rec):
    expected = dissect(frame)
    assert {name: int(rec[name]) for name in expected} == expected


@pytest.mark.parametrize("name", FRAMES)
def test_frame(name):
    meta = check([FRAMES[name]])
    assert_scapy_agrees(FRAMES[name], meta[0])


def test_every_legal_order_of_extension_headers():
    frames = [bytes(chain_frame(order)) for order in chains()]
    for frame, rec in zip(frames, check(frames), strict=True):
        assert_scapy_agrees(frame, rec)
        assert rec["src_port"] == 40000 and rec["ip_proto"] == 6


def test_fragment_flags_of_a_chain():
    atomic, first = check([bytes(chain_frame((kind,))) for kind in ("atomic", "first")])
    assert not atomic["parsed"] & PARSED_FRAGMENT
    assert first["parsed"] & PARSED_FRAGMENT and not first["parsed"] & PARSED_LATER_FRAGMENT


def test_hop_by_hop_goes_first_only():
    orders = [("destination", "hop"), ("hop", "hop"), ("first", "hop"), ("auth", "hop", "routing")]
    meta = check([bytes(chain_frame(order)) for order in orders])
    assert set(meta["drop_reason"]) == {Drop.IPV6_EXTENSION}


def test_extension_count_is_bounded():
    frames = [bytes(chain_frame(("destination",) * count)) for count in (7, 8, 9, 12)]
    assert check(frames)["drop_reason"].tolist() == [0, 0, *[Drop.IPV6_EXTENSION_COUNT] * 2]


@pytest.mark.parametrize("ip", [IP4, IP6])
def test_both_directions_have_one_hash_and_all_fragments_another(ip):
    here, there = ip(), ip(src=ip().dst, dst=ip().src)
    pair = check([bytes(ETH / here / TCP0), bytes(ETH / there / TCP(sport=443, dport=40000))])
    assert pair[0]["flow_hash"] == pair[1]["flow_hash"] != 0


def test_fragments_of_a_datagram_have_one_hash():
    first = ETH / IP4(flags="MF", proto=17) / UDP(sport=1, dport=2, len=100) / (b"x" * 16)
    later = ETH / IP4(frag=3, proto=17) / (b"x" * 16)
    meta = check([bytes(first), bytes(later)])
    assert meta[0]["flow_hash"] == meta[1]["flow_hash"]
    assert meta[0]["src_port"] == 1 and meta[1]["src_port"] == 0


def test_whole_batch_and_count():
    frames = [FRAMES[name] for name in list(FRAMES)[:BATCH_SIZE]]
    check((frames * 2)[:BATCH_SIZE])
    batch, drops = Batch(frames), np.zeros(DROP_REASON_COUNT, np.uint64)
    batch.meta["verdict"] = 77
    assert parse(batch.headers, batch.meta, 3, drops) == 3
    assert batch.meta["verdict"].tolist() == [0] * 3 + [77] * (len(frames) - 3)
    assert parse(batch.headers, batch.meta, 0, drops) == 0


def test_drops_are_added_to():
    batch, drops = Batch([b"x" * 13, FRAMES["arp"]]), np.full(DROP_REASON_COUNT, 5, np.uint64)
    assert parse(batch.headers, batch.meta, 2, drops) == 1
    assert drops[Drop.RUNT] == 6 and drops.sum() == 5 * DROP_REASON_COUNT + 1


def test_moved_layer_2():
    """`l2_offset` may be anywhere in the headroom, as behind a popped or pushed tag."""
    frame = FRAMES["ipv6-tcp_options"]
    plain, _ = run([frame])
    for move in (-HEADROOM_BYTES, -12, 4):
        batch, drops = Batch([frame]), np.zeros(DROP_REASON_COUNT, np.uint64)
        batch.headers[0] = np.roll(batch.headers[0], move)
        batch.meta["l2_offset"] = HEADROOM_BYTES + move
        batch.meta["header_end"] = HEADROOM_BYTES + move + len(frame)
        assert parse(batch.headers, batch.meta, 1, drops) == 1
        for name in FIELDS:
            shift = move if name in ("l3_offset", "l4_offset", "l5_offset") else 0
            assert int(batch.meta[0][name]) == int(plain[0][name]) + shift, name
