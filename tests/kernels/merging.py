"""One call of gro_merge over a batch, and what the far side makes of the result."""

import numpy as np
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from kernels.checksum import complete_checksum
from kernels.gro import GRO_DTYPE, gro_merge
from kernels.layout import (
    META_DTYPE,
    PORT_DTYPE,
    PORT_RX_GRO,
    PORT_TX_CSUM,
    PORT_TX_TSO4,
    PORT_TX_TSO6,
    PORT_TX_USO,
    ROW_BYTES,
    VERDICT_MERGED,
)
from kernels.segment import GSO_IOV_MAX, gso_segment, gso_segment_count
from tests.kernels.batches import FILL
from tests.kernels.fields import parsed_batch
from tests.kernels.streams import frame_of

IN_PORT, OTHER_IN_PORT, PLAIN_IN_PORT, OUT_PORT = 1, 2, 3, 0
ALL_FLAGS = PORT_TX_CSUM | PORT_TX_TSO4 | PORT_TX_TSO6 | PORT_TX_USO
GUARD_BYTES = 64


class Merge:
    """One call of gro_merge over all packets of a batch, with guard octets behind the arena."""

    def __init__(self, batch, out_flags=ALL_FLAGS, arena_bytes=256 * 1024, used=0, order=None):
        n = len(batch.meta)
        ports = np.zeros(4, PORT_DTYPE)
        ports["flags"] = [out_flags, PORT_RX_GRO, PORT_RX_GRO, 0]
        memory = np.full(arena_bytes + GUARD_BYTES, FILL, np.uint8)
        self.arena = memory[:arena_bytes]
        self.used = np.array([used], np.uint64)
        self.batch = batch
        indices = np.array(range(n) if order is None else order, np.uint16)
        count = len(indices)
        gro = np.frombuffer(bytes([FILL]) * (n * GRO_DTYPE.itemsize), GRO_DTYPE).copy()
        left = gro_merge(
            batch.headers, batch.meta, indices, count, ports, OUT_PORT, self.arena, self.used, gro
        )
        assert (memory[arena_bytes:] == FILL).all()
        assert used <= self.used[0] <= arena_bytes
        assert (memory[int(self.used[0]) : arena_bytes] == FILL).all()
        self.order = [int(i) for i in indices[:left]]
        merged = [i for i in range(n) if batch.meta[i]["verdict"] == VERDICT_MERGED]
        assert len(merged) == count - left
        assert not set(merged) & set(self.order)

    def frames(self):
        """Frames that the far side gets: GSO packets cut, owed checksums finished, keyed by flow."""
        flows = {}
        for i in self.order:
            headers, meta = self.batch.headers, self.batch.meta
            m = meta[i]
            key = (int(m["src_port"]), int(m["dst_port"]), int(m["ip_proto"]))
            frames = flows.setdefault(key, [])
            if m["gso_type"] == 0:
                assert complete_checksum(headers, meta, i) == 0
                frames.append(frame_of(headers[i], m))
                continue
            total = gso_segment_count(m)
            assert total > 1
            rows, out = np.zeros((total, ROW_BYTES), np.uint8), np.zeros(total, META_DTYPE)
            iov = np.zeros((GSO_IOV_MAX, 2), np.uint64)
            assert gso_segment(headers, meta, i, 0, rows, out, iov) == total
            frames += [frame_of(rows[k], out[k]) for k in range(total)]
        return flows


def batch_of(frames, in_port=IN_PORT):
    return parsed_batch(frames, in_port)


def rebuilt(packet):
    """The packet with its lengths and checksums made anew."""
    for layer in (IP, TCP, UDP):
        if layer in packet:
            del packet[layer].chksum
    for layer, field in ((IP, "len"), (IP, "ihl"), (IPv6, "plen"), (UDP, "len"), (TCP, "dataofs")):
        if layer in packet:
            packet[layer].delfieldval(field)
    return Ether(bytes(packet))
