"""A slow, obvious parser in plain Python: the oracle for frames that scapy cannot judge.

It works on `bytes` by slices and shares no code with the kernels. `visible` is the part of the
frame that lies in the header row; reading behind it raises `IndexError`, so the model is also a
proof that no decision needs more.
"""

import struct

from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import (
    FRAME_BYTES_MAX,
    HEADROOM_BYTES,
    META_DTYPE,
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
    VERDICT_DROP,
    VERDICT_PASS,
)

_NAMES = list(META_DTYPE.names)
FIELDS = _NAMES[_NAMES.index("ethertype") : _NAMES.index("payload_iov")]  # all that the parser writes,
FIELDS.remove("repeats")  # but for this one, which is about two packets
MAPPED = 0xFFFF << 32
EXTENSIONS = {43, 44, 51, 60}


class Dropped(Exception):  # noqa: N818
    """The frame is dropped for `args[0]`."""


class Reader:
    """The octets a parser may see."""

    def __init__(self, data):
        self.data = data

    def __call__(self, offset, length):
        if offset + length > len(self.data):
            raise IndexError(f"read of {offset}+{length} in {len(self.data)}")
        return int.from_bytes(self.data[offset : offset + length], "big")


def require(condition, reason):
    """Drop for `reason` unless `condition` holds."""
    if not condition:
        raise Dropped(reason)


def hash_model(src, dst, proto, sport, dport):
    """flow_hash of 128-bit addresses in Python integers."""
    mask = 2**64 - 1

    def word(address, port):
        return (address & mask) ^ (port << 48) ^ ((address >> 64) * 0x9E3779B97F4A7C15 & mask)

    low, high = sorted((word(src, sport), word(dst, dport)))
    h = (low * 0xBF58476D1CE4E5B9 + high * 0x94D049BB133111EB & mask) ^ proto
    for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        h = (h ^ h >> 33) * multiplier & mask
    return (h ^ h >> 33) & 0xFFFFFFFF


def model(frame, visible=None, gso_type=0):
    """META fields of `frame` (bytes) as a dict; `visible` octets of it lie in the header row."""
    seen = frame[: len(frame) if visible is None else visible][:256]
    out = dict.fromkeys(FIELDS, 0)
    try:
        _frame(Reader(seen), len(seen), len(frame), out, gso_type)
        out["verdict"] = VERDICT_PASS
    except Dropped as drop:
        out["verdict"], out["drop_reason"] = VERDICT_DROP, int(drop.args[0])
    for name in ("l3_offset", "l4_offset", "l5_offset"):
        out[name] += HEADROOM_BYTES if out[name] else 0
    return out


def _frame(get, seen, size, out, gso_type):
    require(seen >= 14, Drop.RUNT)
    out["dst_mac"], out["src_mac"] = get(0, 6), get(6, 6)
    out["parsed"] = PARSED_MULTICAST if get(0, 1) & 1 else 0
    offset, ethertype, fault = 14, get(12, 2), None
    for name in ("vlan_tci", "inner_tci"):
        if ethertype not in (0x8100, 0x88A8) or fault:
            break
        if seen < offset + 4:
            fault = Drop.VLAN_TRUNCATED
            break
        out[name], ethertype = get(offset, 2), get(offset + 2, 2)
        out["tags"] += 1
        offset += 4
    out["vlan"] = out["vlan_tci"] & 0xFFF
    out["ethertype"], out["l3_offset"] = ethertype, offset
    require(size <= FRAME_BYTES_MAX, Drop.OVERSIZE)
    require(not get(6, 1) & 1, Drop.SOURCE_MULTICAST)
    require(fault is None, fault)
    if ethertype == 0x0806:
        _arp(get, seen, offset, out)
    elif ethertype == 0x0800:
        _ipv4(get, seen, size, offset, out, gso_type)
    elif ethertype == 0x86DD:
        _ipv6(get, seen, size, offset, out, gso_type)
    else:
        out["flow_hash"] = hash_model(out["src_mac"], out["dst_mac"], ethertype, 0, 0)


