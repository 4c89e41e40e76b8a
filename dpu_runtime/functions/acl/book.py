"""Rules on their way into the ACL: names become indices, and each rule keeps its hit counter.

In:   RuleConfig and port indices.   Out: new versions of the two stages in shared memory.
Not:  waiting until every worker has left the old version; the device does that.
"""

import numpy as np

from dpu_runtime.function import EGRESS, INGRESS
from dpu_runtime.functions.book import Book
from dpu_runtime.kernels.acl.layout import ACL_LAYOUT, ACTION_ALLOW, ACTION_DROP, HITS_MAX, Acl
from dpu_runtime.kernels.acl.table import AclRule, build_stage, inactive_half, publish, write_stage

ACTIONS = {"allow": ACTION_ALLOW, "drop": ACTION_DROP}
DEFAULT_HITS = {INGRESS: 0, EGRESS: 1}  # hit counters of the stages' defaults
FIRST_HIT = 8
PORT_KEYS = {"acl_ingress": "in_port", "acl_egress": "out_port"}  # what a rule says of the port at hand


def active(items, settings):
    """A stage is on at a port that a rule of it may be about, and everywhere when its default is to drop."""
    ports = {stage: set() for stage in PORT_KEYS}  # None: any
    for rule in items["rule"]:
        stage = f"acl_{rule.stage}"
        ports[stage].add(getattr(rule, PORT_KEYS[stage]))
    for stage in PORT_KEYS:
        if getattr(settings, stage.replace("acl", "default")) == "drop":
            ports[stage].add(None)
    return lambda stage, port: None in ports[stage] or port.name in ports[stage]


def acl_rule(rule, hit, port_index):
    """The ACL's form of a RuleConfig; `port_index` maps port names to indices."""
    fields = {}
    for key in ("in_port", "out_port"):
        name = getattr(rule, key)
        if name is not None:
            fields[key] = port_index[name]
    for key in ("src_mac", "dst_mac"):
        bits = getattr(rule, f"{key}_bits")
        if bits is not None:
            fields[key], fields[f"{key}_mask"] = bits
    for key in ("src", "dst"):
        network = getattr(rule, f"{key}_network")
        if network is not None:
            fields[key], fields[f"{key}_mask"] = int(network.network_address), int(network.netmask)
            fields["ip_version"] = network.version
    if rule.vlan is not None:
        fields["vlan"], fields["vlan_mask"] = rule.vlan, 0xFFF
    if rule.tcp_flags_bits is not None:
        fields["tcp_flags_mask"], fields["tcp_flags"] = rule.tcp_flags_bits
    return AclRule(
        priority=rule.priority,
        action=ACTIONS[rule.action],
        hit=hit,
        ethertype=rule.ethertype_number,
        proto=rule.proto_number,
        sport=rule.sport_range,
        dport=rule.dport_range,
        **fields,
    )


class RuleBook(Book):
    """The rules in force, and which hit counter each of them has.

    A name keeps its hit counter, in the notes too, so that hits survive the control process.
    """

    def __init__(self, function, tables, ports, workers, notes=None):
        super().__init__(function, tables, ports, workers, notes)
        notes = notes or {}
        self._hits = dict(notes.get("hits", {}))  # name -> hit counter
        # hit counter -> (packets, octets) counted before it was given to its present rule
        self._base = {int(hit): tuple(counted) for hit, counted in notes.get("base", {}).items()}

    def notes(self):
        """Hit counters of all rules, and what they had counted before."""
        return {"hits": self._hits, "base": self._base}

    def publish(self, items, settings, numbers):
        """Put rules and defaults in force. Raises ValueError, with nothing changed, when they do not fit."""
        rules = items["rule"]
        hits, base = self._assign(rules)
        built = {}
        for hook, default_hit in DEFAULT_HITS.items():
            own = [acl_rule(rule, hits[rule.name], numbers["port"]) for rule in rules if rule.stage == hook]
            built[hook] = build_stage(own, ACTIONS[getattr(settings, f"default_{hook}")], default_hit)
        for hook, stage in built.items():
            acl = Acl(**{name: getattr(self.tables, f"{hook}_{name}") for name in ACL_LAYOUT})
            write_stage(inactive_half(acl), stage)
            publish(acl)
        self._hits, self._base = hits, base

    def _assign(self, rules):
        """Hit counters for `rules`: a name keeps its own; new names get free ones, counted from now on."""
        names = [rule.name for rule in rules]
        hits = {name: self._hits[name] for name in names if name in self._hits}
        taken = set(hits.values())
        base = {hit: counted for hit, counted in self._base.items() if hit in taken}
        free = (hit for hit in range(FIRST_HIT, HITS_MAX) if hit not in taken)
        for name in names:
            if name not in hits:
                hits[name] = next(free)
                base[hits[name]] = self._counted(hits[name])
        return hits, base

    def _counted(self, hit):
        packets, octets = self.tables.hits[: self.workers, hit].sum(axis=0).tolist()
        return packets, octets

    def numbers(self):
        """Hit counters by rule name."""
        return {"rule": dict(self._hits)}

    def counters(self):
        """(packets, octets) by rule name."""
        many = len(self._hits) > 64
        total = self.tables.hits[: self.workers].sum(axis=0, dtype=np.uint64) if many else None
        counted = {}
        for name, hit in self._hits.items():
            now = total[hit].tolist() if many else self._counted(hit)
            counted[name] = tuple(n - before for n, before in zip(now, self._base[hit], strict=True))
        return {"rule": counted}
