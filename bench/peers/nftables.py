"""A Linux bridge that filters by nftables: a chain of rules, or one rule with a set.

Spec: nft(8), address family "bridge", hook "forward".
In:   as many drops of a destination and TCP port as `Containers.set_rules` has, of the same ones.
"""

from bench.peers.bridge import Bridge
from bench.peers.hosts import ANYWHERE

LIST, SET = "list", "set"
_TABLE = """
table bridge filter {{
    {set}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        {rules}
    }}
}}
"""


class Nftables(Bridge):
    """A pair of hosts; see hosts.py.

    form   LIST: a rule each, tried one after the other; SET: one rule, the packet looked up in a set
    rules  none of which matches a packet that is measured
    """

    def __init__(self, cpus=ANYWHERE, rules=1000, form=SET):
        self.name = f"nftables, {form}"
        super().__init__(cpus)
        try:
            self._switch.run("nft", "-f", "-", input=ruleset(rules, form))
        except BaseException:
            self.close()
            raise

    def listed(self):
        """What is in force, as nft prints it."""
        return self._switch.run("nft", "list", "ruleset")


def ruleset(rules, form):
    """Text for `nft -f`, of drops that no measurement meets: addresses of RFC 5737."""
    blocked = [(f"198.51.100.{number % 256}", 1024 + number) for number in range(rules)]
    if form == LIST:
        drops = [f"ip daddr {address} tcp dport {port} counter drop" for address, port in blocked]
        return _TABLE.format(set="", rules="\n".join(drops))
    elements = ", ".join(f"{address} . {port}" for address, port in blocked)
    members = f"set blocked {{ type ipv4_addr . inet_service; elements = {{ {elements} }} }}"
    return _TABLE.format(set=members, rules="ip daddr . tcp dport @blocked counter drop")
