"""What is sent: a pool of templates by pattern over sizes, flows and addresses, or out of a capture file.

In:   a Pattern, or the path of a pcap or pcapng file.   Out: a Pool for loop.py.
"""

import ipaddress
import itertools
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scapy.error import Scapy_Exception
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw
from scapy.utils import RawPcapReader

from bench.generator.layout import (
    FCS_BYTES,
    FRAME_BYTES_MAX,
    FRAME_BYTES_MIN,
    STAMP_BYTES,
    TEMPLATE_DTYPE,
)
from bench.generator.templates import finish, layer4_of
from dpu_runtime.kernels.layout import ROW_BYTES

IMIX = "imix"
# "Simple IMIX": 7 of 64, 4 of 594 and 1 of 1518 octets with FCS, spread over each twelve packets
IMIX_SIZES = (64, 594, 64, 594, 64, 64, 594, 64, 594, 64, 64, 1518)
SIZE_MIN, SIZE_MAX = FRAME_BYTES_MIN + FCS_BYTES, FRAME_BYTES_MAX + FCS_BYTES
FLOWS_MAX = 1 << 14
CAPTURE_FRAMES_MAX = 1 << 16
INCREMENT, RANDOM = "increment", "random"
FIELDS = ("src", "dst", "sport", "dport")  # what may differ from flow to flow
SPREAD = 1 << 16  # random values are drawn from so many, from the first one on
LINKTYPE_ETHERNET = 1  # tcpdump.org/linktypes.html
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.I)


@dataclass(frozen=True)
class Pattern:
    """UDP packets, the flows of which differ in the fields that `vary` names.

    size   octets with FCS, or IMIX          vlan  VLAN ID of a tag, None: no tag
    src, dst                                 addresses, both IPv4 or both IPv6
    vary   {field of FIELDS: INCREMENT or RANDOM}; flow k has the value given plus k, or plus a random number
    seed   of random values and of the payload
    """

    size: int | str = SIZE_MIN
    flows: int = 1
    src: str = "10.0.0.1"
    dst: str = "10.0.0.2"
    sport: int = 1024
    dport: int = 9  # discard, RFC 863
    src_mac: str = "02:00:00:00:00:01"
    dst_mac: str = "02:00:00:00:00:02"
    vlan: int | None = None
    vary: dict = field(default_factory=lambda: {"sport": INCREMENT})
    seed: int = 1

    def __post_init__(self):
        """Raise ValueError that names the field, its value and what is allowed."""
        sizes = f"{SIZE_MIN} to {SIZE_MAX} octets with FCS, or {IMIX}"
        _need(self.size == IMIX or _between(self.size, SIZE_MIN, SIZE_MAX), "size", self.size, sizes)
        _need(_between(self.flows, 1, FLOWS_MAX), "flows", self.flows, f"1 to {FLOWS_MAX}")
        _need(self.vlan is None or _between(self.vlan, 1, 4094), "vlan", self.vlan, "1 to 4094")
        for name in ("sport", "dport"):
            _need(_between(getattr(self, name), 0, 65535), name, getattr(self, name), "0 to 65535")
        for name in ("src_mac", "dst_mac"):
            value = getattr(self, name)
            _need(_MAC.fullmatch(value), name, value, "six octets such as 02:00:00:00:00:01")
        for name in ("src", "dst"):
            _need(_address(getattr(self, name)), name, getattr(self, name), "an IPv4 or IPv6 address")
        versions = {_address(self.src).version, _address(self.dst).version}
        _need(len(versions) == 1, "dst", self.dst, f"an address of the version of src, {self.src}")
        for name, how in self.vary.items():
            _need(name in FIELDS, "vary", name, ", ".join(FIELDS))
            _need(how in (INCREMENT, RANDOM), f"vary {name}", how, f"{INCREMENT}, {RANDOM}")
        _need(self.vary or self.flows == 1, "flows", self.flows, "1 if nothing varies")
        for name in self.vary:
            self.values(name)

    @property
    def size_least(self):
        """Octets with FCS of the smallest frame that has room for the stamp."""
        headers = len(self._headers())
        return max(SIZE_MIN, headers + STAMP_BYTES + FCS_BYTES)

    def values(self, name):
        """The numbers, int[flows], that a field has. Raises ValueError when they do not fit it."""
        value = getattr(self, name)
        is_port = isinstance(value, int)
        first = value if is_port else int(_address(value))
        last = 65535 if is_port else (1 << _address(value).max_prefixlen) - 1
        how = self.vary.get(name)
        if how is None:
            return [first] * self.flows
        room = min(SPREAD, last - first + 1) if how == RANDOM else last - first + 1
        text = f"{name} has room for {room} values from {value} on"
        _need(self.flows <= room, "flows", self.flows, text)
        if how == INCREMENT:
            return [first + k for k in range(self.flows)]
        drawn = np.random.default_rng([self.seed, FIELDS.index(name)]).choice(room, self.flows, replace=False)
        return [first + int(k) for k in drawn]

    def _headers(self):
        layer3 = IPv6 if _address(self.src).version == 6 else IP
        tag = Dot1Q(vlan=self.vlan) if self.vlan is not None else None
        link = Ether(src=self.src_mac, dst=self.dst_mac)
        network = layer3(src=self.src, dst=self.dst) / UDP(sport=self.sport, dport=self.dport)
        return link / tag / network if tag else link / network

    def frames(self, size):
        """Frames, uint8[flows, octets], of `size` with FCS; their checksums are not finished."""
        head = self._headers()
        payload = np.random.default_rng(self.seed).bytes(size - FCS_BYTES - len(head))
        octets = np.frombuffer(bytes(head / Raw(payload)), np.uint8)
        made = np.tile(octets, (self.flows, 1))
        ip_at, l4_at, _ = layer4_of(octets)
        width = 16 if head.haslayer(IPv6) else 4
        src_at = ip_at + (8 if width == 16 else 12)
        places = (("src", src_at, width), ("dst", src_at + width, width), ("sport", l4_at, 2))
        for name, at, octet_count in (*places, ("dport", l4_at + 2, 2)):
            words = b"".join(value.to_bytes(octet_count, "big") for value in self.values(name))
            made[:, at : at + octet_count] = np.frombuffer(words, np.uint8).reshape(self.flows, octet_count)
        return made


