"""What the fuzzer finds wrong: of packets on their way to a port, and of those that got a verdict.

In:   bursts, and a Judge.   Out: VIOLATIONS, counted in it.
Not:  the accounting identity, which the caller checks between chunks.
"""

from collections import namedtuple

import numpy as np

from dpu_runtime.drivers.entry import Op, entry
from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.checksum.payload import PIECE_BYTES
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.layout import (
    BATCH_SIZE,
    PORT_TX_CSUM,
    PORT_UP,
    ROW_BYTES,
    VERDICT_DROP,
    VERDICT_MERGED,
    VERDICT_PASS,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_NONE,
)
from dpu_runtime.kernels.octets.memory import load_u8, load_u64, store_u64
from dpu_runtime.kernels.offload.virtio_net import VNET_HDR_BYTES
from dpu_runtime.plane.back import takes_gso

VIOLATIONS = (
    "frame begins in front of the room for its virtio-net header",
    "frame ends behind its row",
    "frame is empty or has a negative length",
    "frame_len is not what lies in row and payload",
    "checksum owed to a port that does not take it",
    "owed checksum lies outside the frame's headers",
    "GSO packet for a port that does not take it",
    "GSO packet without a size or an owed checksum",
    "frame exceeds the port's MTU",
    "frame leaves at the port it came from",
    "frame leaves at a port that is down",
    "verdict is none",
    "packet dropped without a reason",
    "parsed offsets lie outside the packet",
    "more packets to send than a burst has",
)
(
    BAD_BEGIN,
    BAD_END,
    BAD_EMPTY,
    BAD_LENGTH,
    BAD_OWED,
    BAD_CSUM_PLACE,
    BAD_GSO,
    BAD_GSO_SIZE,
    BAD_MTU,
    BAD_HAIRPIN,
    BAD_DOWN,
    BAD_VERDICT,
    BAD_REASON,
    BAD_OFFSETS,
    BAD_COUNT,
) = range(len(VIOLATIONS))

Judge = namedtuple(
    "Judge",
    [
        "counters",  # uint64[PORTS_MAX, PORT_COUNTER_COUNT], this worker's of every port
        "reasons",  # uint8[256], 1: packets may be dropped for this reason
        "violations",  # uint64[len(VIOLATIONS)], how often each was found
        "seen",  # uint64[1], of the octets read: what is read must be used
    ],
)

_ETHERNET_BYTES = 14
_TAG_BYTES = 4


@helper
def _judge_offload(m, flags, bad):
    """Judge what the port has to finish: it must have agreed to, and be able to."""
    gso = m["gso_type"] != VIRTIO_NET_HDR_GSO_NONE
    owed = m["offload"] & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0
    if owed and not flags & PORT_TX_CSUM:
        bad[BAD_OWED] += np.uint64(1)
    csum_start, csum_offset = np.int64(m["csum_start"]), np.int64(m["csum_offset"])
    if owed and (csum_start < m["l2_offset"] or csum_start + csum_offset + 2 > m["header_end"]):
        bad[BAD_CSUM_PLACE] += np.uint64(1)
    if gso and not takes_gso(flags, m):
        bad[BAD_GSO] += np.uint64(1)
    if gso and (m["gso_size"] == 0 or not owed or m["l5_offset"] <= m["l2_offset"]):
        bad[BAD_GSO_SIZE] += np.uint64(1)


