"""Values a configuration is made of: each is read, checked and brought to one spelling here.

Spec: RFC 4632 (CIDR), RFC 4291 (IPv6), IEEE 802 (MAC addresses), IEEE 802.1Q (VLAN IDs), RFC 9293 3.1
      (TCP flags).
Out:  text in one spelling, so that equal configurations are equal models; `*_number`, `*_range` and
      `*_bits` give the numbers that tables are built from.
Not:  whether values fit each other (models.py) or the machine (the device).
"""

import hashlib
import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

SOCKET_PATH_BYTES_MAX = 107  # octets, sockaddr_un.sun_path without its NUL, unix(7)
IFNAME_BYTES_MAX = 15  # octets, IFNAMSIZ without its NUL, netdevice(7)
NAME_PATTERN = r"^[A-Za-z0-9_.-]{1,32}$"
RULE_NAME_PATTERN = r"^[A-Za-z0-9_.-]{1,64}$"

PROTOCOLS = {
    "icmp": 1,
    "igmp": 2,
    "tcp": 6,
    "udp": 17,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "ospf": 89,
    "sctp": 132,
}
PORT_PROTOCOLS = ("tcp", "udp", "sctp")  # those whose header begins with two ports
ETHERTYPES = {"ipv4": 0x0800, "arp": 0x0806, "ipv6": 0x86DD}
ETHERTYPE_MIN = 0x0600  # below is a length, IEEE 802.3 3.2.6
TCP_FLAGS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ece": 64, "cwr": 128}

_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_MAC_BROADCAST = (1 << 48) - 1
_MAC_GROUP_BIT = 1 << 40
_PORT_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


@dataclass(frozen=True)
class Allowed:
    """What a key takes, in words: part of every error message and of docs/configuration.md."""

    text: str


@dataclass(frozen=True)
class Cli:
    """How the command line says a key, where the key's type and description do not tell.

    metavar     what stands for a value in help; a key with choices and a metavar is judged by the daemon
    help        instead of the description, and what the key takes
    positional  the value is a word of its own, without an option
    """

    metavar: str = ""
    help: str = ""
    positional: bool = False


@dataclass(frozen=True)
class Refers:
    """The key, or each text of its list, is the name of a port or of an item of another list of tables.

    section  "port", or key of that list
    kind     of port that it has to be; "": any
    cleared  when what it names goes, the key is cleared: whoever reads it can do without. Otherwise what has
             the key goes too; it is set behind what it names, and taken away before that
    """

    section: str
    kind: str = ""
    cleared: bool = False


@dataclass(frozen=True)
class NotCrossed:
    """The key of a port decides about its packets, so it does not go with a cross-connect.

    way  "rx": of the port that packets come in at, "tx": of the one they go out by
    """

    way: str


def mac_number(text):
    """48-bit number of a MAC address."""
    if not isinstance(text, str) or not _MAC.fullmatch(text.lower()):
        raise ValueError("not a MAC address")
    return int(text.replace(":", ""), 16)


def mac_text(number):
    """MAC address of a 48-bit number."""
    return ":".join(f"{number:012x}"[i : i + 2] for i in range(0, 12, 2))


def derived_mac(name):
    """MAC of a port that was given none: locally administered, unicast, the same at every start."""
    digest = hashlib.sha256(b"dpu-runtime port " + name.encode()).digest()
    return mac_text(0x02 << 40 | int.from_bytes(digest[:5], "big"))


def mac_bits(text):
    """(value, mask) of a MAC with an optional /MASK."""
    address, slash, mask = text.partition("/")
    value = mac_number(address)
    bits = mac_number(mask) if slash else _MAC_BROADCAST
    if value & ~bits:
        raise ValueError(f"has bits outside its mask, {mac_text(value & bits)}/{mac_text(bits)} has not")
    return value, bits


def proto_number(text):
    """IP protocol number of a name or a number in text."""
    return PROTOCOLS[text] if text in PROTOCOLS else int(text)


def ethertype_number(text):
    """EtherType of a name or a number in text."""
    return ETHERTYPES[text] if text in ETHERTYPES else int(text, 0)


