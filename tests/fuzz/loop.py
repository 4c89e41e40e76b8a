"""The fuzzer's loop: make mutated packets, run the pipeline, have what it did judged.

In:   a Corpus, a FuzzDevice's worker and burst; `state`, STATE_* words.
Not:  what is wrong (judge.py).

Packets are a function of the seed alone.
"""

import numpy as np

from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.burst import Word
from dpu_runtime.kernels.checksum.payload import PIECE_BYTES
from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.layout import (
    BATCH_SIZE,
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    HEADROOM_BYTES,
    PAYLOAD_PIECES_MAX,
)
from dpu_runtime.kernels.octets.memory import (
    address_of,
    copy_memory,
    store_u8,
    store_u64,
)
from dpu_runtime.kernels.octets.wire import put_be16
from dpu_runtime.kernels.offload.virtio_net import VNET_HDR_BYTES
from dpu_runtime.kernels.switch.mac_table import TICK_NS
from dpu_runtime.plane import worker
from dpu_runtime.plane.account import begin_burst
from tests.fuzz.judge import judge_verdicts

STATE_RANDOM = 0  # word of `state`: of the generator, never 0
STATE_PACKETS = 1  # made so far; also read by the parent process when this one is dead
STATE_WORDS = 2

_PACKET_NS = np.uint64(TICK_NS // (64 * BATCH_SIZE))
_DST_AT = HEADROOM_BYTES
_SRC_AT = HEADROOM_BYTES + 6
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
def make_burst(state, corpus, ends, headers, meta, port, ports):
    """Make a burst of 1..BATCH_SIZE packets as the driver of `port` would deliver it; returns how many.

    state  uint64[STATE_WORDS]    in/out
    ends   uint64[BATCH_SIZE, 2]  addresses behind the room of each payload, and of its list of pieces
    ports  int                    packets are for hosts on those below
    """
    count = 1 + below(state, BATCH_SIZE)
    stream = below(state, 2) == 1
    frame = target = np.int64(0)
    for i in range(count):
        fresh = i == 0 or not stream or below(state, 32) == 0
        if fresh:
            frame = corpus.picks[below(state, len(corpus.picks))]
            target = below(state, ports)
        else:
            frame = (frame + 1) % len(corpus.starts)
        meta[i]["in_port"] = port
        _make_packet(state, corpus, ends, headers, meta[i], i, frame, fresh, target)
    state[STATE_PACKETS] += np.uint64(count)
    return count


@kernel
def fuzz(w, burst, judge, corpus, ends, state, ports, packets):
    """Run at least `packets` mutated packets through the pipeline; stops at a violation.

    Returns packets of the last burst.
    """
    end = state[STATE_PACKETS] + np.uint64(packets)
    count = np.int64(0)
    bursts = np.int64(0)
    while state[STATE_PACKETS] < end:
        port = below(state, ports)
        count = make_burst(state, corpus, ends, burst.headers, burst.meta, port, ports)
        judge.counters[port, PortCounter.RX_PACKETS] += np.uint64(count)
        # a burst is 1/64 of a tick: addresses age while the fuzzer runs
        burst.words[Word.COARSE_NS] = state[STATE_PACKETS] * _PACKET_NS
        begin_burst(burst, bursts)
        worker.pipeline(w, burst, port, count)
        bursts += 1
        if judge_verdicts(burst, count, judge):
            break
    return count