def _arp(get, seen, at, out):
    out["parsed"] |= PARSED_ARP
    require(seen >= at + 28, Drop.ARP_MALFORMED)
    htype, ptype, hlen, plen = struct.unpack("!HHBB", get.data[at : at + 6])
    require((htype, ptype, hlen, plen) == (1, 0x800, 6, 4), Drop.ARP_MALFORMED)
    out["src_lo"], out["dst_lo"] = MAPPED | get(at + 14, 4), MAPPED | get(at + 24, 4)
    out["flow_hash"] = hash_model(out["src_lo"], out["dst_lo"], 0, 0, 0)


def _options_are_sound(options):
    while options:
        if options[0] == 0:
            return True
        if options[0] == 1:
            options = options[1:]
        elif len(options) < 2 or not 2 <= options[1] <= len(options):
            return False
        else:
            options = options[options[1] :]
    return True


def _ipv4(get, seen, size, at, out, gso_type):
    out["parsed"] |= PARSED_IPV4
    require(seen >= at + 20, Drop.IPV4_TRUNCATED)
    version, words = divmod(get(at, 1), 16)
    require(version == 4 and words >= 5, Drop.IPV4_HEADER)
    require(seen >= at + 4 * words, Drop.IPV4_TRUNCATED)
    require(_options_are_sound(get.data[at + 20 : at + 4 * words]), Drop.IPV4_HEADER)
    total, flags = get(at + 2, 2), get(at + 6, 2)
    if words > 5:
        out["parsed"] |= PARSED_IP_OPTIONS
    out["l3_len"], out["ip_proto"] = total, get(at + 9, 1)
    out["src_lo"], out["dst_lo"] = MAPPED | get(at + 12, 4), MAPPED | get(at + 16, 4)
    require(4 * words <= total <= size - at, Drop.IPV4_LENGTH)
    start, more = 8 * (flags & 0x1FFF), flags & 0x2000
    if start or more:
        out["parsed"] |= PARSED_FRAGMENT | (PARSED_LATER_FRAGMENT if start else 0)
        require(start + total <= 65535, Drop.IPV4_FRAGMENT)
    _transport(get, seen, at + 4 * words, at + total, out, gso_type)


def _ipv6(get, seen, size, at, out, gso_type):
    out["parsed"] |= PARSED_IPV6
    require(seen >= at + 40, Drop.IPV6_TRUNCATED)
    require(get(at, 1) >> 4 == 6, Drop.IPV6_HEADER)
    length, proto = get(at + 4, 2), get(at + 6, 1)
    out["src_hi"], out["src_lo"] = get(at + 8, 8), get(at + 16, 8)
    out["dst_hi"], out["dst_lo"] = get(at + 24, 8), get(at + 32, 8)
    out["ip_proto"] = proto
    require(at + 40 + length <= size, Drop.IPV6_LENGTH)
    require(length > 0 or proto != 0, Drop.IPV6_LENGTH)
    require(40 + length <= 65535, Drop.IPV6_LENGTH)
    out["l3_len"] = 40 + length
    end = at + 40 + length
    here = _extensions(get, min(seen, end), at, end, out) if proto in EXTENSIONS | {0} else at + 40
    _transport(get, seen, here, end, out, gso_type)


def _extensions(get, limit, at, end, out):
    """Walk the chain; leaves the last protocol in `out` and returns its offset."""
    out["parsed"] |= PARSED_IP_OPTIONS
    here, proto, walked = at + 40, out["ip_proto"], 0
    try:
        while proto in EXTENSIONS or (proto == 0 and walked == 0):
            require(walked < 8, Drop.IPV6_EXTENSION_COUNT)
            require(here + 8 <= limit, Drop.IPV6_EXTENSION)
            units = get(here + 1, 1)
            length = 8 if proto == 44 else 4 * (units + 2) if proto == 51 else 8 * (units + 1)
            require(here + length <= limit, Drop.IPV6_EXTENSION)
            if proto == 51:
                require(length >= 12, Drop.IPV6_EXTENSION)
                out["parsed"] |= PARSED_AUTH
            if proto == 44:
                start, more = get(here + 2, 2) & 0xFFF8, get(here + 2, 2) & 1
                if start or more:
                    out["parsed"] |= PARSED_FRAGMENT | (PARSED_LATER_FRAGMENT if start else 0)
                require(start + (end - at - 48) <= 65535, Drop.IPV6_FRAGMENT)
            proto, here, walked = get(here, 1), here + length, walked + 1
            if out["parsed"] & PARSED_LATER_FRAGMENT:
                break
            require(proto != 0, Drop.IPV6_EXTENSION)
    finally:
        out["ip_proto"] = proto
    return here


