"""Rate limits: a packet passes while its port's token bucket holds anything, else it is dropped.

Spec: RFC 2697 with one bucket and two colours; written as the virtual scheduling algorithm of ITU-T
      I.371 annex A, which is the same bucket with one word of state: the time at which everything that
      passed so far is paid for at the rate. It is never further back than the burst takes (a full bucket);
      when it lies in the future, the bucket is empty.
In:   verdict, frame_len, gso_type, gso_size, l2_offset, l5_offset; the time.
Out:  verdict and drop_reason, or a shorter `order`.
Not:  queues: what exceeds the rate is lost, not late. Colours that come with a packet.

Counted are the octets of frames from the Ethernet header on, without FCS, as Linux tc counts them; a GSO
packet counts as the segments it will be cut into, headers and all (Linux qdisc_pkt_len_init). The last
packet may take more than the bucket holds, and leaves it in debt. So the rate holds in the long run for large
packets as for small ones, and a GSO packet larger than the bucket is not refused for ever: in a time T at
most rate * T + burst + one packet pass.

Workers share a row without a lock. Each judges its burst by the time it read and adds what passed with a
compare-and-exchange. Two that judge at once may both find the same tokens; both are charged, so the
next packets pay.
"""

import numpy as np

from dpu_runtime.kernels.burst import EGRESS, Word
from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.layout import VIRTIO_NET_HDR_GSO_NONE
from dpu_runtime.kernels.meter.table import COST_SHIFT, RX, TIME_SHIFT, TX, WORD_COST, WORD_DEPTH, WORD_PAID
from dpu_runtime.kernels.octets.memory import compare_exchange, load_acquire
from dpu_runtime.kernels.stage import drop

CHARGE_TRIES = 64  # each failure is another worker's success

assert (RX, TX) == (0, 1), "places in the function's drops"
_0 = np.uint64(0)
_1 = np.uint64(1)
_TIME_SHIFT = np.uint64(TIME_SHIFT)
_COST_SHIFT = np.uint64(COST_SHIFT)


@helper
def metered_bytes(record):
    """Octets that packet of meta `record` counts."""
    frame_len = np.uint64(record["frame_len"])
    size = np.uint64(record["gso_size"])
    header_bytes = np.uint64(record["l5_offset"]) - np.uint64(record["l2_offset"])
    if record["gso_type"] == VIRTIO_NET_HDR_GSO_NONE or size == _0 or header_bytes >= frame_len:
        return frame_len
    segments = (frame_len - header_bytes + size - _1) // size
    return frame_len + (segments - _1) * header_bytes


@helper
def paid_time(words, now):
    """Time up to which the row's octets are paid, at `now`: no earlier than a full bucket says."""
    full = now - min(now, words[WORD_DEPTH])
    return max(load_acquire(words, WORD_PAID), full)


@helper
def duration(words, octets):
    """Time that `octets` take at the row's rate."""
    return (octets * words[WORD_COST]) >> _COST_SHIFT


@helper
def charge_meter(words, now, octets):
    """Book `octets` that passed."""
    for _ in range(CHARGE_TRIES):
        seen = load_acquire(words, WORD_PAID)
        full = now - min(now, words[WORD_DEPTH])
        if compare_exchange(words, WORD_PAID, seen, max(seen, full) + duration(words, octets)):
            return


@kernel
def limit(burst, state, port, count):
    """Drop what exceeds the limit of the port the packets came from, or at egress of the one they leave by.

    burst  Burst                in meta, words[NOW_NS], a clock that does not go back; in/out packets
    state  State, METER_LAYOUT  tables.meters[port, RX or TX], in/out

    Returns packets left.
    """
    way = TX if burst.words[Word.HOOK] == EGRESS else RX
    words = state.tables.meters[port, way]
    now = burst.words[Word.NOW_NS] << _TIME_SHIFT
    paid = paid_time(words, now)
    octets = _0
    kept = _0
    for k in range(np.uint64(count)):
        packet = np.uint64(burst.packets[k])
        if paid + duration(words, octets) < now:
            octets += metered_bytes(burst.meta[packet])
            burst.packets[kept] = packet
            kept += _1
        else:
            drop(burst, state, packet, way)
    if octets:
        charge_meter(words, now, octets)
    return np.int64(kept)
