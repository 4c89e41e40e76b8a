"""One call of gro_merge over a batch, and what the far side makes of the result."""

import numpy as np
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from dpu_runtime.kernels.checksum.internet import complete_checksum
from dpu_runtime.kernels.layout import (
    BATCH_SIZE,
    HEADER_BYTES,
    META_DTYPE,
    PAYLOAD_PIECES_MAX,
    PORT_DTYPE,
    PORT_RX_GRO,
    PORT_TX_CSUM,
    PORT_TX_TSO4,
    PORT_TX_TSO6,
    PORT_TX_USO,
    ROW_BYTES,
    VERDICT_MERGED,
)
from dpu_runtime.kernels.offload.gro import GRO_DTYPE, GRO_IOV_MAX, gro_merge
from dpu_runtime.kernels.offload.segment import GSO_IOV_MAX, gso_segment, gso_segment_count
from tests.kernels.batches import FILL
from tests.kernels.fields import parsed_batch
from tests.kernels.offload.streams import LAYER3, MACS, cut, frame_of, octets, tcp
from tests.kernels.pieces import pieces_of

IN_PORT, OTHER_IN_PORT, PLAIN_IN_PORT, OUT_PORT = 1, 2, 3, 0
ALL_FLAGS = PORT_TX_CSUM | PORT_TX_TSO4 | PORT_TX_TSO6 | PORT_TX_USO
PIECES_FEW = 17  # of a payload, so that a list has place for all packets of the longest runs here
GUARD_ENTRIES = 4
_FILL = 0xA5A5A5A5A5A5A5A5


class Merge:
    """One call of gro_merge over all packets of a batch, with guard entries behind the room for lists.

    used  entries of it in use
    """

    def __init__(self, batch, out_flags=ALL_FLAGS, room=GRO_IOV_MAX, order=None):
        n = len(batch.meta)
        ports = np.zeros(4, PORT_DTYPE)
        ports["flags"] = [out_flags, PORT_RX_GRO, PORT_RX_GRO, 0]
        memory = np.full((room + GUARD_ENTRIES, 2), _FILL, np.uint64)
        self.iov = memory[:room]
        self.batch = batch
        indices = np.array(range(n) if order is None else order, np.uint16)
        count = len(indices)
        gro = np.frombuffer(bytes([FILL]) * (n * GRO_DTYPE.itemsize), GRO_DTYPE).copy()
        left = gro_merge(batch.headers, batch.meta, indices, count, ports, OUT_PORT, self.iov, gro)
        assert (memory[room:] == _FILL).all()
        self.order = [int(i) for i in indices[:left]]
        merged = [i for i in range(n) if batch.meta[i]["verdict"] == VERDICT_MERGED]
        assert len(merged) == count - left
        assert not set(merged) & set(self.order)
        self.used = self._check_lists()

    def _check_lists(self):
        """Lists lie one behind the other, a free entry in front of each; returns the entries in use."""
        end = 0
        base = self.iov.ctypes.data
        for i in self.order:
            m = self.batch.meta[i]
            if not base <= int(m["payload_iov"]) <= base + self.iov.nbytes:
                continue
            assert int(m["payload_iov"]) == base + 16 * (end + 1)
            assert (self.iov[end] == _FILL).all()
            count = len(pieces_of(m))
            assert 1 <= count <= PAYLOAD_PIECES_MAX
            end += 1 + count
        assert (self.iov[end:] == _FILL).all()
        return end

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


def batch_of(frames, in_port=IN_PORT, pieces_max=PIECES_FEW):
    """A parsed Batch; where its payloads are in pieces, each is in no more than `pieces_max`."""
    batch = parsed_batch(frames, in_port)
    for i, frame in enumerate(frames):
        batch.lay_payload(i, bytes(frame)[HEADER_BYTES:], pieces_max=pieces_max)
    return batch


def merged_stream(size):
    """A full batch of TCP segments, merged: (Merge, octets of the one packet that is left)."""
    headers = Ether(**MACS) / LAYER3["v4"]() / tcp()
    data = octets(size * BATCH_SIZE)
    merge = Merge(batch_of(cut(headers, data, size)))
    assert merge.order == [0]
    whole = frame_of(merge.batch.headers[0], merge.batch.meta[0])
    assert whole[-len(data) :] == data
    return merge, whole


def rebuilt(packet):
    """The packet with its lengths and checksums made anew."""
    for layer in (IP, TCP, UDP):
        if layer in packet:
            del packet[layer].chksum
    for layer, field in ((IP, "len"), (IP, "ihl"), (IPv6, "plen"), (UDP, "len"), (TCP, "dataofs")):
        if layer in packet:
            packet[layer].delfieldval(field)
    return Ether(bytes(packet))