@dataclass
class Pool:
    """Templates in the order they are sent.

    rows, templates, cycle  arrays, loop.Traffic
    padded   packets of the pattern or file that were lengthened to hold the stamp
    skipped  {why: packets of the file that cannot be sent}
    """

    rows: np.ndarray
    templates: np.ndarray
    cycle: np.ndarray
    padded: int = 0
    skipped: dict = field(default_factory=dict)
    frames: list = field(default_factory=list)  # what the templates' payload addresses point into

    @property
    def octets_mean(self):
        """Mean length of a frame, without FCS."""
        return float(self.templates["frame_len"][self.cycle].mean())


def from_pattern(pattern):
    """Pool of a Pattern. Raises ValueError when the stamp does not fit."""
    least = pattern.size_least
    if pattern.size == IMIX:
        mix = tuple(max(size, least) for size in IMIX_SIZES)
    else:
        _need(pattern.size >= least, "size", pattern.size, f"{least} or more: headers and stamp take as much")
        mix = (pattern.size,)
    sizes = sorted(set(mix))
    pool = _pool([pattern.frames(size) for size in sizes])
    flows, steps = pattern.flows, np.arange(math.lcm(pattern.flows, len(mix)), dtype=np.uint32)
    size_of_step = np.array([sizes.index(size) for size in mix], np.uint32)[steps % len(mix)]
    pool.cycle = np.ascontiguousarray(size_of_step * flows + steps % flows, np.uint32)
    pool.padded = sum(size < least for size in IMIX_SIZES) if pattern.size == IMIX else 0
    return pool


def from_capture(path):
    """Pool of the UDP and TCP packets of a capture file, in its order. Raises ValueError without one."""
    try:
        with RawPcapReader(str(path)) as reader:
            packets = [octets for octets, _ in itertools.islice(reader, CAPTURE_FRAMES_MAX + 1)]
            linktype = getattr(reader, "linktype", LINKTYPE_ETHERNET)
    except (OSError, Scapy_Exception) as error:
        raise ValueError(f"pcap {str(path)!r}: {error}") from None
    name = Path(path).name
    _need(linktype == LINKTYPE_ETHERNET, "pcap", name, f"link type Ethernet, not {linktype}")
    _need(len(packets) <= CAPTURE_FRAMES_MAX, "pcap", name, f"{CAPTURE_FRAMES_MAX} packets at most")
    frames, padded, skipped = [], 0, {}
    for octets in packets:
        made, why = _with_room(octets)
        if made is None:
            skipped[why] = skipped.get(why, 0) + 1
        else:
            frames.append(made)
            padded += made.shape[1] > max(len(octets), FRAME_BYTES_MIN)
    _need(frames, "pcap", name, f"packets that can be sent; it has {skipped or 'none at all'}")
    pool = _pool(frames)
    pool.padded, pool.skipped = padded, skipped
    return pool


def _with_room(octets):
    """(frame uint8[1, n] with room for the stamp, "") of a captured packet, or (None, why not)."""
    ip_at, l4_at, behind = layer4_of(np.frombuffer(octets, np.uint8))
    if not behind:
        return None, "no UDP or TCP, or a fragment"
    is_ipv6 = octets[ip_at] >> 4 == 6
    length_at, extra = (ip_at + 4, 40) if is_ipv6 else (ip_at + 2, 0)
    end = ip_at + extra + int.from_bytes(octets[length_at : length_at + 2], "big")
    if not behind <= end <= len(octets):
        return None, "cut short, or to be segmented"
    least = max(behind + STAMP_BYTES, FRAME_BYTES_MIN)
    made = np.zeros((1, max(end, least)), np.uint8)
    if made.shape[1] > FRAME_BYTES_MAX:
        return None, f"longer than {SIZE_MAX} octets with FCS"
    made[0, :end] = np.frombuffer(octets[:end], np.uint8)

    def put(at, value):
        made[0, at : at + 2] = value >> 8, value & 0xFF

    put(length_at, made.shape[1] - ip_at - extra)
    is_udp = behind == l4_at + 8
    if is_udp:
        put(l4_at + 4, made.shape[1] - l4_at)
    return made, ""


def _pool(groups):
    """Pool of groups of frames, uint8[n, octets] each, sent one after the other."""
    count = sum(len(frames) for frames in groups)
    rows = np.zeros((count, ROW_BYTES), np.uint8)
    templates = np.zeros(count, TEMPLATE_DTYPE)
    first = 0
    for frames in groups:
        finish(frames, rows[first : first + len(frames)], templates[first : first + len(frames)])
        first += len(frames)
    return Pool(rows, templates, np.arange(count, dtype=np.uint32), frames=groups)


def _address(text):
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _between(value, low, high):
    return isinstance(value, int) and low <= value <= high


def _need(condition, name, value, allowed):
    if not condition:
        raise ValueError(f"{name} = {value!r}: {allowed}")
