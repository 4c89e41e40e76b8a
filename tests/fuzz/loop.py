"""The fuzzer's compiled half: make mutated packets, run the pipeline, look at what it sends.

In:   a Corpus, a FuzzDevice's worker, tables and batch; `state`, STATE_* words.
Out:  VIOLATIONS, counted in the words behind VIOLATIONS_AT of the batch's iov.
Not:  the accounting identity, which the caller checks between chunks.

Packets are a function of the seed alone. All compiled code of the fuzzer is here.
"""

import numpy as np

from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.checksum.payload import PIECE_BYTES
from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import (
    BATCH_SIZE,
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    HEADROOM_BYTES,
    PAYLOAD_PIECES_MAX,
    PORT_TX_CSUM,
    PORT_UP,
    ROW_BYTES,
    VERDICT_DROP,
    VERDICT_MERGED,
    VERDICT_PASS,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_NONE,
)
from dpu_runtime.kernels.octets.memory import (
    address_of,
    copy_memory,
    cycles,
    load_u8,
    load_u64,
    store_u8,
    store_u64,
)
from dpu_runtime.kernels.octets.wire import put_be16
from dpu_runtime.kernels.offload.virtio_net import VNET_HDR_BYTES
from dpu_runtime.kernels.switch.mac_table import TICKS_PER_SECOND
from dpu_runtime.plane import egress, worker

STATE_RANDOM = 0  # word of `state`: of the generator, never 0
STATE_PACKETS = 1  # made so far; also read by the parent process when this one is dead
STATE_WORDS = 2
# the batch's iov, whose first four words are the drivers'
PORT_FLAGS_AT, MTU_AT, VIOLATIONS_AT, IOV_WORDS = 16, 64, 112, 128

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
) = range(len(VIOLATIONS))

_ETHERNET_BYTES = 14
_TAG_BYTES = 4
_DST_AT = HEADROOM_BYTES
_SRC_AT = HEADROOM_BYTES + 6
_REASON_MAX = int(max(Drop))
_INTERESTING = np.array([0, 1, 2, 3, 7, 8, 20, 40, 127, 128, 255, 256, 257, 1500, 0x7FFF, 0x8000, 0xFFFF])


@helper
def random_word(state):
    """Next number of xorshift64* (Vigna 2016), uint64."""
    x = state[STATE_RANDOM]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    state[STATE_RANDOM] = x
    return x * np.uint64(0x2545F4914F6CDD1D)


@helper
def below(state, limit):
    """Return a random integer, 0 <= it < limit."""
    return np.int64(random_word(state) >> np.uint64(33)) % np.int64(limit)


@helper
def _interesting(state, length):
    """Return a 16-bit number that is at or near a bound, or any."""
    kind = below(state, 4)
    if kind == 0:
        return below(state, 0x10000)
    if kind == 1:
        return max(length - below(state, 80), 0) & 0xFFFF
    if kind == 2:
        return _INTERESTING[below(state, len(_INTERESTING))]
    return below(state, 80)


@helper
def _put_host(row, at, number):
    """Write corpus.host_mac(number)."""
    put_be16(row, at, 0x0200)
    put_be16(row, at + 2, 0)
    put_be16(row, at + 4, 0x100 + number)


@helper
def _mutate_header(state, row, length):
    """One change to the octets of the frame that lie in the row."""
    front = min(length, HEADER_BYTES)
    at = HEADROOM_BYTES + below(state, front if below(state, 2) else min(front, 64))
    kind = below(state, 4)
    if kind == 0:
        row[at] ^= np.uint8(1 << below(state, 8))
    elif kind == 1:
        row[at] = np.uint8(below(state, 256))
    elif at + 1 < HEADROOM_BYTES + front:
        put_be16(row, at, _interesting(state, length))
    if below(state, 200) == 0:
        for octet in range(at, HEADROOM_BYTES + front):
            row[octet] = np.uint8(below(state, 256))


