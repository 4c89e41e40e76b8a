"""`[[rule]]`: match and action of one ACL rule.

Spec: RFC 9293 3.1 (TCP flags), IEEE 802.1Q (VLAN IDs).
Out:  the text of the configuration, and by the properties the numbers that tables are built from.
Not:  whether the ports it names exist (dpu_runtime/config/models.py).
"""

import ipaddress
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dpu_runtime.config import types
from dpu_runtime.config.model import Action, Keys, Model, refuse
from dpu_runtime.config.types import Allowed

PRIORITY_MAX = 65535


class RuleConfig(Model):
    """`[[rule]]`: match and action. A key that is absent matches anything."""

    name: types.ItemName | None = Field(None, description="name of the rule, unique; default: rule-N")
    priority: Annotated[int, Field(ge=0, le=PRIORITY_MAX), Allowed(f"0..{PRIORITY_MAX}")] = Field(
        description="rules apply from the highest to the lowest, equal ones in their order"
    )
    stage: Literal["ingress", "egress"] = Field("ingress", description="before or behind the switch")
    in_port: types.PortRef | None = Field(None, description="port the packet came from")
    out_port: types.PortRef | None = Field(None, description="port the packet goes to, in stage egress only")
    src_mac: types.MacMatch | None = Field(None, description="source MAC address")
    dst_mac: types.MacMatch | None = Field(None, description="destination MAC address")
    vlan: Annotated[int, Field(ge=0, le=4094), Allowed("0..4094")] | None = Field(
        None, description="VLAN the packet belongs to, 0: none"
    )
    ethertype: types.EtherType | None = Field(None, description="EtherType behind VLAN tags")
    src: types.Network | None = Field(None, description="source addresses")
    dst: types.Network | None = Field(None, description="destination addresses")
    proto: types.Proto | None = Field(None, description="IP protocol")
    sport: types.PortRange | None = Field(None, description="source port, of tcp, udp or sctp")
    dport: types.PortRange | None = Field(None, description="destination port, of tcp, udp or sctp")
    tcp_flags: types.TcpFlags | None = Field(None, description="TCP flags that are looked at, of tcp")
    action: Action = Field(description="what happens to a packet that matches")

    @model_validator(mode="after")
    def _match_fits(self):
        problems = []
        for key in ("sport", "dport"):
            if getattr(self, key) is not None and self.proto not in types.PORT_PROTOCOLS:
                text = f"needs proto = {' or '.join(types.PORT_PROTOCOLS)}"
                problems.append(((key,), text, getattr(self, key)))
        if self.tcp_flags is not None and self.proto != "tcp":
            problems.append((("tcp_flags",), "needs proto = tcp", self.tcp_flags))
        if self.out_port is not None and self.stage != "egress":
            problems.append((("out_port",), 'needs stage = "egress"', self.out_port))
        if self.ethertype not in (None, "ipv4", "ipv6"):
            given = [key for key in ("src", "dst", "proto") if getattr(self, key) is not None]
            if given:
                text = f"is not IP, but the rule has {' and '.join(given)}"
                problems.append((("ethertype",), text, self.ethertype))
        families = {"ipv4": 4, "ipv6": 6}
        family = families.get(self.ethertype)
        for key in ("src", "dst"):
            if getattr(self, key) is not None:
                version = ipaddress.ip_network(getattr(self, key)).version
                if family not in (None, version):
                    text = f"IPv{version} in a rule for IPv{family}"
                    problems.append(((key,), text, getattr(self, key)))
                family = family or version
        refuse(self, problems)
        return self

    @property
    def src_mac_bits(self):
        """(value, mask) of the source MAC, or None."""
        return None if self.src_mac is None else types.mac_bits(self.src_mac)

    @property
    def dst_mac_bits(self):
        """(value, mask) of the destination MAC, or None."""
        return None if self.dst_mac is None else types.mac_bits(self.dst_mac)

    @property
    def ethertype_number(self):
        """EtherType, or None."""
        return None if self.ethertype is None else types.ethertype_number(self.ethertype)

    @property
    def src_network(self):
        """`ipaddress` network of the source, or None."""
        return None if self.src is None else ipaddress.ip_network(self.src)

    @property
    def dst_network(self):
        """`ipaddress` network of the destination, or None."""
        return None if self.dst is None else ipaddress.ip_network(self.dst)

    @property
    def proto_number(self):
        """IP protocol number, or None."""
        return None if self.proto is None else types.proto_number(self.proto)

    @property
    def sport_range(self):
        """(first, last) source port, or None."""
        return None if self.sport is None else types.port_range(self.sport)

    @property
    def dport_range(self):
        """(first, last) destination port, or None."""
        return None if self.dport is None else types.port_range(self.dport)

    @property
    def tcp_flags_bits(self):
        """(mask, value) of the TCP flags, or None."""
        return None if self.tcp_flags is None else types.tcp_flags_bits(self.tcp_flags)


class AclSettings(Keys):
    """Keys of `[runtime]`."""

    default_ingress: Action = Field("allow", description="what happens to a packet no ingress rule matches")
    default_egress: Action = Field("allow", description="what happens to a packet no egress rule matches")


def order(rule):
    """Sort key of rules as they apply; those of equal priority keep their order."""
    return rule.stage != "ingress", -rule.priority
