"""A stage under test: one worker's view, checked against the first-match oracle on every run."""

import numpy as np

from dpu_runtime.kernels.acl.filter import filter_egress, filter_ingress
from dpu_runtime.kernels.acl.layout import ACTION_ALLOW, ACTION_DROP, HIT_SLOTS, new_acl
from dpu_runtime.kernels.acl.table import AclRule, build_stage, inactive_slot, publish, write_stage
from dpu_runtime.kernels.acl.verdict_cache import (
    new_verdict_cache,
)
from dpu_runtime.kernels.drops import DROP_REASON_COUNT, Drop
from dpu_runtime.kernels.layout import (
    BATCH_SIZE,
    META_DTYPE,
    PARSED_IPV4,
    PARSED_PORTS,
    PORT_NONE,
    ROW_BYTES,
    VERDICT_DROP,
    VERDICT_PASS,
)
from tests.functions.acl.rules import (
    MAPPED,
    TCP,
    first_match,
)

DEFAULT_SLOT = 1
HEADERS = np.full((BATCH_SIZE, ROW_BYTES), 0xA5, np.uint8)
MAC_MASK = (1 << 48) - 1


class Stage:
    """One worker's view of a stage, checked against the first-match oracle on every run."""

    def __init__(self, rules=(), default=ACTION_ALLOW):
        self.acl, self.cache = new_acl(), new_verdict_cache()
        self.hits = np.zeros((HIT_SLOTS, 2), np.uint64)
        self.drops = np.zeros(DROP_REASON_COUNT, np.uint64)
        self.set(list(rules), default)

    def set(self, rules, default=ACTION_ALLOW):
        self.rules, self.default = rules, default
        write_stage(inactive_slot(self.acl), build_stage(rules, default, DEFAULT_SLOT))
        publish(self.acl)

    def expect(self, packet, out_port=PORT_NONE):
        """(action, hit slot) by the oracle."""
        rule = first_match(self.rules, packet, out_port)
        return (rule.action, rule.hit_slot) if rule else (self.default, DEFAULT_SLOT)

    def ingress(self, meta):
        """Run the kernel over `meta` and compare everything it may change."""
        before, hits, dropped = meta.copy(), self.hits.copy(), int(self.drops[Drop.ACL_INGRESS])
        passed = filter_ingress(HEADERS, meta, len(meta), self.acl, self.cache, self.hits, self.drops)
        model = before.copy()
        for m in model:
            if m["verdict"] == VERDICT_PASS:
                action, slot = self.expect(m)
                hits[slot] += np.array([1, m["frame_len"]], np.uint64)
                if action == ACTION_DROP:
                    m["verdict"], m["drop_reason"] = VERDICT_DROP, Drop.ACL_INGRESS
                    dropped += 1
        np.testing.assert_array_equal(meta, model)
        np.testing.assert_array_equal(self.hits, hits)
        assert passed == np.count_nonzero(model["verdict"] == VERDICT_PASS)
        assert int(self.drops[Drop.ACL_INGRESS]) == dropped == int(self.drops.sum())
        return passed

    def egress(self, meta, copies):
        """Run the kernel over (packet, port) copies; compare and return those kept."""
        before, hits, dropped = meta.copy(), self.hits.copy(), int(self.drops[Drop.ACL_EGRESS])
        out_packet = np.array([packet for packet, _ in copies], np.uint16)
        out_port = np.array([port for _, port in copies], np.uint16)
        kept = filter_egress(
            meta, out_packet, out_port, len(copies), self.acl, self.cache, self.hits, self.drops
        )
        expected = []
        for packet, port in copies:
            action, slot = self.expect(meta[packet], port)
            hits[slot] += np.array([1, meta[packet]["frame_len"]], np.uint64)
            if action == ACTION_ALLOW:
                expected.append((packet, port))
        result = [(int(p), int(o)) for p, o in zip(out_packet[:kept], out_port[:kept], strict=True)]
        assert result == expected
        np.testing.assert_array_equal(meta, before)
        np.testing.assert_array_equal(self.hits, hits)
        assert int(self.drops[Drop.ACL_EGRESS]) == dropped + len(copies) - kept == int(self.drops.sum())
        return result


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