def _transport(get, seen, at, end, out, gso_type):
    proto, parsed, limit = out["ip_proto"], out["parsed"], min(seen, end)
    ports = False
    size = 0
    if parsed & PARSED_LATER_FRAGMENT:
        pass
    elif proto == 6:
        require(at + 20 <= limit, Drop.TCP_TRUNCATED)
        size = get(at + 12, 1) // 16 * 4
        require(size >= 20, Drop.TCP_HEADER)
        require(at + size <= limit, Drop.TCP_TRUNCATED)
        out["tcp_flags"], ports = get(at + 13, 1), True
    elif proto == 17:
        require(at + 8 <= limit, Drop.UDP_TRUNCATED)
        size, ports, length = 8, True, get(at + 4, 2)
        if not gso_type:
            require(length >= 8, Drop.UDP_LENGTH)
            require(at + length <= end or parsed & PARSED_FRAGMENT, Drop.UDP_LENGTH)
        payload = get.data[at + 8 : max(at + 8, min(limit, at + length))]
        out["tunnel"], out["tunnel_id"] = _udp_tunnel(get(at + 2, 2), payload, length - 8)
    elif proto == 132:
        require(at + 12 <= limit, Drop.SCTP_TRUNCATED)
        size, ports = 12, True
    elif (proto == 1 and parsed & PARSED_IPV4) or (proto == 58 and parsed & PARSED_IPV6):
        require(at + 8 <= limit, Drop.ICMP_TRUNCATED)
        size = 8
    elif proto == 47:
        size = _gre(get, at, limit, out)
    if size:
        out["l4_offset"], out["l5_offset"] = at, at + size
    if ports:
        out["parsed"] |= PARSED_PORTS
        out["src_port"], out["dst_port"] = get(at, 2), get(at + 2, 2)
    hashed = (0, 0) if parsed & PARSED_FRAGMENT else (out["src_port"], out["dst_port"])
    src, dst = out["src_hi"] << 64 | out["src_lo"], out["dst_hi"] << 64 | out["dst_lo"]
    out["flow_hash"] = hash_model(src, dst, proto, *hashed)


def _gre(get, at, limit, out):
    require(at + 4 <= limit, Drop.GRE_TRUNCATED)
    flags = get(at, 2)
    if flags & 0x4007:
        return 0
    checksum, key, sequence = bool(flags & 0x8000), bool(flags & 0x2000), bool(flags & 0x1000)
    size = 4 + 4 * (checksum + key + sequence)
    require(at + size <= limit, Drop.GRE_TRUNCATED)
    out["tunnel"] = TUNNEL_GRE
    out["tunnel_id"] = get(at + 4 + 4 * checksum, 4) if key else 0
    return size


def _udp_tunnel(port, payload, datagram_bytes):
    """Return (tunnel, tunnel_id) of a UDP payload of which `payload` can be seen."""
    if len(payload) < 8:
        return 0, 0
    first, second = struct.unpack("!II", payload[:8])
    if port == 4789 and first & 0x08000000:
        return TUNNEL_VXLAN, second >> 8
    if port == 6081 and payload[0] >> 6 == 0 and len(payload) >= 8 + 4 * (payload[0] & 63):
        return TUNNEL_GENEVE, second >> 8
    if port == 2152 and payload[0] >> 4 == 3 and payload[1] == 255:
        optional = 4 if payload[0] & 7 else 0
        length = first & 0xFFFF
        if optional <= length <= datagram_bytes - 8 and len(payload) >= 8 + optional:
            return TUNNEL_GTPU, second
    return 0, 0