@helper
def _judge_frame(m, port, flags, mtu, bad):
    """Judge where the frame lies and how long it is."""
    l2, end = np.int64(m["l2_offset"]), np.int64(m["header_end"])
    payload_len, frame_len = np.int64(m["payload_len"]), np.int64(m["frame_len"])
    if l2 < VNET_HDR_BYTES:
        bad[BAD_BEGIN] += np.uint64(1)
    if end > ROW_BYTES:
        bad[BAD_END] += np.uint64(1)
    if end <= l2:
        bad[BAD_EMPTY] += np.uint64(1)
    if frame_len != end - l2 + payload_len:
        bad[BAD_LENGTH] += np.uint64(1)
    l3_len = frame_len - _ETHERNET_BYTES - _TAG_BYTES * np.int64(m["tags"])
    if m["gso_type"] != VIRTIO_NET_HDR_GSO_NONE:
        l3_len = np.int64(m["l5_offset"]) - np.int64(m["l3_offset"]) + np.int64(m["gso_size"])
    if l3_len > mtu:
        bad[BAD_MTU] += np.uint64(1)
    if np.int64(m["in_port"]) == port:
        bad[BAD_HAIRPIN] += np.uint64(1)
    if not flags & PORT_UP:
        bad[BAD_DOWN] += np.uint64(1)


@helper
def _touch_payload(m, bad):
    """Read both ends of each piece, and write in front of their list as a driver may."""
    left, seen = np.uint64(m["payload_len"]), np.uint64(0)
    addr, size, entry = np.uint64(m["payload_addr"]), left, np.uint64(m["payload_iov"])
    if entry:
        store_u64(entry - PIECE_BYTES, np.uint64(0))
    while left:
        if entry:
            addr, size = load_u64(entry), load_u64(entry + np.uint64(8))
            entry += PIECE_BYTES
        if size == 0 or size > left:
            bad[BAD_LENGTH] += np.uint64(1)
            return seen
        seen += np.uint64(load_u8(addr)) + np.uint64(load_u8(addr + size - np.uint64(1)))
        left -= size
    return seen


@entry(Op.TX)
def checked_tx(burst, io, port, first, end):
    """Stand in for a null port's TX: judge `packets[first:end]`, touch all that a driver would read.

    io  Judge
    """
    flags, mtu = burst.ports[port]["flags"], np.int64(burst.ports[port]["mtu"])
    if end - first > BATCH_SIZE:
        io.violations[BAD_COUNT] += np.uint64(1)
    octets = seen = np.uint64(0)
    for k in range(first, end):
        i = np.int64(burst.packets[k])
        m = burst.meta[i]
        _judge_frame(m, port, flags, mtu, io.violations)
        _judge_offload(m, flags, io.violations)
        seen += np.uint64(burst.headers[i, m["l2_offset"]]) + _touch_payload(m, io.violations)
        octets += np.uint64(m["frame_len"])
    io.seen[0] = seen
    counters = io.counters[port]
    counters[PortCounter.TX_PACKETS] += np.uint64(end - first)
    counters[PortCounter.TX_BYTES] += octets
    counters[PortCounter.TX_CALLS] += np.uint64(1)


@helper
def _offsets_inside(m):
    """Whether the layers that were parsed follow each other and end inside the packet."""
    l3, l4, l5 = np.int64(m["l3_offset"]), np.int64(m["l4_offset"]), np.int64(m["l5_offset"])
    header_end = np.int64(m["header_end"])
    if l3 <= np.int64(m["l2_offset"]) or l3 > header_end:
        return False
    if l3 + np.int64(m["l3_len"]) > header_end + np.int64(m["payload_len"]):
        return False
    return l4 == 0 or l3 < l4 < l5 <= header_end


@helper
def judge_verdicts(burst, count, judge):
    """Judge what is said of the first `count` packets in the end; returns violations of any kind."""
    bad = judge.violations
    for i in range(count):
        m = burst.meta[i]
        verdict, reason = m["verdict"], m["drop_reason"]
        if verdict not in (VERDICT_PASS, VERDICT_DROP, VERDICT_MERGED):
            bad[BAD_VERDICT] += np.uint64(1)
        if verdict == VERDICT_DROP and judge.reasons[reason] == 0:
            bad[BAD_REASON] += np.uint64(1)
        if verdict == VERDICT_PASS and not _offsets_inside(m):
            bad[BAD_OFFSETS] += np.uint64(1)
    total = np.uint64(0)
    for k in range(len(VIOLATIONS)):
        total += bad[k]
    return total
