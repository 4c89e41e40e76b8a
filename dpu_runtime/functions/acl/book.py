"""Rules on their way into the ACL: names become indices, and each rule keeps its hit counter.

In:   RuleConfig and port indices.   Out: new versions of the two stages in shared memory.
Not:  waiting until every worker has left the old version; `dpu_runtime/device/device.py` does.
"""

import numpy as np

from dpu_runtime.kernels.acl.layout import ACL_LAYOUT, ACTION_ALLOW, ACTION_DROP, HIT_SLOTS, Acl
from dpu_runtime.kernels.acl.table import AclRule, build_stage, inactive_slot, publish, write_stage
from dpu_runtime.plane.shared import STAGES

ACTIONS = {"allow": ACTION_ALLOW, "drop": ACTION_DROP}
DEFAULT_SLOTS = {"ingress": 0, "egress": 1}  # hit counters of the stages' defaults
FIRST_SLOT = 8


def acl_rule(rule, hit_slot, port_index):
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
        hit_slot=hit_slot,
        ethertype=rule.ethertype_number,
        proto=rule.proto_number,
        sport=rule.sport_range,
        dport=rule.dport_range,
        **fields,
    )


class RuleBook:
    """The rules in force, and which hit counter each of them has.

    slots  name -> slot of `hits`; kept in the notes, so that hits survive the control process
    base   slot -> (packets, octets) counted before the slot was given to its present rule
    """

    def __init__(self, shared, slots=None, base=None):
        self.shared = shared
        self.slots = dict(slots or {})
        self.base = {int(slot): tuple(hits) for slot, hits in (base or {}).items()}

    def notes(self):
        """What a later control process needs: JSON data."""
        return {"slots": self.slots, "base": self.base}

    def publish(self, rules, defaults, port_index, workers):
        """Put `rules` in force; `defaults` maps each stage to its default action.

        Raises ValueError, with nothing changed, when the rules do not fit.
        """
        slots, base = self._assign(rules, workers)
        stages = {}
        for stage in STAGES:
            own = [acl_rule(rule, slots[rule.name], port_index) for rule in rules if rule.stage == stage]
            stages[stage] = build_stage(own, ACTIONS[defaults[stage]], DEFAULT_SLOTS[stage])
        for stage, built in stages.items():
            tables = self.shared.of("acl")
            acl = Acl(**{name: getattr(tables, f"{stage}_{name}") for name in ACL_LAYOUT})
            write_stage(inactive_slot(acl), built)
            publish(acl)
        self.slots, self.base = slots, base

    def _assign(self, rules, workers):
        """Slots for `rules`: a name keeps its own; new names get free ones, counted from now on."""
        names = [rule.name for rule in rules]
        slots = {name: self.slots[name] for name in names if name in self.slots}
        taken = set(slots.values())
        base = {slot: hits for slot, hits in self.base.items() if slot in taken}
        free = (slot for slot in range(FIRST_SLOT, HIT_SLOTS) if slot not in taken)
        for name in names:
            if name not in slots:
                slots[name] = next(free)
                base[slots[name]] = self._counted(slots[name], workers)
        return slots, base

    def _counted(self, slot, workers):
        packets, octets = self.shared.of("acl").hits[:workers, slot].sum(axis=0).tolist()
        return packets, octets

    def hits(self, workers):
        """(packets, octets) by rule name, and of the defaults as `default-STAGE`."""
        result = {}
        hits = self.shared.of("acl").hits[:workers]
        total = hits.sum(axis=0, dtype=np.uint64) if len(self.slots) > 64 else None
        named = {**self.slots, **{f"default-{stage}": slot for stage, slot in DEFAULT_SLOTS.items()}}
        for name, slot in named.items():
            packets, octets = total[slot].tolist() if total is not None else self._counted(slot, workers)
            before = self.base.get(slot, (0, 0))
            result[name] = (packets - before[0], octets - before[1])
        return result