def port_range(text):
    """(first, last) of "A" or "A-B"."""
    match = _PORT_RANGE.fullmatch(text)
    if not match:
        raise ValueError("not a port or a range of ports")
    first = int(match[1])
    last = int(match[2] or first)
    if first > last:
        raise ValueError("the range ends before it begins")
    if last > 65535:
        raise ValueError("above 65535")
    return first, last


def tcp_flags_bits(text):
    """(mask, value) of a specification such as "syn,!ack"."""
    mask = value = 0
    for item in text.lower().split(","):
        flag = item.strip().removeprefix("!")
        if flag not in TCP_FLAGS:
            raise ValueError(f"unknown flag {flag!r}")
        if mask & TCP_FLAGS[flag]:
            raise ValueError(f"names {flag!r} twice")
        mask |= TCP_FLAGS[flag]
        value |= 0 if item.strip().startswith("!") else TCP_FLAGS[flag]
    return mask, value


def _unicast_mac(text):
    number = mac_number(text)
    if number == 0:
        raise ValueError("the null address")
    if number & _MAC_GROUP_BIT:
        raise ValueError("a group address")
    return mac_text(number)


def _mac_match(text):
    value, mask = mac_bits(text)
    return mac_text(value) if mask == _MAC_BROADCAST else f"{mac_text(value)}/{mac_text(mask)}"


def _interface_address(text):
    if "/" not in text:
        raise ValueError("has no prefix length")
    interface = ipaddress.ip_interface(text)
    address, network = interface.ip, interface.network
    if getattr(address, "scope_id", None):
        raise ValueError("has a zone")
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        raise ValueError("not a host's address")
    if address.version == 4 and network.prefixlen < 31:
        if address == network.network_address:
            raise ValueError("the network's own address, it has no host part")
        if address == network.broadcast_address:
            raise ValueError("the network's broadcast address")
    return str(interface)


def _network(text):
    interface = ipaddress.ip_interface(text)
    if getattr(interface.ip, "scope_id", None):
        raise ValueError("has a zone")
    if interface.ip != interface.network.network_address:
        raise ValueError(f"has host bits set, {interface.network} has not")
    return str(interface.network)


def _gateway(text):
    address = ipaddress.ip_address(text)
    if getattr(address, "scope_id", None):
        raise ValueError("has a zone")
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        raise ValueError("not a gateway's address")
    return str(address)


def _ifname(text):
    if not 1 <= len(text.encode()) <= IFNAME_BYTES_MAX:
        raise ValueError(f"has {len(text.encode())} octets")
    if text in (".", "..") or re.search(r"[/:%\s\x00-\x1f\x7f]", text):
        raise ValueError("not a name Linux takes")
    return text


def _netns(text):
    if text.startswith("pid:"):
        if not re.fullmatch(r"pid:[1-9][0-9]{0,9}", text):
            raise ValueError("not a process number")
    elif text.startswith("/"):
        if "\0" in text:
            raise ValueError("holds a NUL octet")
    elif text in ("", ".", "..") or not re.fullmatch(r"[A-Za-z0-9_.-]{1,255}", text):
        raise ValueError("not a namespace name")
    return text


def _absolute_path(text):
    if not text.startswith("/") or "\0" in text:
        raise ValueError("not an absolute path")
    return text


def _file_mode(text):
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError("not an octal mode")
    return f"{int(text, 8):04o}"


def _socket_path(text):
    if len(_absolute_path(text).encode()) > SOCKET_PATH_BYTES_MAX:
        raise ValueError(f"has {len(text.encode())} octets")
    return text


