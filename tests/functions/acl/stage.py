"""A stage under test: one worker's view, checked against the first-match oracle on every run."""

import numpy as np

from dpu_runtime.kernels.acl.filter import DROP_EGRESS, DROP_INGRESS, judge
from dpu_runtime.kernels.acl.layout import ACTION_ALLOW, ACTION_DROP, HITS_MAX, new_acl
from dpu_runtime.kernels.acl.table import AclRule, build_stage, inactive_half, publish, write_stage
from dpu_runtime.kernels.acl.verdict_cache import (
    new_verdict_cache,
)
from dpu_runtime.kernels.burst import EGRESS, WANTS_RULE
from dpu_runtime.kernels.layout import (
    META_DTYPE,
    PARSED_IPV4,
    PARSED_PORTS,
    PORT_NONE,
    VERDICT_DROP,
    VERDICT_PASS,
)
from tests.functions.acl.rules import (
    MAPPED,
    TCP,
    first_match,
)
from tests.functions.stages import FIRST_DROP, burst_of, run, state_of

DEFAULT_HIT = 1
MAC_MASK = (1 << 48) - 1


class Stage:
    """One worker's view of a stage, checked against the first-match oracle on every run."""

    def __init__(self, rules=(), default=ACTION_ALLOW):
        self.acl, self.cache = new_acl(), new_verdict_cache()
        self.hits = np.zeros((HITS_MAX, 2), np.uint64)
        self.state = state_of(self.acl, 2, self.cache, hits=self.hits)
        self.drops = self.state.drops
        self.set(list(rules), default)

    def set(self, rules, default=ACTION_ALLOW):
        self.rules, self.default = rules, default
        write_stage(inactive_half(self.acl), build_stage(rules, default, DEFAULT_HIT))
        publish(self.acl)

    def expect(self, packet, out_port=PORT_NONE):
        """(action, hit) by the oracle."""
        rule = first_match(self.rules, packet, out_port)
        return (rule.action, rule.hit) if rule else (self.default, DEFAULT_HIT)

    def ingress(self, meta):
        """Run the kernel over `meta` and compare everything it may change; returns how many pass."""
        model, hits, dropped = meta.copy(), self.hits.copy(), int(self.drops[DROP_INGRESS])
        at_hand = np.flatnonzero(meta["verdict"] == VERDICT_PASS)
        burst = burst_of(meta, packets=at_hand, wanted=WANTS_RULE)
        left = run(judge, burst, self.state, count=len(at_hand))
        for i in at_hand:
            action, slot = self.expect(model[i])
            hits[slot] += np.array([1, model[i]["frame_len"]], np.uint64)
            assert burst.marks[i]["rule"] in (0, slot + 1)
            assert burst.marks[i]["rule"] or not self.rules
            if action == ACTION_DROP:
                model[i]["verdict"], model[i]["drop_reason"] = VERDICT_DROP, FIRST_DROP + DROP_INGRESS
                dropped += 1
        meta[:] = burst.meta[: len(meta)]
        np.testing.assert_array_equal(meta, model)
        np.testing.assert_array_equal(self.hits, hits)
        assert left == np.flatnonzero(model["verdict"] == VERDICT_PASS).tolist()
        assert int(self.drops[DROP_INGRESS]) == dropped == int(self.drops.sum())
        return len(left)

    def egress(self, meta, copies):
        """Run the kernel over (packet, port) copies, port by port; compare and return those kept."""
        kept = []
        for port in dict.fromkeys(port for _, port in copies):
            packets = [packet for packet, out in copies if out == port]
            kept += [(packet, port) for packet in self._egress(meta, packets, port)]
        return [copy for copy in copies if copy in kept]

    def _egress(self, meta, packets, port):
        hits, dropped = self.hits.copy(), int(self.drops[DROP_EGRESS])
        burst = burst_of(meta, EGRESS, packets=packets)
        left = run(judge, burst, self.state, port, len(packets))
        expected = []
        for packet in packets:
            action, slot = self.expect(meta[packet], port)
            hits[slot] += np.array([1, meta[packet]["frame_len"]], np.uint64)
            if action == ACTION_ALLOW:
                expected.append(packet)
        assert left == expected
        np.testing.assert_array_equal(burst.meta[: len(meta)], meta)
        np.testing.assert_array_equal(self.hits, hits)
        assert int(self.drops[DROP_EGRESS]) == dropped + len(packets) - len(left) == int(self.drops.sum())
        return left


def packet(**fields):
    """One TCP/IPv4 packet 10.0.0.1:1000 -> 10.0.0.2:80, SYN, changed by `fields`."""
    meta = np.zeros(1, META_DTYPE)
    values = {
        "parsed": PARSED_IPV4 | PARSED_PORTS,
        "ethertype": 0x0800,
        "src_lo": MAPPED | 0x0A000001,
        "dst_lo": MAPPED | 0x0A000002,
        "ip_proto": TCP,
        "src_port": 1000,
        "dst_port": 80,
        "tcp_flags": 2,
        "l4_offset": 162,
        "src_mac": 0x020000000001,
        "dst_mac": 0x020000000002,
        "vlan": 7,
        "in_port": 3,
        "frame_len": 60,
    }
    for name, value in (values | fields).items():
        meta[name] = value
    return meta


def drops_it(rule, meta):
    """Whether an ingress stage of this one drop rule drops the packet."""
    return Stage([rule]).ingress(meta.copy()) == 0


def drop(**fields):
    return AclRule(1, ACTION_DROP, 2, **fields)
