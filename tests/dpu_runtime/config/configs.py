"""Strategies that make valid configurations, by names and values that the models take."""

import ipaddress

from hypothesis import strategies as st

from dpu_runtime.config.frame import default_workers
from dpu_runtime.config.models import Config
from dpu_runtime.config.types import TCP_FLAGS
from dpu_runtime.drivers.tap import MTU_MAX

NAMES = st.from_regex(r"[A-Za-z0-9_.-]{1,12}", fullmatch=True)
MACS = st.integers(1, 2**40 - 1).map(
    lambda n: f"02:{':'.join(f'{n:010x}'[i : i + 2] for i in range(0, 10, 2))}"
)
IPV4_HOSTS = st.integers(1, 250).map(lambda n: f"10.0.0.{n}/24")
IPV6_HOSTS = st.integers(1, 0xFFFF).map(lambda n: f"2001:db8::{n:x}/64")


def optional(**keys):
    """Dictionaries with some of `keys`."""
    return st.fixed_dictionaries({}, optional=keys)


@st.composite
def networks(draw, version):
    bits = 32 if version == 4 else 128
    prefix = draw(st.integers(0, bits))
    number = draw(st.integers(0, 2**bits - 1)) >> (bits - prefix) << (bits - prefix)
    address = (ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address)(number)
    return f"{address}/{prefix}"


RATES = st.one_of(st.integers(8_000, 34_000_000_000), st.integers(8, 34_000_000).map("{}kbit".format))


@st.composite
def ports(draw, name, index):
    port = {"name": name, "kind": "tap", "ifname": f"eth{index}"}
    port |= draw(
        optional(
            netns=st.one_of(
                NAMES.filter(lambda n: n not in (".", "..")), st.just("/run/netns/x"), st.just("pid:1")
            ),
            mac=MACS,
            mtu=st.integers(1280, MTU_MAX),
            queues=st.integers(1, len(default_workers())),
            vlan=st.integers(1, 4094),
            trunk=st.lists(st.integers(1, 4094), unique=True, max_size=4),
            address=st.lists(st.one_of(IPV4_HOSTS, IPV6_HOSTS), unique=True, max_size=3),
            spoof_check=st.booleans(),
            verify_checksum=st.booleans(),
            offload=st.booleans(),
            gro=st.booleans(),
            rx_rate=RATES,
            tx_rate=RATES,
        )
    )
    if any(address.startswith("10.") for address in port.get("address", [])) and draw(st.booleans()):
        port["route"] = [{"to": "default", "via": "10.0.0.254"}, {"to": "10.9.0.0/16", "via": "10.0.0.253"}]
    return port


@st.composite
def rules(draw, names):
    version = draw(st.sampled_from([4, 6]))
    rule = {
        "priority": draw(st.integers(0, 65535)),
        "action": draw(st.sampled_from(["allow", "drop"])),
        "stage": draw(st.sampled_from(["ingress", "egress"])),
    }
    rule |= draw(
        optional(
            src_mac=MACS,
            dst_mac=MACS.map(lambda mac: f"{mac[:8]}:00:00:00/ff:ff:ff:00:00:00"),
            vlan=st.integers(0, 4094),
            src=networks(version),
            dst=networks(version),
        )
    )
    if names:
        rule |= draw(optional(in_port=st.sampled_from(names)))
        if rule["stage"] == "egress":
            rule |= draw(optional(out_port=st.sampled_from(names)))
    if draw(st.booleans()):
        rule["proto"] = draw(st.sampled_from(["tcp", "udp", "sctp", 6, "17"]))
        span = st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(sorted)
        spans = st.one_of(st.integers(0, 65535), span.map(lambda pair: f"{pair[0]}-{pair[1]}"))
        rule |= draw(optional(sport=spans, dport=spans))
        if rule["proto"] in ("tcp", 6):
            flags = st.lists(st.sampled_from(list(TCP_FLAGS)), unique=True, min_size=1)
            rule |= draw(optional(tcp_flags=flags.map(",!".join)))
    elif draw(st.booleans()):
        rule["proto"] = draw(st.integers(0, 255))
    return rule


@st.composite
def config_data(draw):
    """Plain data of a valid configuration."""
    names = draw(st.lists(NAMES, unique=True, max_size=4))
    data = {"port": [draw(ports(name, i)) for i, name in enumerate(names)]}
    data["rule"] = draw(st.lists(rules(names), max_size=5))
    for i, rule in enumerate(data["rule"]):
        if draw(st.booleans()):
            rule["name"] = f"named-{i}"
    data["runtime"] = draw(
        optional(
            standby=st.booleans(),
            mac_ageing_s=st.integers(1, 1_000_000),
            idle_spin_us=st.integers(0, 1000),
            default_ingress=st.sampled_from(["allow", "drop"]),
        )
    )
    return data


def configs():
    """Valid configurations as models."""
    return config_data().map(Config.model_validate)