@helper
def _mutate_vnet(state, row, length):
    """One field of the virtio-net header, which a hostile guest writes as it likes."""
    at = HEADROOM_BYTES - VNET_HDR_BYTES
    field = below(state, 6)
    value = _interesting(state, length)
    if field == 0:
        row[at] = np.uint8(below(state, 4) if below(state, 4) else value & 0xFF)
    elif field == 1:
        row[at + 1] = np.uint8(below(state, 6) | (below(state, 2) << 7) if below(state, 4) else value & 0xFF)
    else:  # hdr_len, gso_size, csum_start, csum_offset: little-endian
        row[at + 2 * field - 2] = np.uint8(value & 0xFF)
        row[at + 2 * field - 1] = np.uint8(value >> 8)


@helper
def _splice(state, corpus, row, length):
    """Continue the frame, from anywhere in the row, with another frame's octets."""
    other = corpus.picks[below(state, len(corpus.picks))]
    front = min(length, HEADER_BYTES)
    at = below(state, front)
    source = corpus.starts[other] + below(state, min(corpus.lengths[other], HEADER_BYTES))
    for k in range(front - at):
        row[HEADROOM_BYTES + at + k] = corpus.data[source + k]


@helper
def _new_length(state, length):
    """Cut the frame short, or let it run on into what follows it in the corpus."""
    if below(state, 2):
        return 1 + below(state, min(length, HEADER_BYTES if below(state, 2) else FRAME_BYTES_MAX))
    more = 64 if below(state, 8) else FRAME_BYTES_MAX
    return min(length + below(state, more), FRAME_BYTES_MAX)


@helper
def _cut_payload(state, m, list_end):
    """Let one payload in four lie in pieces, some of them short; their list ends at `list_end`."""
    left = np.int64(m["payload_len"])
    m["payload_iov"] = 0
    if left == 0 or below(state, 4):
        return
    pieces = 1 + below(state, min(left, PAYLOAD_PIECES_MAX if below(state, 2) else 4))
    addr, entry = np.uint64(m["payload_addr"]), list_end - np.uint64(pieces) * PIECE_BYTES
    m["payload_addr"], m["payload_iov"] = 0, entry
    for later in range(pieces - 1, -1, -1):
        most = min(left - later, 9 if below(state, 2) else FRAME_BYTES_MAX)
        size = 1 + below(state, most) if later > 0 else left
        store_u64(entry, addr)
        store_u64(entry + np.uint64(8), np.uint64(size))
        entry += PIECE_BYTES
        addr += np.uint64(size)
        left -= size


@helper
def _make_packet(state, corpus, ends, headers, m, i, frame, fresh, target):
    """Write packet `i` from corpus frame `frame`; a packet that is not `fresh` continues a stream."""
    row = headers[i]
    start, length = corpus.starts[frame], corpus.lengths[frame]
    copy_memory(
        address_of(row) + np.uint64(HEADROOM_BYTES),
        address_of(corpus.data) + np.uint64(start),
        np.uint64(HEADER_BYTES),
    )
    for k in range(VNET_HDR_BYTES):
        row[HEADROOM_BYTES - VNET_HDR_BYTES + k] = corpus.vnet[frame, k]
    if not fresh or below(state, 4):
        _put_host(row, _SRC_AT, np.int64(m["in_port"]))
    if not fresh or below(state, 2):
        _put_host(row, _DST_AT, target)
    if fresh and below(state, 16) == 0:
        put_be16(row, _SRC_AT + 2, below(state, 0x10000))  # the MAC table fills
    if fresh and below(state, 8) > 2:
        for _ in range(1 + below(state, 4)):
            kind = below(state, 8)
            if kind == 0:
                length = _new_length(state, length)
            elif kind == 1:
                _splice(state, corpus, row, length)
            elif kind <= 3:
                _mutate_vnet(state, row, length)
            else:
                _mutate_header(state, row, length)
    in_row = min(length, HEADER_BYTES)
    behind = length - in_row
    payload = ends[i, 0] - np.uint64(behind)
    copy_memory(payload, address_of(corpus.data) + np.uint64(start + in_row), np.uint64(behind))
    if behind > 0 and fresh and below(state, 4) == 0:
        store_u8(payload + np.uint64(below(state, behind)), random_word(state))
    m["payload_addr"] = payload
    m["payload_len"], m["frame_len"] = behind, length
    m["l2_offset"], m["header_end"] = HEADROOM_BYTES, HEADROOM_BYTES + in_row
    _cut_payload(state, m, ends[i, 1])