def _number_as_text(value):
    """Let a number stand for its text; `True` is no number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _proto(text):
    name = text.lower()
    if name not in PROTOCOLS:
        if not re.fullmatch(r"[0-9]{1,3}", name) or int(name) > 255:
            raise ValueError("not a protocol")
        name = next((known for known, number in PROTOCOLS.items() if number == int(name)), str(int(name)))
    return name


def _ethertype(text):
    name = text.lower()
    if name not in ETHERTYPES:
        if not re.fullmatch(r"0x[0-9a-f]{1,4}|[1-9][0-9]{0,4}", name):
            raise ValueError("not an EtherType")
        number = int(name, 0)
        if not ETHERTYPE_MIN <= number <= 0xFFFF:
            raise ValueError("out of range")
        name = next((known for known, value in ETHERTYPES.items() if value == number), f"0x{number:04x}")
    return name


def _port_range_text(text):
    first, last = port_range(text)
    return str(first) if first == last else f"{first}-{last}"


def _tcp_flags(text):
    mask, value = tcp_flags_bits(text)
    return ",".join(name if value & bit else f"!{name}" for name, bit in TCP_FLAGS.items() if mask & bit)


_TEXT_OR_NUMBER = (BeforeValidator(_number_as_text), WithJsonSchema({"type": ["string", "integer"]}))

PortName = Annotated[str, Field(pattern=NAME_PATTERN), Allowed("1 to 32 of A-Z a-z 0-9 _ . -"), Cli("P")]
PortRef = Annotated[PortName, Refers("port")]
Owner = Annotated[
    str,
    Field(pattern=r"^[\x21-\x7e]{1,255}$"),
    Allowed("1 to 255 printable ASCII characters without a space"),
    Cli("O"),
]
RuleName = Annotated[str, Field(pattern=RULE_NAME_PATTERN), Allowed("1 to 64 of A-Z a-z 0-9 _ . -"), Cli("R")]
ItemName = RuleName  # of an item of any section
MacAddress = Annotated[
    str, AfterValidator(_unicast_mac), Allowed('a unicast MAC address such as "02:00:00:00:00:01"'), Cli("M")
]
MacMatch = Annotated[
    str,
    AfterValidator(_mac_match),
    Allowed('a MAC address, with an optional mask, such as "02:00:00:00:00:00/ff:ff:ff:00:00:00"'),
    Cli("M[/MASK]"),
]
InterfaceAddress = Annotated[
    str,
    AfterValidator(_interface_address),
    Allowed('IPv4 or IPv6 host addresses with a prefix length, such as "10.0.0.2/24"'),
    Cli("CIDR"),
]
Network = Annotated[
    str,
    AfterValidator(_network),
    Allowed('an IPv4 or IPv6 prefix such as "10.0.0.0/24" or "2001:db8::/32"'),
    Cli("CIDR"),
]
RouteTarget = Annotated[
    str,
    AfterValidator(lambda text: text if text == "default" else _network(text)),
    Allowed('"default" or an IPv4 or IPv6 prefix such as "10.1.0.0/16"'),
]
Gateway = Annotated[str, AfterValidator(_gateway), Allowed('an IPv4 or IPv6 address such as "10.0.0.1"')]
InterfaceName = Annotated[
    str, AfterValidator(_ifname), Allowed("1 to 15 octets without / : % and white space"), Cli("IF")
]
NetworkNamespace = Annotated[
    str, AfterValidator(_netns), Allowed('a name under /run/netns, an absolute path, or "pid:N"'), Cli("NS")
]
AbsolutePath = Annotated[str, AfterValidator(_absolute_path), Allowed("an absolute path")]
SocketPath = Annotated[
    str,
    AfterValidator(_socket_path),
    Allowed(f"an absolute path of at most {SOCKET_PATH_BYTES_MAX} octets"),
    Cli("PATH"),
]
FileMode = Annotated[str, AfterValidator(_file_mode), Allowed('an octal mode such as "0660"'), Cli("MODE")]
GroupName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$"), Allowed("name or number of a group"), Cli("G")
]
Proto = Annotated[
    str, *_TEXT_OR_NUMBER, AfterValidator(_proto), Allowed(", ".join(PROTOCOLS) + ", or 0..255"), Cli("P")
]
EtherType = Annotated[
    str,
    *_TEXT_OR_NUMBER,
    AfterValidator(_ethertype),
    Allowed(", ".join(ETHERTYPES) + ", or 0x0600..0xffff"),
    Cli("T"),
]
PortRange = Annotated[
    str,
    *_TEXT_OR_NUMBER,
    AfterValidator(_port_range_text),
    Allowed('0..65535, or a range such as "8000-8080"'),
    Cli("A[-B]"),
]
TcpFlags = Annotated[
    str,
    AfterValidator(_tcp_flags),
    Allowed('flags that are set, or with "!" not set, such as "syn,!ack", of ' + ", ".join(TCP_FLAGS)),
    Cli("SPEC"),
]
VlanId = Annotated[int, Field(ge=1, le=4094), Allowed("1..4094")]