@kernel
def make_burst(state, corpus, ends, headers, meta, ports):
    """Make a burst of 1..BATCH_SIZE packets as a driver would deliver it; returns how many.

    state  uint64[STATE_WORDS]    in/out
    ends   uint64[BATCH_SIZE, 2]  addresses behind the room of each payload, and of its list of pieces
    ports  int                    in_port is below
    """
    count = 1 + below(state, BATCH_SIZE)
    stream = below(state, 2) == 1
    frame = source = target = np.int64(0)
    for i in range(count):
        fresh = i == 0 or not stream or below(state, 32) == 0
        if fresh:
            frame = corpus.picks[below(state, len(corpus.picks))]
            source, target = below(state, ports), below(state, ports)
        else:
            frame = (frame + 1) % len(corpus.starts)
        meta[i]["in_port"] = source
        _make_packet(state, corpus, ends, headers, meta[i], i, frame, fresh, target)
    state[STATE_PACKETS] += np.uint64(count)
    return count


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
    if gso and not egress.takes_gso(flags, m):
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


@helper
def judge_burst(port, headers, meta, order, count, iov, counters):
    """Judge packets `order[:count]` on their way to a port, touch all that it would read."""
    flags, mtu = np.uint32(iov[PORT_FLAGS_AT + port]), np.int64(iov[MTU_AT + port])
    bad = iov[VIOLATIONS_AT:]
    octets = seen = np.uint64(0)
    for k in range(count):
        i = np.int64(order[k])
        m = meta[i]
        _judge_frame(m, port, flags, mtu, bad)
        _judge_offload(m, flags, bad)
        seen += np.uint64(headers[i, m["l2_offset"]]) + _touch_payload(m, bad)
        octets += np.uint64(m["frame_len"])
    iov[0] = seen  # what is read must be used
    counters[PortCounter.TX_PACKETS] += np.uint64(count)
    counters[PortCounter.TX_BYTES] += octets
    counters[PortCounter.TX_CALLS] += np.uint64(1)


@kernel
def checked_tx(io, port, headers, meta, order, count, counters, drops):
    """Stand in for a null port's TX."""
    judge_burst(port, headers, meta, order, count, io.iov, counters)


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
def _judge_verdicts(meta, count, bad):
    """Judge what is said of each packet in the end; returns violations of any kind."""
    for i in range(count):
        m = meta[i]
        verdict, reason = m["verdict"], m["drop_reason"]
        if verdict not in (VERDICT_PASS, VERDICT_DROP, VERDICT_MERGED):
            bad[BAD_VERDICT] += np.uint64(1)
        if verdict == VERDICT_DROP and (reason == 0 or reason > _REASON_MAX):
            bad[BAD_REASON] += np.uint64(1)
        if verdict == VERDICT_PASS and not _offsets_inside(m):
            bad[BAD_OFFSETS] += np.uint64(1)
    total = np.uint64(0)
    for k in range(len(VIOLATIONS)):
        total += bad[k]
    return total


@kernel
def fuzz(w, shared, batch, corpus, ends, state, ports, packets):
    """Run at least `packets` mutated packets through the pipeline; stops at a violation.

    Returns packets of the last burst.
    """
    end = state[STATE_PACKETS] + np.uint64(packets)
    bad = batch.iov[VIOLATIONS_AT:]
    count = np.int64(0)
    while state[STATE_PACKETS] < end:
        count = make_burst(state, corpus, ends, batch.headers, batch.meta, ports)
        for i in range(count):
            counters = shared.port_counters[w.number, np.int64(batch.meta[i]["in_port"])]
            counters[PortCounter.RX_PACKETS] += np.uint64(1)
        # a burst is 1/64 of a tick: addresses age while the fuzzer runs
        now_ticks = state[STATE_PACKETS] // np.uint64(BATCH_SIZE * 64 // TICKS_PER_SECOND)
        worker.pipeline(w, shared, batch, count, now_ticks, cycles())
        if _judge_verdicts(batch.meta, count, bad):
            break
    return count
